"""What temperature, pressure and composition of a stream may be where nothing is measured yet.

From what park.yaml says in passing: the limits of agreements, the spans of meters; else what is usual. Here: that. Not
here: what the balances make of it (design_point.py). The main path enters at `Guesses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from park.model import WATER_DENSITY, Park, Phase, Stream
from park.properties import enthalpy, phase_of, reference_enthalpy
from park.units import Dimension, dimension, to_si
from park.usual import USUAL_PRESSURE, UsualTemperatures
from processing.meters import STD_PER_U95
from processing.placement import SAME_AS_WATER

# [K], [Pa] where park.yaml says nothing of what is neither steam nor water: it lies open.
ELSEWHERE = 293.15, 1.013e5
FRACTION, UNKNOWN_FRACTION, LEAST_FRACTION = 0.3, 0.1, 1e-6  # std of a known one as a share of it; [1] of others
PROPERTY = {Dimension.RATIO: 0.1, Dimension.CONCENTRATION: 1.0, Dimension.CONDUCTIVITY: 0.1, Dimension.ACIDITY: 7.0}


class Guesses:
    """What the properties of a park's streams may be before anything is measured."""

    def __init__(self, park: Park) -> None:
        self._reference = park.park.enthalpy_reference.temperature_degC
        self._known: dict[tuple[str, str], float] = {}
        self._in_volume: set[tuple[str, str]] = set()
        for meter in park.meters:
            if meter.stream is not None and meter.property_name is not None and meter.span is not None:
                self._note(meter.stream, meter.property_name, meter.span, meter.unit)
        for exchange in park.exchanges:
            for limit in exchange.agreement.quality:
                bounds = [bound for bound in (limit.low, limit.high) if bound is not None]
                for stream in exchange.signed_streams if bounds else ():
                    self._note(stream, limit.property, bounds, limit.unit)
        self._usual = UsualTemperatures(park, lambda stream: self._known.get((stream.id, "temperature")))

    def _note(self, stream: str, name: str, bounds: Sequence[float], unit: str) -> None:
        """Note the middle of a range."""
        self._known[stream, name] = to_si(sum(bounds) / len(bounds), unit)
        if dimension(unit) == Dimension.CONCENTRATION:
            self._in_volume.add((stream, name))

    def property(self, stream: Stream, name: str, unit: str = "1") -> float:
        """Return a value [SI]: the middle of what an agreement asks or a meter can read, else what is usual."""
        if (stream.id, name) in self._known:
            return self._known[stream.id, name]
        if name == "temperature":
            usual = self._usual.of(stream)
            return ELSEWHERE[0] if usual is None else usual
        if name == "pressure":
            return USUAL_PRESSURE.get(stream.carrier, ELSEWHERE[1])
        return PROPERTY.get(dimension(unit), 1.0)

    def knows(self, stream: Stream, name: str) -> bool:
        """Whether an agreement or a meter's span says anything of a property."""
        return (stream.id, name) in self._known

    def fraction(self, stream: Stream, name: str) -> tuple[float, float]:
        """Return the mass fraction of a component [1], and how firmly it stands: a std."""
        if name == "water" and stream.has_enthalpy and not self.knows(stream, name):
            return 1.0, SAME_AS_WATER * STD_PER_U95
        if not self.knows(stream, name):
            return PROPERTY[Dimension.RATIO], UNKNOWN_FRACTION
        found = self._known[stream.id, name]
        if (stream.id, name) in self._in_volume:
            found /= WATER_DENSITY if stream.density_kg_m3 is None else stream.density_kg_m3.value
        return found, max(FRACTION * abs(found), LEAST_FRACTION)

    def enthalpy(self, stream: Stream) -> float:
        """Return that of water or steam [kJ/kg above the park's reference]."""
        pressure, temperature = self.property(stream, "pressure"), self.property(stream, "temperature")
        dryness = stream.dryness.value if stream.dryness is not None else 1.0
        found = _enthalpy_above(self._reference, pressure, temperature, phase_of(stream), dryness)
        return found if np.isfinite(found) else (2700.0 if stream.carrier == "steam" else 200.0)


@cache
def _enthalpy_above(
    reference_degC: float, pressure: float, temperature: float, phase: Phase | None, dryness: float
) -> float:
    """Return an enthalpy above that of the reference [kJ/kg]; most streams of a park are guessed alike."""
    return float(enthalpy(pressure, temperature, phase, dryness)) - reference_enthalpy(reference_degC)
