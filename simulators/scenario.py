"""What a simulated park does: loads, temperatures, compositions and faults, as scenario.yaml writes them.

Here: the schema, its loader, and the one registry of fault kinds (`FAULT_KINDS`). Not here: how a park behaves
(`simulators.truth`) and what a fault does to an instrument (`simulators.faults`). The main path enters at
`load_scenario`. Everything has a default: `Scenario()` plays any valid park.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from park.errors import Fault as FileFault
from park.errors import ParkError
from park.load import keys_at
from park.model import NotNegative, Number, Park, Positive, Unit
from park.wording import Speller, clause
from park.yaml12 import Document, parse
from simulators.scenario_checks import mistakes

SubjectKind = Literal["meter", "property"]


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault: what it strikes, whether it needs a size, and the event kinds that may answer it.

    The first of `answers` is the one that must come. A new kind is one more entry in `FAULT_KINDS` and, for
    instruments, what it does in `simulators.faults`.
    """

    name: str
    strikes: SubjectKind
    sized: bool
    answers: tuple[str, ...]


FAULT_KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        FaultKind("bias", "meter", True, ("meter_bias", "volume_mismatch")),
        FaultKind("dropout", "meter", False, ("meter_silent",)),
        FaultKind("stuck", "meter", False, ("meter_stuck",)),
        FaultKind("quality_excursion", "property", True, ("quality_deviation",)),
    )
}


class Entry(BaseModel):
    """Base of all entries: frozen, unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Size(Entry):
    """A difference, with its unit."""

    value: Number
    unit: Unit


class PropertySubject(Entry):
    """A quality property of a stream: what a quality excursion strikes."""

    stream: str
    property: str

    def __str__(self) -> str:
        return f"{self.stream}.{self.property}"


_TAGS = ("a meter", "a property")      # pydantic puts them into the path of what is wrong; they are in no file
_ENTRIES: Mapping[str | int, str] = {"streams": "stream", "tanks": "tank", "profiles": "profile", "faults": "fault"}

Subject = str | PropertySubject
_GivenSubject = Annotated[
    Annotated[str, Tag(_TAGS[0])] | Annotated[PropertySubject, Tag(_TAGS[1])],
    Discriminator(lambda given: _TAGS[isinstance(given, Mapping | PropertySubject)]),
]


@dataclass(frozen=True)
class Occurrence:
    """One time that a fault strikes; times in seconds after the run was armed.

    `size` is a fraction of the true value where `relative`, else a difference in `unit`.
    """

    id: str
    kind: FaultKind
    subject: Subject
    starts_s: float
    ends_s: float
    size: float
    relative: bool
    unit: str | None


class Fault(Entry):
    """A fault on a schedule: `after_s` after arming for `duration_s`, again every `every_s`.

    `subjects` gives the repetitions other subjects in turn; `subject` keeps one.
    """

    id: str
    kind: str
    subject: _GivenSubject | None = None
    subjects: tuple[_GivenSubject, ...] = ()
    after_s: NotNegative
    duration_s: Positive
    every_s: Positive | None = None
    size_percent: Number | None = None
    size: Size | None = None

    @model_validator(mode="after")
    def _check(self) -> Fault:
        kind = FAULT_KINDS.get(self.kind)
        if kind is None:
            raise ValueError(f"unknown kind {self.kind!r}: one of {', '.join(FAULT_KINDS)}")
        if (self.subject is None) == (not self.subjects):
            raise ValueError("exactly one of subject and subjects is needed")
        for subject in self.all_subjects:
            if isinstance(subject, str) != (kind.strikes == "meter"):
                wanted = "a meter's id" if kind.strikes == "meter" else "{stream: ..., property: ...}"
                raise ValueError(f"the subject of a {self.kind} is {wanted}, got {str(subject)!r}")
        sizes = (self.size_percent is not None) + (self.size is not None)
        if sizes != int(kind.sized):
            need = "exactly one of size_percent and size" if kind.sized else "no size"
            raise ValueError(f"a {self.kind} takes {need}")
        if self.every_s is not None and self.every_s <= self.duration_s:
            raise ValueError(f"every_s {self.every_s:g} must be longer than duration_s {self.duration_s:g}")
        return self

    @property
    def all_subjects(self) -> tuple[Subject, ...]:
        """The subjects in the order in which the fault strikes them."""
        return self.subjects if self.subject is None else (self.subject,)

    def occurrences(self) -> Iterator[Occurrence]:
        """Yield each time that the fault strikes, in order; without end where `every_s` is given."""
        number = 0
        while True:
            starts = self.after_s + number * (self.every_s or 0.0)
            yield Occurrence(
                id=self.id if number == 0 else f"{self.id}.{number + 1}",
                kind=FAULT_KINDS[self.kind],
                subject=self.all_subjects[number % len(self.all_subjects)],
                starts_s=starts,
                ends_s=starts + self.duration_s,
                size=(self.size_percent or 0.0) / 100.0 if self.size is None else self.size.value,
                relative=self.size is None,
                unit=None if self.size is None else self.size.unit,
            )
            number += 1
            if self.every_s is None:
                return


class Wander(Entry):
    """A smooth random movement about the mean: its standard deviation and its typical period."""

    std: NotNegative
    period_s: Positive = 1800.0


class PropertyScenario(Entry):
    """A property of a stream at its sender: its mean, and how far it wanders, in `unit`."""

    value: Number
    unit: Unit
    wander: Wander | None = None


class Profile(Entry):
    """A load over the week: factors by local hour of the day and by weekday (Monday first), scaled to a mean of 1."""

    hours: tuple[Number, ...] = (1.0,) * 24
    days: tuple[Number, ...] = (1.0,) * 7

    @model_validator(mode="after")
    def _check(self) -> Profile:
        for name, values, count in (("hours", self.hours, 24), ("days", self.days, 7)):
            if len(values) != count:
                raise ValueError(f"{name} takes {count} numbers, got {len(values)}")
            if min(values) < 0 or sum(values) <= 0:
                raise ValueError(f"{name} must not be negative and not all zero")
        return self


class StreamScenario(Entry):
    """What one stream does; what is absent follows from the park's limits and the carrier."""

    profile: str | None = None
    wander_percent: NotNegative | None = None
    wander_period_s: Positive | None = None
    temperature: PropertyScenario | None = None
    pressure: PropertyScenario | None = None
    pressure_drop: Size | None = None
    properties: Mapping[str, PropertyScenario] = {}


