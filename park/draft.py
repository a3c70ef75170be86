"""A park as its files give it, before anyone trusts it: entries, where each stands, and which of their keys are wrong.

Here are `Draft` and `Item`, on which the checks of `park.checks` run, so that a fault of one key hides no fault of
another. Not here: the checks, and the reading of files (`park.load`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, KeysView, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

from park.brokers import MqttBroker
from park.entry import Entry
from park.errors import Fault
from park.model import ENVIRONMENT, Exchange, Meter, Node, ParkInfo, Participant, Stream
from park.servers import OpcuaServer
from park.wording import Speller, dotted

Path = tuple[str | int, ...]
E = TypeVar("E", bound=Entry, covariant=True)


@dataclass(frozen=True)
class Item(Generic[E]):
    """One entry of a file.

    Parameters
    ----------
    entry
        The entry; keys that are wrong are left out of it, or stand in it with a value that means nothing.
    subject
        How messages name it: ``meter 'power.FT101'``.
    file
        Name of the file as messages write it.
    line
        Tells the line of a path inside the entry.
    wrong
        The paths that already have a fault.
    prefix
        What its paths lack to those of the model: a column ``opcua.endpoint`` is the key ``source.opcua.endpoint``.
    """

    entry: E
    subject: str
    file: str
    line: Callable[[Path], int]
    wrong: frozenset[Path] = frozenset()
    prefix: str = ""

    def sound(self, *paths: str | Path) -> bool:
        """Return whether nothing at or below any of `paths` (or top keys) already has a fault."""
        if not self.wrong:
            return True
        heads = [(path,) if isinstance(path, str) else path for path in paths]
        return not any(wrong[: len(head)] == head for wrong in self.wrong for head in heads)

    def fault(self, path: Path, message: str, hint: str = "") -> Fault:
        """Return a fault that stands at `path` inside the entry."""
        return Fault(self.file, self.line(path), self.subject, message, hint)

    def key_fault(self, path: Path, clause: str, hint: str = "") -> Fault:
        """Return a fault whose message is the key at `path`, then `clause`."""
        return self.fault(path, f"{dotted(path).removeprefix(self.prefix)} {clause}", hint)


@dataclass
class Draft:
    """All entries of a park's files, sound or not, every fault found so far, and the sections that are no lists."""

    info: Item[ParkInfo] | None = None
    participants: list[Item[Participant]] = field(default_factory=list)
    nodes: list[Item[Node]] = field(default_factory=list)
    streams: list[Item[Stream]] = field(default_factory=list)
    meters: list[Item[Meter]] = field(default_factory=list)
    exchanges: list[Item[Exchange]] = field(default_factory=list)
    servers: list[Item[OpcuaServer]] = field(default_factory=list)
    brokers: list[Item[MqttBroker]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    wrong_sections: set[str] = field(default_factory=set)
    speller: Speller = field(default_factory=Speller)
    _ids: dict[tuple[str, ...], dict[str, None]] = field(default_factory=dict)

    @cached_property
    def participant(self) -> dict[str, Item[Participant]]:
        """Participants by id."""
        return _by_id(self.participants)

    @cached_property
    def node(self) -> dict[str, Item[Node]]:
        """Nodes by id."""
        return _by_id(self.nodes)

    @cached_property
    def stream(self) -> dict[str, Item[Stream]]:
        """Streams by id."""
        return _by_id(self.streams)

    @cached_property
    def meter(self) -> dict[str, Item[Meter]]:
        """Meters by id."""
        return _by_id(self.meters)

    @cached_property
    def exchange(self) -> dict[str, Item[Exchange]]:
        """Exchanges by id."""
        return _by_id(self.exchanges)

    @cached_property
    def server(self) -> dict[str, Item[OpcuaServer]]:
        """OPC UA servers by id."""
        return _by_id(self.servers)

    @cached_property
    def broker(self) -> dict[str, Item[MqttBroker]]:
        """MQTT brokers by id."""
        return _by_id(self.brokers)

    def ids(self, *sections: str) -> KeysView[str]:
        """Return the ids of the sections."""
        if sections not in self._ids:
            self._ids[sections] = {
                key: None for section in sections for key in getattr(self, section.removesuffix("s"))
            }
        return self._ids[sections].keys()

    def participant_at(self, node: str) -> str | None:
        """Return the participant of a node; None for the environment and for a node that is unknown or unsound."""
        item = self.node.get(node)
        return item.entry.participant if item is not None and item.sound("participant") else None

    def place_is_clear(self, node: str) -> bool:
        """Return whether it is known whose the node is: the environment's, or a known participant's."""
        return node == ENVIRONMENT or self.participant_at(node) in self.participant

    def known_streams(self, signed: Collection[str]) -> list[Item[Stream]]:
        """Return those of the streams that there are."""
        return [self.stream[stream] for stream in signed if stream in self.stream]

    @property
    def sections(self) -> tuple[Sequence[Item[Entry]], ...]:
        """The entries that have ids, kind by kind, in the order of the contract's sections."""
        return (self.participants, self.nodes, self.streams, self.meters, self.exchanges, self.servers, self.brokers)

    def every_item(self) -> Iterator[Item[Entry]]:
        """Yield all items, in the order of the contract's sections."""
        if self.info is not None:
            yield self.info
        for items in self.sections:
            yield from items


def _by_id(items: Sequence[Item[E]]) -> dict[str, Item[E]]:
    """Return the items by id; of two with one id the first."""
    found: dict[str, Item[E]] = {}
    for item in items:
        if item.sound("id"):
            found.setdefault(item.entry.id, item)  # type: ignore[attr-defined]
    return found
