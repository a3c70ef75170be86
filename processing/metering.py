"""What each meter of a park is worth before any value is read, and where one more would help most.

Here: what `processing.balance.assess` says of the park's network, in the meters' own units. Not here: that network
(meter_network.py), the design point (design_point.py), the std of the streams (results.py). The main path enters at
`metering_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from park.model import Meter
from park.units import to_si_difference
from processing.balance import ExtraMeter
from processing.balance.assessment import POWER
from processing.estimate import Estimate, Estimator
from processing.meter_network import FALSE_ALARMS, MeterNetwork, Place
from processing.meters import STD_PER_U95, Averaging, Bools
from processing.results import window_unit

PROPOSALS = 5
"""As many further meters are told of either kind: those that make something observable, those that check."""


@dataclass(frozen=True)
class MeterWorth:
    """One meter; None where it is in no balance, or the number does not exist.

    Attributes
    ----------
    meter
        Its id.
    adjustability
        1 - std of the reconciled value / std of the meter: 0 where nothing makes it sharper (Madron 1992, sec. 4.3).
    detectability
        Std of its adjustment / std of the meter: a bias of d std moves its test by d times this; 0: never shows.
    smallest_bias
        The bias that one window shows with probability `POWER` [unit]; None where none ever shows.
    smallest_bias_percent
        The same of what the meter reads [%]; None where it reads about nothing, and for temperatures.
    unit
        Its own; of counters and inventories that of the rate.
    """

    meter: str
    adjustability: float | None
    detectability: float | None
    smallest_bias: float | None
    smallest_bias_percent: float | None
    unit: str


@dataclass(frozen=True)
class Proposal:
    """What one more meter would bring.

    Attributes
    ----------
    place
        Where, and of what.
    u95_percent
        How sure it would be: as the median meter of its kind in the park [% of its value]; None for temperatures.
    made_observable
        What could then be told, and now cannot, the place itself included.
    newly_checked
        Meters that something would then check, and nothing does now, the new one included.
    groups_resolved
        Groups of meters that cannot be told apart, of which some then could.
    sharper_percent
        By how much the u95 of all that is known falls, in the (geometric) mean [%].
    drop_percent
        By how much the u95 at the place itself falls [%].
    """

    place: Place
    u95_percent: float | None
    made_observable: tuple[Place, ...]
    newly_checked: int
    groups_resolved: int
    sharper_percent: float
    drop_percent: float


@dataclass(frozen=True)
class Metering:
    """What the park's meters can achieve.

    Attributes
    ----------
    meters
        Every meter in force.
    groups
        Ids of meters that no balance can tell apart: where one of them is wrong, all are suspect.
    proposals
        The further meters that help most, the best first.
    threshold
        What the largest |test statistic| of a window must exceed for an alarm, at `false_alarms`.
    false_alarms, power
        Probability of any alarm in a clean window; probability with which `smallest_bias` is seen.
    """

    meters: tuple[MeterWorth, ...]
    groups: tuple[tuple[str, ...], ...]
    proposals: tuple[Proposal, ...]
    threshold: float
    false_alarms: float = FALSE_ALARMS
    power: float = POWER


def metering_of(estimator: Estimator, estimate: Estimate, in_force: Bools) -> Metering:
    """Assess the meters of a park.

    Parameters
    ----------
    estimator
        Of the park.
    estimate
        Of its design point.
    in_force
        Which meters there are, bool, shape (n_meters,).
    """
    network = MeterNetwork(estimator, estimate)
    plan = network.assessed
    places = network.places
    worth = _worth(network, in_force)
    owner = {column: estimator.table.ids[m] for m, column in network.suspect.items()}
    groups = tuple(tuple(owner[j] for _, j in group) for group in plan.groups)
    proposals = tuple(_proposal(network, meter, places) for meter in _best(plan.extra_meters))
    return Metering(worth, groups, proposals, plan.threshold)


def _best(meters: Sequence[ExtraMeter]) -> list[ExtraMeter]:
    """Return the few that are told, one of those that make the same observable; in order."""
    telling = list({meter.made_observable: meter for meter in reversed(meters) if meter.made_observable}.values())
    checking = [meter for meter in meters if not meter.made_observable]
    return sorted(telling, key=lambda meter: meter.rank)[:PROPOSALS] + checking[:PROPOSALS]


def _worth(network: MeterNetwork, in_force: Bools) -> tuple[MeterWorth, ...]:
    """Return what every meter in force is worth, in its own unit."""
    estimator, said, plan = network.estimator, network.estimate.observation, network.assessed
    found = []
    for m in np.flatnonzero(in_force).tolist():
        meter = estimator.park.meters[m]
        unit, scale = _own_unit(meter, int(estimator.table.averaging[m]))
        if m not in network.suspect:
            found.append(MeterWorth(meter.id, None, None, None, None, unit))
            continue
        column, variable = network.suspect[m], int(estimator.plan.slot_variable[m])
        std = float(np.sqrt(said.slot_variance[m]))
        size = plan.smallest_bias[column] / abs(said.slope[m])
        reads = abs(float(network.estimate.means.value[m]))
        percent = None if meter.property_name == "temperature" or not size < reads else float(100.0 * size / reads)
        found.append(MeterWorth(
            meter.id,
            max(1.0 - float(plan.std[variable]) / std, 0.0),
            # of all its error; a meter that is also seen earlier may show a little more than one look tells
            min(float(plan.detectability[column]) * std / network.std[column], 1.0),
            float(size / scale) if np.isfinite(size) else None,
            percent,
            unit,
        ))
    return tuple(found)


def _own_unit(meter: Meter, averaging: int) -> tuple[str, float]:
    """Return the unit that a meter's window value is told in, and its size in SI."""
    if averaging in (Averaging.COUNTER, Averaging.LEVEL):
        return window_unit(meter), 1.0
    return meter.unit, to_si_difference(1.0, meter.unit)


def _proposal(network: MeterNetwork, meter: ExtraMeter, places: dict[int, Place]) -> Proposal:
    """Say what one more meter would bring."""
    place, std = places[meter.stream], network.extra_std[meter.stream]
    value = abs(float(network.estimate.expected[meter.stream]))
    percent = None if place.quantity == "temperature" or not value else 100.0 * std / STD_PER_U95 / value
    return Proposal(
        place,
        percent,
        tuple(places[j] for j in meter.made_observable),
        meter.newly_redundant,
        meter.groups_resolved,
        100.0 * (1.0 - float(np.exp(-meter.sharper))),
        100.0 * meter.drop,
    )
