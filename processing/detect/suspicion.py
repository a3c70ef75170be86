"""How a gross error is told: the events `meter_bias` and `leak`, with what the verdict rests on.

Here: names, units, messages and evidence. Not here: the verdict (gross_errors.py), and what it means for settlement,
which chain.py adds. The main path enters at `Teller.opened`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from park.model import Exchange, Meter, Park
from park.units import conversion
from processing.detect.baseline import Judged
from processing.detect.events import Opened
from processing.detect.imbalance import JudgedLeaks, Leak
from processing.estimate import Estimate
from processing.meters import COUNTERS, Floats, Ints
from processing.plan import Plan

BIAS, LEAK = "meter_bias", "leak"

U95 = 1.96
"""Half-width of the 95 % interval in std (VDI 2048)."""

LIKELY = 0.3
"""Correlation from which on another error is told as the next likely one."""

FINDINGS = {True: "change", False: "beyond_u95"}


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found.

    Attributes
    ----------
    test
        Which: a meter's position, or that of a leak after all meters.
    by_change
        Against its baseline; else beyond what u95 allows.
    statistic, limit
        The lasting statistic, and what it had to exceed; of the member of its class that shows it best.
    sharp
        The same statistic without its floor.
    members
        All tests of its class, itself among them.
    pattern
        Correlation of every test with it, shape (n_tests,).
    windows, std
        Over how many it was found, and the std that the mean statistic of a meter without bias has over so many.
    """

    test: int
    by_change: bool
    statistic: float
    limit: float
    sharp: float
    members: tuple[int, ...]
    pattern: Floats
    windows: int
    std: float


