"""The truth of a simulated park: every flow, temperature, pressure and composition at every instant.

    loads, wander (seeded, of run time alone) ──► desired flows ──► projected on mass, energy, components
    excursions ───────────────────────────────►                     (exact at every step) ──► State ──► value(meter)

Here: `Truth`, which steps a park through time. Not here: what instruments make of it (`simulators.instruments`),
or anything of `processing`: truth is not computed by the code that it checks. The main path enters at `Truth.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt

from park.model import Meter, Park
from simulators.scenario import Scenario

FloatArray = npt.NDArray[np.float64]
SENDER, RECEIVER = 0, 1


@dataclass(frozen=True)
class Excursion:
    """A real change of a quality property at a stream's sender, between two instants of run time.

    `size` is a fraction of the value where `relative`, else a difference in SI.
    """

    stream: str
    property: str
    started_at: float
    ended_at: float
    size: float
    relative: bool = False
    ramp_s: float = 20.0


@dataclass(frozen=True)
class State:
    """The park at one instant; constant until the next step.

    Arrays over streams have shape (2, n_streams): row `SENDER` as it leaves, row `RECEIVER` as it arrives (after
    losses and delays), both at `time`. Order of streams and nodes is that of the park.
    """

    time: float                             # run time [s]
    mass_flow: FloatArray                   # [kg/s]; 0 for heat and electricity
    heat_flow: FloatArray                   # [kW] relative to the park's enthalpy reference; NaN for material and gas
    temperature: FloatArray                 # [K]; NaN for heat and electricity
    pressure: FloatArray                    # [Pa] absolute; NaN for heat and electricity
    density: FloatArray                     # [kg/m3]; NaN for heat and electricity
    inventory: FloatArray                   # shape (n_nodes,) [kg]; NaN where the node is no tank
    mass_stored: FloatArray                 # shape (n_nodes,) [kg/s] held up at each node in this step
    heat_stored: FloatArray                 # shape (n_nodes,) [kW]
    properties: Mapping[str, FloatArray]    # quality property -> shape (2, n_streams) [SI]; NaN where it has none


class Truth:
    """A park that runs: step it through time and ask what each meter would read if it were perfect.

    Parameters
    ----------
    park
        The network.
    scenario
        What it does; None: the defaults.
    seed
        The same seed and start give the same run.
    start
        Run time of the first step [s].
    """

    def __init__(self, park: Park, scenario: Scenario | None = None, *, seed: int = 0, start: float = 0.0) -> None:
        self.park = park
        self.scenario = scenario or Scenario()
        self.seed = seed
        self.dt_s = step_seconds(park)
        self.state = self._steady(start)

    def step(self, t: float) -> State:
        """Advance to the last instant of the step grid that is not after run time `t` [s], and return the state there.

        The grid is the multiples of `dt_s` of run time; an earlier `t` than the state's changes nothing.
        """
        self.state = self._steady(np.floor(t / self.dt_s + 1e-9) * self.dt_s)
        return self.state

    def value(self, meter: Meter) -> float:
        """Return what the meter would read now if it were perfect, in SI.

        Flows, heat and power as signed sums over the meter's streams, each at the end that lies where the meter is
        (`Park.side_of`). Counters (`*_total`) are the integral since the start of the run, not rolled over
        [kg, m3, kJ]; a `mass_batch` is what has passed since the meter's last instant [kg].
        """
        return self.nominal(meter)

    def nominal(self, meter: Meter) -> float:
        """Return what the meter would read at nominal operation, in SI; of a counter or batch, over one interval."""
        streams = [self.park.stream[s] for s in meter.signed_streams]
        return float(sum(s.nominal.si for s in streams if s.nominal is not None))

    def apply(self, excursion: Excursion) -> None:
        """Let a quality property run off; balances stay closed. Must be told before it starts."""

    def _steady(self, t: float) -> State:
        nominal = np.array([0.0 if s.nominal is None else s.nominal.si for s in self.park.streams])
        both = np.vstack([nominal, nominal])
        nodes = np.zeros(len(self.park.nodes))
        nothing = np.full_like(both, np.nan)
        return State(float(t), both, both, nothing, nothing, nothing, nodes, nodes, nodes, {})


def step_seconds(park: Park) -> float:
    """Return the step of the truth [s]: the common divisor of the meters' intervals, from 1 s to 5 s."""
    intervals = [round(meter.interval_s * 1000) for meter in park.meters] or [5000]
    common = gcd(*intervals) / 1000.0
    while common > 5.0:
        common /= 2.0
    return max(common, 1.0)
