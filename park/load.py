"""Reading park.yaml and meters.csv: a `Park`, or every fault of the files at once.

    text ── yaml12.parse ──► values with lines ── pydantic ──► Draft ── checks ──► Park
            meter_table ──►  rows with lines  ──┘   │                    │
                                                    └── faults ──────────┴──► ParkError

The way in is `load_park`. What entries look like is in `park.model`, what must hold between them in `park.checks`,
how faults are said in `park.wording`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from park import draft as drafts
from park.brokers import MqttBroker
from park.checks import find_faults
from park.checks.network import zone
from park.draft import Draft, Item
from park.entry import Entry
from park.errors import Fault, ParkError
from park.meter_table import MeterTable, read_table
from park.model import Exchange, Meter, Node, Park, ParkInfo, Participant, Stream
from park.servers import OpcuaServer
from park.wording import EXAMPLES, clause, show
from park.yaml12 import Document, parse

E = TypeVar("E", bound=Entry)
Keys = tuple[str | int, ...]
Raw = dict[str, object]

SECTIONS = ("park", "participants", "nodes", "streams", "meters", "exchanges", "servers", "brokers")

# Stands in where a key that must be there is wrong, so that the other keys can still be checked; never looked at.
_PLACEHOLDERS: Mapping[str, object] = {
    "id": "?",
    "name": "?",
    "timezone": "UTC",
    "participant": "?",
    "from": "?",
    "to": "?",
    "carrier": "water",
    "quantity": "mass_flow",
    "unit": "kg/s",
    "source": {},
    "endpoint": "?",
    "url": "?",
    "kind": "material",
    "settles": "mass",
}


def load_park(path: str | Path) -> Park:
    """Return the park that a park.yaml describes, with its meters.csv if it names one.

    Parameters
    ----------
    path
        The park.yaml. Other files that it names are relative to it.

    Returns
    -------
    Park
        Checked: every reference leads somewhere, every unit fits, and each meter on a stream has its `side`.

    Raises
    ------
    ParkError
        With every fault of the files, in their order; among them a file that cannot be read.
    """
    with _collector_paused():
        draft = read_draft(Path(path))
        draft.faults.extend(find_faults(draft))
        if draft.faults or draft.info is None:
            raise ParkError(_in_file_order(draft.faults, Path(path).name))
        return _park(draft, draft.info.entry)


def read_draft(path: Path) -> Draft:
    """Return the entries of the files with their places, and the faults of shape; nothing is checked across entries."""
    draft = Draft()
    text = _text(path, path.name, Fault(path.name, 1, "", ""), draft.faults)
    document = parse(text, path.name) if text is not None else None
    if document is None:
        return draft
    draft.faults.extend(document.faults)
    if not isinstance(document.data, dict):
        if not document.faults:
            draft.faults.append(_no_park(document))
        return draft
    _read_sections(draft, document, document.data, path.parent)
    return draft


def _read_sections(draft: Draft, document: Document, data: Raw, folder: Path) -> None:
    for key in data:
        if key not in SECTIONS:
            hint = draft.speller.did_you_mean(key, SECTIONS) or f"known sections are {', '.join(SECTIONS)}"
            draft.faults.append(Fault(document.file, document.line([key]), "", f"unknown key {key!r}", hint))
    reader = _Reader(draft)
    if "park" in data:
        entries = _Entries(document.file, "park", lambda _, path: document.line(["park", *path]))
        draft.info = next(iter(reader.read(ParkInfo, [data["park"]], entries)), None)
        timezone = draft.info.entry.timezone if draft.info and draft.info.sound("timezone") else "UTC"
        reader.zone = zone(timezone) or UTC
    else:
        draft.faults.append(Fault(document.file, 1, "", "park is missing", f"such as {EXAMPLES['park']}"))
    draft.participants = reader.read(Participant, *_section(draft, document, data, "participants"))
    draft.nodes = reader.read(Node, *_section(draft, document, data, "nodes"))
    draft.streams = reader.read(Stream, *_section(draft, document, data, "streams"))
    draft.exchanges = reader.read(Exchange, *_section(draft, document, data, "exchanges"))
    draft.servers = reader.read(OpcuaServer, *_section(draft, document, data, "servers"))
    draft.brokers = reader.read(MqttBroker, *_section(draft, document, data, "brokers"))
    if isinstance(data.get("meters"), dict):
        draft.meters = _read_meter_table(reader, document, data["meters"], folder)
    else:
        draft.meters = reader.read(Meter, *_section(draft, document, data, "meters"))


class _Entries:
    """Where the entries of a section stand and what they are called."""

    def __init__(
        self,
        file: str,
        kind: str,
        line: Callable[[int, Keys], int],
        absent: frozenset[str] = frozenset(),
        prefix: str = "",
    ) -> None:
        self.file, self.kind, self.line, self.absent, self.prefix = file, kind, line, absent, prefix

    def subject(self, index: int, raw: object) -> str:
        """Return how messages name an entry."""
        if self.kind == "park":
            return "park"
        identity = raw.get("id") if isinstance(raw, dict) else None
        return f"{self.kind} {show(identity)}" if identity is not None else f"{self.kind} number {index + 1}"


class _Reader:
    """Turns raw entries into items, and notes what is wrong with their shape."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.zone: tzinfo = UTC

    def read(self, model: type[E], raw_entries: Sequence[object], entries: _Entries) -> list[Item[E]]:
        """Return an item for every entry that is a mapping."""
        items = []
        for index, raw in enumerate(raw_entries):
            item = self._item(model, raw, index, entries)
            if item is not None:
                items.append(item)
        return items

    def _item(self, model: type[E], raw: object, index: int, entries: _Entries) -> Item[E] | None:
        subject = entries.subject(index, raw)

        def line(path: drafts.Path) -> int:
            return entries.line(index, path)

        if not isinstance(raw, dict):
            self._draft.faults.append(
                Fault(
                    entries.file,
                    line(()),
                    subject,
                    f"must be a mapping of keys to values, got {show(raw)}",
                    f"such as {{{EXAMPLES['id']}, ...}}",
                )
            )
            return None
        try:
            return Item(self._validate(model, raw), subject, entries.file, line, prefix=entries.prefix)
        except ValidationError as error:
            errors = _own_errors(error)
        self._note(model, errors, Item(model.model_construct(), subject, entries.file, line), entries)
        entry, wrong = self._pruned(model, raw, errors)
        return Item(entry, subject, entries.file, line, wrong | {(key,) for key in entries.absent}, entries.prefix)

    def _validate(self, model: type[E], raw: Raw) -> E:
        return model.model_validate(raw, context={"zone": self.zone}, by_alias=True, by_name=False)

    def _note(self, model: type[E], errors: Sequence[ErrorDetails], place: Item[E], entries: _Entries) -> None:
        """Add a fault for each of pydantic's errors but for keys that the whole table lacks."""
        for error in errors:
            path = tuple(step for step in error["loc"] if step != "[key]")
            if error["type"] == "missing" and path[0] in entries.absent:
                continue
            message, hint = clause(error, self._draft.speller, keys_at(model, path[:-1]))
            if entries.prefix:  # a table: its columns leave the word out, and examples of YAML do not help
                message = message.replace(entries.prefix, "")
                hint = "fill the cell of that column" if error["type"] == "missing" else hint
            self._draft.faults.append(place.fault(path, message, hint))

    def _pruned(self, model: type[E], raw: Raw, errors: Sequence[ErrorDetails]) -> tuple[E, frozenset[Keys]]:
        """Return the entry without what is wrong, and the paths that were."""
        wrong: set[Keys] = set()
        rest = copy.deepcopy(raw)
        while True:
            for error in errors:
                path = tuple(step for step in error["loc"] if step != "[key]")
                wrong.add(_prune(rest, path, wrong))
            try:
                return self._validate(model, rest), frozenset(wrong)
            except ValidationError as error:
                errors = _own_errors(error)


