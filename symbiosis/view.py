"""A park as `symbiosis check` looks at it: what stands where, looked up once; and what it has to say.

Not here: what is odd (`symbiosis.advice`, `symbiosis.advice_states`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from park.model import Exchange, Meter, Park, Stream

T = TypeVar("T")

SHORT_LIST = 8  # as many ids stand in one line


@dataclass(frozen=True)
class Advice:
    """One oddity: of what, and what would help."""

    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


@dataclass(frozen=True)
class View:
    """A checked park, with its meters by stream and its streams by node."""

    park: Park

    @cached_property
    def _meters(self) -> dict[str, list[Meter]]:
        return _by((stream, meter) for meter in self.park.meters for stream in meter.signed_streams)

    @cached_property
    def _streams(self) -> dict[str, list[Stream]]:
        ends = ((end, stream) for stream in self.park.streams for end in {stream.from_node, stream.to_node})
        return _by(ends)

    def meters_on(self, stream: str) -> list[Meter]:
        """Return the meters that see a stream, those of signed sets too."""
        return self._meters.get(stream, [])

    def streams_at(self, node: str) -> list[Stream]:
        """Return the streams that lead to or from a node."""
        return self._streams.get(node, [])

    def streams_of(self, exchange: Exchange) -> list[Stream]:
        """Return the streams that an exchange sums."""
        return [self.park.stream[stream] for stream in exchange.signed_streams]

    def meters_of(self, stream: str, name: str) -> list[Meter]:
        """Return the meters of a quality property of one stream."""
        return [m for m in self.meters_on(stream) if m.property_name == name and m.stream == stream]


def _by(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def of(kind: str, identity: str, message: str) -> Advice:
    """Return advice on one entry."""
    return Advice(f"{kind} {identity!r}", message)


def listed(kind: str, identities: list[str]) -> str:
    """Name entries as the subject of an advice."""
    return f"{kind} {identities[0]!r}" if len(identities) == 1 else f"{len(identities)} {kind}s ({short(identities)})"


def named(kind: str, identities: list[str]) -> str:
    """Name entries inside a sentence."""
    return f"{kind} {identities[0]!r}" if len(identities) == 1 else f"{kind}s {short(identities)}"


def short(identities: list[str]) -> str:
    """Return a few ids, and how many more there are."""
    more = f" and {len(identities) - SHORT_LIST} more" if len(identities) > SHORT_LIST else ""
    return ", ".join(identities[:SHORT_LIST]) + more
