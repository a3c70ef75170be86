"""What a simulated park does: loads, temperatures, compositions and faults, as scenario.yaml writes them.

Here: the schema and the one registry of fault kinds (`FAULT_KINDS`). Not here: how a file is read
(`simulators.scenario_file`), how a park behaves (`simulators.truth`) and what a fault does to an instrument
(`simulators.faults`). Everything has a default: `Scenario()` plays any valid park.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from park.entry import NotNegative, Number, Positive, Unit

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


SUBJECT_TAGS = ("a meter", "a property")      # pydantic puts them into the path of what is wrong; they are in no file

Subject = str | PropertySubject
_GivenSubject = Annotated[
    Annotated[str, Tag(SUBJECT_TAGS[0])] | Annotated[PropertySubject, Tag(SUBJECT_TAGS[1])],
    Discriminator(lambda given: SUBJECT_TAGS[isinstance(given, Mapping | PropertySubject)]),
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