def _own_errors(error: ValidationError) -> list[ErrorDetails]:
    """Return pydantic's errors but for defaults that follow from other keys, which it does not even try."""
    return [detail for detail in error.errors(include_url=False) if detail["type"] != "default_factory_not_called"]


def _prune(rest: Raw, path: Keys, wrong: set[Keys]) -> Keys:
    """Take what is at `path` out of `rest`; if that was done before, what holds it. Return the path taken out."""
    while len(path) > 1 and (isinstance(path[-1], int) or path in wrong):
        path = path[:-1]
    inner: Any = rest  # whatever YAML gives
    for step in path[:-1]:
        inner = inner.get(step, {}) if isinstance(inner, dict) else inner[step]
    key = path[-1]
    if isinstance(inner, dict):
        inner.pop(key, None)
        if inner is rest and key in _PLACEHOLDERS and path in wrong:
            rest[str(key)] = _PLACEHOLDERS[str(key)]
    return path


def keys_at(model: type[BaseModel], path: Keys) -> list[str]:
    """Return the keys, as a file writes them, of the entry that stands at `path` inside an entry of `model`."""
    for step in path:
        field = next((f for name, f in model.model_fields.items() if (f.alias or name) == step), None)
        if field is not None:
            model = next(iter(_models(field.annotation)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the entries that a type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _section(draft: Draft, document: Document, data: Raw, section: str) -> tuple[list[object], _Entries]:
    """Return the raw entries of a section that is a list, and where they stand."""
    raw = data.get(section)
    if raw is not None and not isinstance(raw, list):
        draft.wrong_sections.add(section)
        hint = "or meters: {csv: meters.csv}" if section == "meters" else "begin each entry with a dash"
        draft.faults.append(
            Fault(document.file, document.line([section]), "", f"{section} must be a list, got {show(raw)}", hint)
        )
    entries = _Entries(
        document.file, section.removesuffix("s"), lambda index, path: document.line([section, index, *path])
    )
    return raw if isinstance(raw, list) else [], entries


def _read_meter_table(reader: _Reader, document: Document, raw: object, folder: Path) -> list[Item[Meter]]:
    """Return the meters of the table that ``meters: {csv: ...}`` names."""
    draft = reader._draft
    place = Fault(document.file, document.line(["meters", "csv"]), "", "")
    name = raw.get("csv") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or set(raw) != {"csv"} or not isinstance(name, str):
        draft.wrong_sections.add("meters")
        draft.faults.append(
            Fault(
                place.file, place.line, "", "meters must be a list or {csv: FILE}", "such as meters: {csv: meters.csv}"
            )
        )
        return []
    text = _text(folder / name, name, place, draft.faults)
    table = MeterTable() if text is None else read_table(text, name, draft.speller)
    if text is None:
        draft.wrong_sections.add("meters")
    draft.faults.extend(table.faults)
    entries = _Entries(name, "meter", lambda index, _: table.rows[index].line, table.absent, prefix="source.")
    return reader.read(Meter, [row.data for row in table.rows], entries)


def _text(path: Path, name: str, place: Fault, faults: list[Fault]) -> str | None:
    """Return the text of a file; if it cannot be read, None and a fault at `place`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        faults.append(
            Fault(place.file, place.line, "", f"there is no file {str(path)!r}", "look at its name and folder")
        )
        return None
    except IsADirectoryError:
        faults.append(
            Fault(
                place.file, place.line, "", f"{str(path)!r} is a folder", f"name the file in it: {path / 'park.yaml'}"
            )
        )
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        faults.append(
            Fault(place.file, place.line, "", f"cannot read {str(path)!r}: {reason}", "look at its permissions")
        )
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        faults.append(Fault(name, line, "", f"not UTF-8: byte 0x{raw[error.start]:02x}", "save the file as UTF-8"))
        return None


def _no_park(document: Document) -> Fault:
    if document.root is None or document.data is None:
        return Fault(document.file, 1, "", "the file is empty", f"begin with {EXAMPLES['park']}")
    return Fault(
        document.file,
        1,
        "",
        f"must be a mapping of sections, got {show(document.data)}",
        f"sections are {', '.join(SECTIONS)}",
    )


def _in_file_order(faults: Sequence[Fault], first: str) -> list[Fault]:
    """Return the faults once each, those of park.yaml first, by line."""
    return sorted(dict.fromkeys(faults), key=lambda fault: (fault.file != first, fault.file, fault.line))


def _park(draft: Draft, info: ParkInfo) -> Park:
    """Return the park of a draft without faults."""
    park = Park.model_construct(
        park=info,
        participants=tuple(item.entry for item in draft.participants),
        nodes=tuple(item.entry for item in draft.nodes),
        streams=tuple(item.entry for item in draft.streams),
        meters=tuple(item.entry for item in draft.meters),
        exchanges=tuple(item.entry for item in draft.exchanges),
        servers=tuple(item.entry for item in draft.servers),
        brokers=tuple(item.entry for item in draft.brokers),
    )
    if all(meter.side is not None or meter.node is not None for meter in park.meters):
        return park
    meters = tuple(
        meter
        if meter.side is not None or meter.node is not None
        else meter.model_copy(update={"side": park.meter_side(meter)})
        for meter in park.meters
    )
    return Park.model_construct(**{**dict(park), "meters": meters})


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Stop the cyclic garbage collector: it would walk the growing node tree over and over: two thirds of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
