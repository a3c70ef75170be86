"""Faults on a schedule that begins when the run is armed: what they do to a meter, and the record of them.

Here: what each kind does to a reading (`DEFECTS`), which faults are on, and which meters, streams, nodes and events
belong to each. Not here: the schedule's file and its list of kinds (`simulators.scenario`); an excursion of quality
happens in the plant (`simulators.truth`) and is only told and recorded here.

The main path enters at `FaultSchedule.arm` once, then `advance` each tick. A new kind that strikes a meter is one
small subclass of `Defect`, one entry in `DEFECTS` and one in `simulators.scenario.FAULT_KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from park.errors import InputError
from park.model import ENVIRONMENT, Exchange, Meter, Park
from park.units import to_si_difference
from simulators.scenario import Fault, Occurrence, PropertySubject, Scenario
from simulators.state import Excursion

HEAT_STATE = frozenset({"temperature", "pressure"})      # what an energy or a volume is computed with


class Defect:
    """What a kind of fault does to one meter; both methods leave the reading alone unless overridden."""

    def distort(self, measured: float, occurrence: Occurrence, meter: Meter) -> float:
        """Return what the meter measures instead of `measured`, both before rounding [unit of the meter]."""
        return measured

    def deliver(self, shown: float, last: float | None) -> float | None:
        """Return what the meter hands on instead of `shown` [unit of the meter]; None: it hands on nothing.

        `last` is what it handed on before, None if nothing yet.
        """
        return shown


class Bias(Defect):
    """The meter reads wrong, by a fraction of the value or by an amount."""

    def distort(self, measured: float, occurrence: Occurrence, meter: Meter) -> float:
        """Return the measured value, off by the size of the fault."""
        if occurrence.relative:
            return measured * (1.0 + occurrence.size)
        return measured + _in_unit_of(meter, occurrence)


class Dropout(Defect):
    """The meter samples nothing."""

    def deliver(self, shown: float, last: float | None) -> float | None:
        """Return nothing."""
        return None


class Stuck(Defect):
    """The meter hands on its last value, with new source times."""

    def deliver(self, shown: float, last: float | None) -> float | None:
        """Return the last value handed on, once there is one."""
        return shown if last is None else last


DEFECTS: Mapping[str, Defect] = {"bias": Bias(), "dropout": Dropout(), "stuck": Stuck()}


@dataclass(frozen=True)
class FaultRecord:
    """One line of faults.csv.

    Attributes
    ----------
    fault, kind, subject
        Id of the occurrence, its kind, the meter or `stream.property` that it struck.
    started_at, ended_at
        Run time [s since 1970 UTC].
    meters, streams, nodes
        What it touches.
    answers
        The events that may answer it as `kind:subject`, the required one first.
    """

    fault: str
    kind: str
    subject: str
    started_at: float
    ended_at: float
    meters: tuple[str, ...]
    streams: tuple[str, ...]
    nodes: tuple[str, ...]
    answers: tuple[str, ...]


class FaultSchedule:
    """The faults of one run.

    Parameters
    ----------
    park
        The park.
    scenario
        Its faults, with offsets from arming.
    tell
        Called with every excursion before it starts; raises `ValueError` if the plant has no such property.

    Raises
    ------
    InputError
        With every fault that strikes something the park has not, all at once.
    """

    def __init__(self, park: Park, scenario: Scenario, tell: Callable[[Excursion], None]) -> None:
        mistakes = [text for fault in scenario.faults for text in _mistakes(fault, park, tell)]
        if mistakes:
            raise InputError("\n".join(mistakes))
        self._park = park
        self._tell = tell
        self._coming: list[tuple[Iterator[Occurrence], Occurrence]] = []
        self._faults = scenario.faults
        self._on: list[tuple[Occurrence, FaultRecord]] = []
        self.armed_at: float | None = None
        self.past: list[FaultRecord] = []

    def arm(self, time: float) -> None:
        """Begin the schedule with the first whole window at or after the run time `time` [s]; a second call is void.

        So a fault whose offsets are whole windows leaves no window half struck.
        """
        if self.armed_at is None:
            window = self._park.park.window_s
            self.armed_at = math.ceil(round(time / window, 6)) * window
            for fault in self._faults:
                self._expect(fault.occurrences())

    def advance(self, time: float) -> bool:
        """Begin and end what is due at the run time `time` [s]; return whether anything changed."""
        if self.armed_at is None:
            return False
        elapsed = time - self.armed_at
        return self._end(elapsed) | self._begin(elapsed)

    def defects_of(self, meter: str) -> list[tuple[Defect, Occurrence]]:
        """Return what is wrong with the meter now, in order of the scenario."""
        return [(DEFECTS[o.kind.name], o) for o, _ in self._on if o.subject == meter and o.kind.name in DEFECTS]

    @property
    def struck(self) -> frozenset[str]:
        """The meters that have a defect now."""
        return frozenset(o.subject for o, _ in self._on if isinstance(o.subject, str))

    def records(self, now: float | None = None) -> list[FaultRecord]:
        """Return what has struck so far, in order of start; what is still on ends at `now` [s], or as planned."""
        running = (r if now is None else replace(r, ended_at=min(r.ended_at, now)) for _, r in self._on)
        return sorted([*self.past, *running], key=lambda record: (record.started_at, record.fault))

    def _expect(self, occurrences: Iterator[Occurrence]) -> None:
        """Wait for the next occurrence of a fault, and tell the plant if it is the plant's doing."""
        coming = next(occurrences, None)
        if coming is None:
            return
        self._coming.append((occurrences, coming))
        if isinstance(coming.subject, PropertySubject):
            self._tell(self._excursion(coming, coming.subject))

    def _begin(self, elapsed: float) -> bool:
        due = [entry for entry in self._coming if entry[1].starts_s <= elapsed]
        for entry in due:
            self._coming.remove(entry)
            if entry[1].ends_s > elapsed:
                self._on.append((entry[1], self._record(entry[1])))
            self._expect(entry[0])
        return bool(due)

    def _end(self, elapsed: float) -> bool:
        over = [entry for entry in self._on if entry[0].ends_s <= elapsed]
        for entry in over:
            self._on.remove(entry)
            self.past.append(entry[1])
        return bool(over)

    def _span(self, occurrence: Occurrence) -> tuple[float, float]:
        """Return start and end in run time [s]."""
        if self.armed_at is None:
            raise ValueError("the schedule has not been armed")
        return self.armed_at + occurrence.starts_s, self.armed_at + occurrence.ends_s

    def _excursion(self, occurrence: Occurrence, subject: PropertySubject) -> Excursion:
        start, end = self._span(occurrence)
        size = occurrence.size
        if occurrence.unit is not None:
            size = to_si_difference(size, occurrence.unit)
        return Excursion(subject.stream, subject.property, start, end, size, relative=occurrence.relative)

    def _record(self, occurrence: Occurrence) -> FaultRecord:
        start, end = self._span(occurrence)
        park, subject = self._park, occurrence.subject
        if isinstance(subject, str):
            meters: tuple[str, ...] = (subject,)
            streams = tuple(park.meter[subject].signed_streams)
            nodes = _balances_of(park, park.meter[subject])
        else:
            meters = tuple(m.id for m in _meters_of(park, subject))
            streams, nodes = (subject.stream,), _ends(park, (subject.stream,))
        return FaultRecord(occurrence.id, occurrence.kind.name, str(subject), start, end, meters, streams, nodes,
                           answers_to(occurrence, park))


