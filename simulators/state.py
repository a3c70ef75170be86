"""A simulated park at one instant, and what can be done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
SENDER, RECEIVER = 0, 1


@dataclass(frozen=True)
class Excursion:
    """A real change of a quality property at a stream's sender, between two instants of run time [s].

    `size` is a fraction of the value where `relative`, else a difference in SI. It comes and goes along a straight
    line of `ramp_s`, inside the two instants.
    """

    stream: str
    property: str
    started_at: float
    ended_at: float
    size: float
    relative: bool = False
    ramp_s: float = 20.0

    def share(self, time: float) -> float:
        """Return how much of it is there at run time `time` [s], from 0 to 1."""
        if not self.started_at <= time < self.ended_at:
            return 0.0
        if self.ramp_s <= 0.0:
            return 1.0
        return min(1.0, (time - self.started_at) / self.ramp_s, (self.ended_at - time) / self.ramp_s)


@dataclass(frozen=True)
class State:
    """The park at one instant; constant until the next step.

    Arrays over streams have shape (2, n_streams): row `SENDER` as it leaves, row `RECEIVER` as it arrives (after
    losses and delays), both at `time`. Order of streams and nodes is that of the park.
    """

    time: float                                 # run time [s]
    mass_flow: FloatArray                       # [kg/s]; 0 for heat and electricity
    heat_flow: FloatArray                       # [kW] relative to the park's enthalpy reference; NaN: material, gas
    temperature: FloatArray                     # [K]; NaN for heat and electricity
    pressure: FloatArray                        # [Pa] absolute; NaN for heat and electricity
    density: FloatArray                         # [kg/m3], of a gas [kg/Nm3]; NaN for heat and electricity
    properties: Mapping[str, FloatArray]        # quality property: [SI]; NaN where a stream has none
    inventory: FloatArray                       # shape (n_nodes,) [kg]; NaN where the node is no tank
    heat_inventory: FloatArray                  # shape (n_nodes,) [kJ]; NaN where the node stores no heat
    mass_stored: FloatArray                     # shape (n_nodes,) [kg/s] held up in this step
    heat_stored: FloatArray                     # shape (n_nodes,) [kW]
    component_stored: Mapping[str, FloatArray]  # component: shape (n_nodes,) [kg/s]
