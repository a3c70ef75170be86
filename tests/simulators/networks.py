"""Small networks for the tests of the truth, and balances checked in the slow, obvious way."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from park.model import ENVIRONMENT, Park
from simulators.state import RECEIVER, SENDER, State


def stream(id: str, frm: str, to: str, carrier: str = "water", **keys: Any) -> dict[str, Any]:
    return {"id": id, "from": frm, "to": to, "carrier": carrier, **keys}


def node(id: str, *conserves: str, **keys: Any) -> dict[str, Any]:
    return {"id": id, "participant": "p", "conserves": list(conserves), **keys}


def meter(id: str, quantity: str, unit: str, **keys: Any) -> dict[str, Any]:
    return {"id": id, "quantity": quantity, "unit": unit, "u95_absolute": 1.0, "interval_s": 5.0,
            "source": {"mqtt": {"topic": id}}, **keys}


def level(node_id: str, unit: str = "t", **keys: Any) -> dict[str, Any]:
    return meter(f"L.{node_id}", "inventory", unit, node=node_id, **keys)


def park_of(nodes: list[dict[str, Any]], streams: list[dict[str, Any]], meters: list[dict[str, Any]] | None = None,
            exchanges: list[dict[str, Any]] | None = None, **info: Any) -> Park:
    return Park.model_validate({
        "park": {"name": "Test", "timezone": "Europe/Copenhagen", **info},
        "participants": [{"id": "p", "name": "P"}, {"id": "q", "name": "Q"}],
        "nodes": nodes, "streams": streams, "meters": meters or [], "exchanges": exchanges or []})


def nominal(value: float, unit: str = "t/h") -> dict[str, Any]:
    return {"nominal": {"value": value, "unit": unit}}


def imbalances(park: Park, state: State) -> dict[str, float]:
    """Return each balance's relative imbalance, stream by stream, as a person would add it up."""
    found: dict[str, float] = {}
    order = {s.id: j for j, s in enumerate(park.streams)}
    for i, n in enumerate(park.nodes):
        for quantity in n.conserves:
            total, size = 0.0, 1e-12
            for s in park.streams:
                j = order[s.id]
                if s.to_node == n.id:
                    total, size = _add(total, size, carried(state, s, j, RECEIVER, quantity))
                if s.from_node == n.id:
                    total, size = _add(total, size, -carried(state, s, j, SENDER, quantity))
            stored = {"mass": state.mass_stored, "energy": state.heat_stored}.get(quantity)
            stored = state.component_stored[quantity.removeprefix("component.")] if stored is None else stored
            found[f"{n.id} {quantity}"] = abs(total - stored[i]) / size
    return found


def carried(state: State, s: Any, j: int, side: int, quantity: str) -> float:
    if quantity == "mass":
        return float(state.mass_flow[side, j])
    if quantity == "energy":
        return 0.0 if s.carrier in ("material", "gas") else float(state.heat_flow[side, j])
    if not s.carries_mass:
        return 0.0
    return float(state.mass_flow[side, j] * state.properties[quantity.removeprefix("component.")][side, j])


def _add(total: float, size: float, term: float) -> tuple[float, float]:
    return total + term, size + 0.5 * abs(term)


@st.composite
def parks(draw: st.DrawFn) -> Park:
    """Networks with splits, recycles, tanks, delays and losses, with and without nominal flows."""
    count = draw(st.integers(1, 4))
    nodes, streams, meters = [], [], []
    for i in range(count):
        conserves = ["mass", *draw(st.sampled_from([[], ["energy"], ["component.salt"], ["energy", "component.salt"]]))]
        closures = {"closure_u95_kg_s": 0.1, "closure_u95_kw": 50.0} if draw(st.booleans()) else {}
        nodes.append(node(f"n{i}", *conserves, **closures))
        if draw(st.integers(0, 3)) == 0:
            meters.append(level(f"n{i}", draw(st.sampled_from(["t", "m3", "m"]))))
        streams += [stream(f"in{i}", ENVIRONMENT, f"n{i}", **_keys(draw)), stream(f"out{i}", f"n{i}", ENVIRONMENT),
                    stream(f"heat{i}", ENVIRONMENT, f"n{i}", "heat"), stream(f"loss{i}", f"n{i}", ENVIRONMENT, "heat")]
    for k in range(draw(st.integers(0, 5)) if count > 1 else 0):
        a, b = draw(st.lists(st.sampled_from(range(count)), min_size=2, max_size=2, unique=True))
        carrier = draw(st.sampled_from(["water", "water", "steam", "material", "gas"]))
        streams.append(stream(f"s{k}", f"n{a}", f"n{b}", carrier, **_keys(draw, carrier)))
    return park_of(nodes, streams, meters)


def _keys(draw: st.DrawFn, carrier: str = "water") -> dict[str, Any]:
    """Delays, losses, a nominal flow: each or none."""
    keys: dict[str, Any] = {}
    if draw(st.booleans()):
        keys |= nominal(draw(st.floats(5.0, 80.0)))
    way = draw(st.sampled_from(["", "pipe", "volume", "belt"]))
    if way == "pipe":
        keys["property_delay_s"] = draw(st.floats(0.5, 90.0))
    elif way == "volume":
        keys["pipe_volume_m3"] = draw(st.floats(0.01, 0.5))
    elif way == "belt":
        keys["flow_delay_s"] = draw(st.floats(0.5, 90.0))
    if carrier in ("water", "steam") and draw(st.booleans()):
        keys["heat_loss_kw"] = {"value": draw(st.floats(0.0, 60.0)), "u95": 10.0}
    if draw(st.integers(0, 3)) == 0:
        keys["mass_loss_percent"] = {"value": draw(st.floats(0.0, 3.0)), "u95": 0.5}
    return keys


def finite(state: State, park: Park) -> bool:
    wet = np.array([s.has_enthalpy for s in park.streams])
    return bool(np.isfinite(state.mass_flow).all() and np.isfinite(state.temperature[:, wet]).all())