class Teller:
    """Names and tells the gross errors of a park.

    Parameters
    ----------
    park
        The park.
    plan
        How its meters measure.
    leaks
        The leaks that could be.
    """

    def __init__(self, park: Park, plan: Plan, leaks: tuple[Leak, ...]) -> None:
        self._park, self._plan, self._leaks = park, plan, leaks
        self._n = len(park.meters)
        self.keys = [*(m.id for m in park.meters), *(f"\x1f{self.leak_name(k)}" for k in range(len(leaks)))]
        position = {meter.id: m for m, meter in enumerate(park.meters)}
        self._on_exchange = [
            {position[m.id] for m in park.meters if set(m.signed_streams) & set(x.signed_streams) and _settles(m, x)}
            for x in park.exchanges]

    def leak_name(self, leak: int) -> str:
        """Return a leak's node and quantity as one text."""
        entry = self._leaks[leak]
        return f"{self._park.nodes[entry.node].id} {entry.quantity}"

    def subject(self, test: int) -> tuple[str, str]:
        """Return kind and subject of the event of a test."""
        if test < self._n:
            return BIAS, self._park.meters[test].id
        return LEAK, self._park.nodes[self._leaks[test - self._n].node].id

    def aspect(self, test: int) -> str:
        """Return which of a subject's events it is: a node may lose mass and energy."""
        return "" if test < self._n or self._leaks[test - self._n].quantity == "mass" else "energy"

    def is_one_exchange(self, meters: Ints) -> bool:
        """Whether several meters that cannot be told apart all settle one exchange: its mismatch speaks of them."""
        return len(meters) > 1 and any(set(meters.tolist()) <= on for on in self._on_exchange)

    def opened(
        self, finding: Finding, since_us: int, judged: Judged, leaks: JudgedLeaks, estimate: Estimate
    ) -> Opened:
        """Return the event that a finding opens."""
        if finding.test < self._n:
            return self._bias(finding, since_us, judged, estimate)
        return self._leak(finding, since_us, leaks)

    def _bias(self, finding: Finding, since_us: int, judged: Judged, estimate: Estimate) -> Opened:
        """Tell a biased meter: b makes its adjustment vanish, a = (1 - P/R) b, var b = R / (1 - P/R)."""
        m, meter = finding.test, self._park.meters[finding.test]
        unit = conversion(meter.unit)
        slope = float(estimate.observation.slope[m]) * unit.scale
        per_std = float(judged.std[m] / np.sqrt(judged.spread[m])) / slope
        bias, reading = finding.sharp * per_std, float(estimate.means.value[m])
        rate = _rate(meter)
        expected = reading - self._off(m, judged, estimate)
        share = "" if unit.offset or not expected else f" ({100.0 * bias * unit.scale / expected:+.1f} %)"
        finding_text = "than it used to, against the balances" if finding.by_change else (
            "than the balances and its u95 allow")
        return Opened(
            BIAS, meter.id, since_us, "high",
            f"{meter.id} reads {abs(bias):.4g} {rate}{share} {'more' if bias > 0 else 'less'} {finding_text}"
            + self._others(finding),
            finding.statistic, finding.limit,
            evidence={**self._evidence(finding), "bias": bias, "unit": rate,
                      "bias_u95": U95 * abs(per_std) * finding.std})

    def _off(self, m: int, judged: Judged, estimate: Estimate) -> float:
        """Return by how much a meter differs now from what the others make of its reading [SI].

        Not the lasting bias: of a meter that reads a thousandfold that leaves nothing to tell a share of.
        """
        said = estimate.observation
        adjustment = said.slot_value[m] - estimate.unbounded[self._plan.slot_variable[m]]
        return float(adjustment / (judged.spread[m] * said.slope[m]))

    def _leak(self, finding: Finding, since_us: int, leaks: JudgedLeaks) -> Opened:
        """Tell a leaking node."""
        k = finding.test - self._n
        leak, node = self._leaks[k], self._park.nodes[self._leaks[k].node]
        size, unit = finding.statistic * float(leaks.std[k]), "kW" if leak.quantity == "energy" else "kg/s"
        than = "than it used to" if finding.by_change else "than the meters' u95 allow"
        return Opened(
            LEAK, node.id, since_us, "high",
            f"{node.id} loses {size:.4g} {unit} of {leak.quantity} more {than}" if size > 0 else
            f"{node.id} gains {-size:.4g} {unit} of {leak.quantity} more {than}: a flow is missing in the park",
            finding.statistic, finding.limit, self.aspect(finding.test),
            {**self._evidence(finding), "size": size, "size_u95": U95 * float(leaks.std[k]) * finding.std, "unit": unit,
             "quantity": leak.quantity})

    def _evidence(self, finding: Finding) -> dict[str, object]:
        """Return what both kinds rest on."""
        members = [self.subject(test) for test in (finding.test, *(t for t in finding.members if t != finding.test))]
        return {
            "finding": FINDINGS[finding.by_change], "statistic": finding.statistic, "limit": finding.limit,
            "windows": finding.windows, "class": [name for kind, name in members if kind == BIAS],
            "class_nodes": list(dict.fromkeys(name for kind, name in members if kind == LEAK)),
            "taken_out": sum(kind == BIAS for kind, _ in members) <= 1,
            "next_likely": self._next(finding)}

    def _others(self, finding: Finding) -> str:
        """Return what else the balances cannot tell from it, as the end of a message."""
        others = [self.subject(test) for test in finding.members if test != finding.test]
        names = [name if kind == BIAS else f"a leak of {name}" for kind, name in others]
        return f" (or it is {' or '.join(dict.fromkeys(names))}: no balance can tell)" if names else ""

    def _next(self, finding: Finding) -> dict[str, float]:
        """Return the errors that look most alike in the balances, with the correlation."""
        order = [int(k) for k in np.argsort(-abs(finding.pattern), kind="stable") if k not in finding.members][:3]
        return {self.subject(k)[1]: round(float(finding.pattern[k]), 3) for k in order
                if abs(finding.pattern[k]) > LIKELY}


def _settles(meter: Meter, exchange: Exchange) -> bool:
    """Whether what an exchange amounts to follows from a meter on its streams: flows, and of energy the conditions."""
    if meter.property_name is None:
        return True
    return exchange.settles == "energy" and meter.property_name in ("temperature", "pressure")


def _rate(meter: Meter) -> str:
    """Return the unit of a meter's window value: of counters and inventories a rate."""
    return f"{meter.unit}/s" if meter.quantity in ("inventory", *COUNTERS) else meter.unit
