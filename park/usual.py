"""What temperature and pressure water and steam usually have, where nothing is said and nothing measured.

Little hangs on the values by carrier. A supply and its return are another matter: taken for equally warm, a heat meter
between them would read nothing, and all that is said of it would be wrong. Here: both. Not here: what agreements and
spans say, which comes first (`processing.guesses`, `simulators.levels`). The main path enters at `UsualTemperatures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from park.model import Park, Stream

Known = Callable[[Stream], float | None]

USUAL_TEMPERATURE = {"steam": 473.15, "water": 313.15}
"""[K] by carrier: process steam of some 10 bar, warm water. Little hangs on it: the slopes of enthalpy and density
differ by a few percent over the range that parks know."""

USUAL_PRESSURE = {"steam": 1.0e6, "water": 4.0e5}
"""[Pa] the same: process steam, water in pipes."""

# [K] District heating of the third generation supplies below 100 degC (Lund et al., Energy 68 (2014) 1-11) and commonly
# gets 40 to 50 degC back: about halfway to the surroundings, as cooling does too (6 and 13 degC).
SUPPLY, RETURN, SURROUNDINGS = 353.15, 323.15, 293.15
DROP = SUPPLY - RETURN
COLDEST = 274.15            # [K] water that does not freeze

HEAT_METERS = frozenset({"heat_flow", "energy_total"})


class UsualTemperatures:
    """The temperature of every stream of a park of which nobody says any.

    Parameters
    ----------
    park
        The park.
    known
        Returns the temperature [K] that is said of a stream; None: nothing is.
    """

    def __init__(self, park: Park, known: Known) -> None:
        self._netted: dict[str, float] = {}
        for signed in netted(park):
            self._guess(park, signed, known)

    def of(self, stream: Stream) -> float | None:
        """Return the temperature [K] that a stream of which nothing is said is taken to have; None: no idea."""
        return self._netted.get(stream.id, USUAL_TEMPERATURE.get(stream.carrier))

    def _guess(self, park: Park, signed: Mapping[str, float], known: Known) -> None:
        """Take the water of one set: all its supplies are alike, and all its returns."""
        said = {id: known(park.stream[id]) for id in signed if park.stream[id].carrier == "water"}
        supply = next((t for id, t in said.items() if t is not None and signed[id] > 0.0), None)
        back = next((t for id, t in said.items() if t is not None and signed[id] < 0.0), None)
        if supply is None:
            supply = SUPPLY if back is None else max(min(2.0 * back - SURROUNDINGS, back + DROP), COLDEST)
        if back is None:
            back = min(0.5 * (supply + SURROUNDINGS), RETURN)
        for id, found in said.items():
            if found is None:
                self._netted.setdefault(id, supply if signed[id] > 0.0 else back)


def netted(park: Park) -> Iterator[Mapping[str, float]]:
    """Yield the signed sets of heat meters, and of exchanges of energy, that take one stream's heat from another's."""
    of_meters = (meter.signed_streams for meter in park.meters if meter.quantity in HEAT_METERS)
    of_exchanges = (exchange.signed_streams for exchange in park.exchanges if exchange.settles == "energy")
    for signed in (*of_meters, *of_exchanges):
        if min(signed.values(), default=0.0) < 0.0 < max(signed.values(), default=0.0):
            yield signed
