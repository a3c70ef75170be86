"""Small parks for the tests of the simulators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from park.model import Park

OPCUA = "opc.tcp://127.0.0.1:4840"


def meter(id: str = "FT1", **keys: Any) -> dict[str, Any]:
    """A flow meter of the stream S1 at its sender, read over OPC UA unless said otherwise."""
    source = {"opcua": {"endpoint": OPCUA, "node_id": f"ns=2;s={id}"}}
    defaults = {"id": id, "stream": "S1", "side": "sender", "quantity": "mass_flow", "unit": "t/h",
                "u95_percent_of_reading": 2.0, "systematic_share": 0.5, "interval_s": 5.0, "source": source}
    return defaults | keys


def over_mqtt(id: str, topic: str | None = None, **paths: str) -> dict[str, Any]:
    """The source of a meter on MQTT."""
    default = {"value": "$.value", "time": "$.ts"}
    return {"mqtt": {"topic": topic or f"plant/{id}", **(paths or default)}}


def park_of(meters: list[dict[str, Any]], **keys: Any) -> Park:
    """Two companies, water from one to the other, and its return."""
    document: dict[str, Any] = {
        "park": {"name": "Two works", "timezone": "UTC", "window_s": 20, "lateness_s": 10},
        "participants": [{"id": "alpha", "name": "Alpha"}, {"id": "beta", "name": "Beta ø"}],
        "nodes": [{"id": "alpha.pump", "participant": "alpha", "conserves": ["mass"]},
                  {"id": "beta.vat", "participant": "beta", "conserves": ["mass"]}],
        "streams": [
            {"id": "S0", "from": "environment", "to": "alpha.pump", "carrier": "water",
             "nominal": {"value": 40, "unit": "t/h"}},
            {"id": "S1", "from": "alpha.pump", "to": "beta.vat", "carrier": "water",
             "nominal": {"value": 40, "unit": "t/h"}},
            {"id": "S2", "from": "beta.vat", "to": "environment", "carrier": "water",
             "nominal": {"value": 40, "unit": "t/h"}},
        ],
        "meters": meters,
        "exchanges": [
            {"id": "X1", "kind": "water", "stream": "S1", "settles": "mass", "unit": "t",
             "agreement": {"quality": [{"property": "conductivity", "unit": "uS/cm", "high": 900}]}},
            {"id": "X2", "kind": "energy", "stream": "S1", "settles": "energy", "unit": "MWh"},
        ],
    }
    return Park.model_validate(document | keys)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is so that signals nothing."""
    async with asyncio.timeout(seconds):
        while not condition():      # noqa: ASYNC110
            await asyncio.sleep(0.01)