def answers_to(occurrence: Occurrence, park: Park) -> tuple[str, ...]:
    """Return the events that may answer a fault as `kind:subject`, the required one first.

    Of an event kind on meters the subject is the meter; of one on exchanges, each exchange that the fault reaches.
    """
    answers: list[str] = []
    for event in occurrence.kind.answers:
        if event.startswith("meter_"):
            answers.append(f"{event}:{occurrence.subject}")
        else:
            answers += [f"{event}:{exchange.id}" for exchange in park.exchanges if _reaches(occurrence, exchange, park)]
    return tuple(answers)


def _reaches(occurrence: Occurrence, exchange: Exchange, park: Park) -> bool:
    """Whether the fault shows in what the two parties of the exchange compare or have agreed."""
    subject = occurrence.subject
    if isinstance(subject, PropertySubject):
        limits = (limit.property for limit in exchange.agreement.quality)
        return subject.stream in exchange.signed_streams and subject.property in limits
    meter = park.meter[subject]
    if not set(meter.signed_streams) & set(exchange.signed_streams):
        return False
    name = meter.property_name
    return name is None or (name in HEAT_STATE and exchange.settles in ("energy", "volume"))


def _mistakes(fault: Fault, park: Park, tell: Callable[[Excursion], None]) -> Iterator[str]:
    """Yield what is wrong with a fault in this park."""
    for subject in fault.all_subjects:
        if isinstance(subject, PropertySubject):
            if text := _refusal(subject, tell):
                yield f"fault {fault.id!r}: {text}"
        elif subject not in park.meter:
            yield f"fault {fault.id!r}: no meter {subject!r} in the park"
        elif fault.kind not in DEFECTS:
            yield f"fault {fault.id!r}: the kind {fault.kind!r} is not simulated yet"


def _refusal(subject: PropertySubject, tell: Callable[[Excursion], None]) -> str | None:
    """Return why the plant takes no excursion of this property; tried with one that is over before it begins."""
    try:
        tell(Excursion(subject.stream, subject.property, -math.inf, -math.inf, 0.0))
    except ValueError as error:
        return str(error)
    return None


def _in_unit_of(meter: Meter, occurrence: Occurrence) -> float:
    """Return the absolute size of a fault in the unit of the meter."""
    unit = occurrence.unit or meter.unit
    return occurrence.size * to_si_difference(1.0, unit) / to_si_difference(1.0, meter.unit)


def _meters_of(park: Park, subject: PropertySubject) -> Iterator[Meter]:
    """Yield the meters of a stream's property."""
    return (m for m in park.meters if subject.stream in m.signed_streams and m.property_name == subject.property)


def _ends(park: Park, streams: Iterable[str]) -> tuple[str, ...]:
    """Return the nodes at the ends of the streams, the environment left out."""
    ends = (end for s in streams for end in (park.stream[s].from_node, park.stream[s].to_node))
    return tuple(dict.fromkeys(end for end in ends if end != ENVIRONMENT))


def _balances_of(park: Park, meter: Meter) -> tuple[str, ...]:
    """Return the nodes whose balance the meter's reading goes into."""
    return (meter.node,) if meter.node is not None else _ends(park, meter.signed_streams)