class TankScenario(Entry):
    """How much a tank holds, where it starts and is steered to, and its area for a meter of its level."""

    capacity_t: Positive
    start_percent: Annotated[Number, Field(ge=10, le=90)] = 50.0
    area_m2: Positive = 100.0


class Scenario(Entry):
    """All that a run plays beyond the park's nominal operation."""

    profiles: Mapping[str, Profile] = {}
    wander_percent: NotNegative = 1.5
    wander_period_s: Positive = 1800.0
    streams: Mapping[str, StreamScenario] = {}
    tanks: Mapping[str, TankScenario] = {}
    resolution: Mapping[str, Annotated[float, Field(gt=0)]] = {}    # smallest step that a meter shows, in its unit
    faults: tuple[Fault, ...] = ()


def load_scenario(path: Path | None, park: Park) -> Scenario:
    """Read a scenario and hold it against its park; without a path, the default scenario.

    Raises
    ------
    ParkError
        With every fault of the file at once, each with its line; the file's shape first, then whether it fits the
        park.
    """
    if path is None:
        return Scenario()
    try:
        document = parse(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not UTF-8"
        raise ParkError([FileFault(str(path), 1, "", f"cannot read the scenario: {reason}")]) from error
    faults = list(document.faults)
    try:
        scenario = Scenario.model_validate(document.data or {})
    except ValidationError as error:
        raise ParkError(_by_line([*faults, *_shape_faults(document, error)])) from None
    for path_, clause_, hint in mistakes(scenario, park):
        faults.append(FileFault(document.file, document.line(path_), _subject(document, path_), clause_, hint))
    if faults:
        raise ParkError(_by_line(faults))
    return scenario


def _by_line(faults: list[FileFault]) -> list[FileFault]:
    """Return the faults in the order of their lines."""
    return sorted(faults, key=lambda fault: fault.line)


def _shape_faults(document: Document, error: ValidationError) -> Iterator[FileFault]:
    """Yield what is wrong with the shape of a scenario file."""
    speller = Speller()
    for detail in error.errors(include_url=False):
        path = tuple(step for step in detail["loc"] if step not in ("[key]", *_TAGS))
        detail["loc"] = path[2:] if _subject(document, path) else path
        text, hint = clause(detail, speller, keys_at(Scenario, path[:-1]))
        if detail["type"] == "value_error":
            text = str(detail["ctx"]["error"])
        yield FileFault(document.file, document.line(path), _subject(document, path), text, hint)


def _subject(document: Document, path: Sequence[str | int]) -> str:
    """Return how messages name the entry at a path: by section and key, a fault by its id."""
    if len(path) < 2 or path[0] not in _ENTRIES:
        return ""
    section, key = path[0], path[1]
    if isinstance(key, str):
        return f"{_ENTRIES[section]} {key!r}"
    entries = document.data.get("faults") if isinstance(document.data, dict) else None
    entry = entries[key] if isinstance(entries, list) and key < len(entries) else None
    name = entry.get("id") if isinstance(entry, dict) else None
    return f"fault {name!r}" if isinstance(name, str) else f"fault {key + 1}"
