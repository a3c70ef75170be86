"""Parks for the tests of processing: a works with steam, condensate, a belt, a tank and district heat."""

from __future__ import annotations

from typing import Any

from park.model import Park

ENDPOINT = "opc.tcp://127.0.0.1:4840"


def meter(id: str, stream: str | None, side: str | None, quantity: str, unit: str, **keys: Any) -> dict[str, Any]:
    """A meter as park.yaml has it, over OPC UA."""
    entry = {"id": id, "quantity": quantity, "unit": unit, "systematic_share": 0.5, "interval_s": 5.0,
             "source": {"opcua": {"endpoint": ENDPOINT, "node_id": f"ns=2;s={id}"}}}
    if side is not None:
        entry |= {"side": side} | ({} if stream is None else {"stream": stream})
    return entry | keys


def flow(id: str, stream: str, side: str, percent: float, unit: str = "t/h", **keys: Any) -> dict[str, Any]:
    """A mass flow meter."""
    return meter(id, stream, side, "mass_flow", unit, u95_percent_of_reading=percent, **keys)


def thermometer(id: str, stream: str, side: str, u95: float = 1.0, **keys: Any) -> dict[str, Any]:
    """A thermometer."""
    return meter(id, stream, side, "temperature", "degC", u95_absolute=u95, **keys)


def manometer(id: str, stream: str, side: str, u95: float = 0.05, **keys: Any) -> dict[str, Any]:
    """A pressure gauge."""
    return meter(id, stream, side, "pressure", "bara", u95_absolute=u95, **keys)


def works(**keys: Any) -> Park:
    """A boiler house that sends steam, and gypsum by belt, to a neighbour; condensate returns through a tank."""
    document: dict[str, Any] = {
        "park": {"name": "Works", "timezone": "Europe/Copenhagen", "window_s": 20, "lateness_s": 10},
        "participants": [{"id": "power", "name": "Power"}, {"id": "plant", "name": "Plant"},
                         {"id": "town", "name": "Town"}],
        "nodes": [
            {"id": "power.boiler", "participant": "power", "conserves": ["mass", "energy"]},
            {"id": "power.header", "participant": "power", "conserves": ["mass", "energy"],
             "closure_u95_kg_s": 0.05, "closure_u95_kw": 150},
            {"id": "power.feed", "participant": "power", "conserves": ["mass"]},
            {"id": "power.scrubber", "participant": "power", "conserves": ["mass", "component.solids"]},
            {"id": "plant.steam", "participant": "plant", "conserves": ["mass"]},
            {"id": "plant.dryer", "participant": "plant", "conserves": ["mass", "component.solids"]},
            {"id": "town.exchanger", "participant": "town", "conserves": ["mass", "energy"]},
        ],
        "streams": [
            {"id": "FW", "from": "power.feed", "to": "power.boiler", "carrier": "water",
             "nominal": {"value": 60, "unit": "t/h"}},
            {"id": "Q", "from": "environment", "to": "power.boiler", "carrier": "heat",
             "nominal": {"value": 44, "unit": "MW"}},
            {"id": "BS", "from": "power.boiler", "to": "power.header", "carrier": "steam",
             "nominal": {"value": 60, "unit": "t/h"}},
            {"id": "S1", "from": "power.header", "to": "plant.steam", "carrier": "steam", "property_delay_s": 60,
             "heat_loss_kw": {"value": 400, "u95": 150}, "nominal": {"value": 40, "unit": "t/h"}},
            {"id": "S2", "from": "power.header", "to": "power.feed", "carrier": "steam",
             "nominal": {"value": 20, "unit": "t/h"}},
            {"id": "C1", "from": "plant.steam", "to": "power.feed", "carrier": "water",
             "mass_loss_percent": {"value": 1, "u95": 1}, "nominal": {"value": 30, "unit": "t/h"}},
            {"id": "C2", "from": "plant.steam", "to": "environment", "carrier": "water",
             "nominal": {"value": 10, "unit": "t/h"}},
            {"id": "MU", "from": "environment", "to": "power.feed", "carrier": "water",
             "nominal": {"value": 10.3, "unit": "t/h"}},
            {"id": "SL", "from": "environment", "to": "power.scrubber", "carrier": "material", "material": "slurry",
             "nominal": {"value": 30, "unit": "t/h"}},
            {"id": "GY", "from": "power.scrubber", "to": "plant.dryer", "carrier": "material", "material": "gypsum",
             "flow_delay_s": 50, "nominal": {"value": 20, "unit": "t/h"}},
            {"id": "WW", "from": "power.scrubber", "to": "environment", "carrier": "material",
             "nominal": {"value": 10, "unit": "t/h"}},
            {"id": "DG", "from": "plant.dryer", "to": "environment", "carrier": "material",
             "nominal": {"value": 17, "unit": "t/h"}},
            {"id": "VA", "from": "plant.dryer", "to": "environment", "carrier": "material",
             "nominal": {"value": 3, "unit": "t/h"}},
            {"id": "DS", "from": "plant.steam", "to": "town.exchanger", "carrier": "water", "pipe_volume_m3": 3.0,
             "nominal": {"value": 100, "unit": "t/h"}},
            {"id": "DR", "from": "town.exchanger", "to": "plant.steam", "carrier": "water",
             "property_delay_s": 30, "nominal": {"value": 100, "unit": "t/h"}},
            {"id": "QT", "from": "town.exchanger", "to": "environment", "carrier": "heat",
             "nominal": {"value": 4.6, "unit": "MW"}},
        ],
        "meters": [
            flow("FT1", "FW", "receiver", 1.5), thermometer("TT1", "FW", "receiver"),
            meter("QT1", "Q", "receiver", "heat_flow", "MW", u95_percent_of_reading=3.0),
            flow("FT2", "BS", "sender", 2.0), thermometer("TT2", "BS", "sender", 2.0),
            manometer("PT2", "BS", "sender"),
            flow("FT3", "S1", "sender", 1.5), flow("FT4", "S1", "receiver", 2.0),
            thermometer("TT3", "S1", "sender", 1.5), thermometer("TT4", "S1", "receiver", 1.5),
            manometer("PT3", "S1", "sender"), manometer("PT4", "S1", "receiver"),
            thermometer("TT5", "S2", "sender", 2.0),
            flow("FT6", "C1", "sender", 1.5), flow("FT7", "C1", "receiver", 1.5),
            thermometer("TT6", "C1", "sender"),
            flow("FT8", "C2", "sender", 2.0), flow("FT9", "MU", "receiver", 1.0), thermometer("TT9", "MU", "receiver"),
            flow("WT1", "GY", "sender", 2.0), flow("WT2", "GY", "receiver", 2.0), flow("WT3", "SL", "receiver", 2.0),
            flow("WT4", "DG", "sender", 1.5), flow("WT5", "VA", "sender", 5.0),
            meter("AT1", "GY", "sender", "quality.solids", "%", u95_absolute=0.8, interval_s=10.0),
            meter("AT2", "DG", "sender", "quality.solids", "%", u95_absolute=0.8, interval_s=10.0),
            meter("AT3", "SL", "receiver", "quality.solids", "%", u95_absolute=1.0, interval_s=10.0),
            meter("AT4", "WW", "sender", "quality.solids", "%", u95_absolute=0.3, interval_s=10.0),
            meter("AT5", "VA", "sender", "quality.solids", "%", u95_absolute=0.3, interval_s=10.0),
            meter("LT1", None, None, "inventory", "t", node="power.feed", u95_absolute=0.05, interval_s=5.0),
            meter("VT1", "DS", "sender", "volume_flow", "m3/h", u95_percent_of_reading=1.0),
            thermometer("TT10", "DS", "sender", 0.5), thermometer("TT11", "DS", "receiver", 0.5),
            thermometer("TT12", "DR", "sender", 0.5), thermometer("TT13", "DR", "receiver", 0.5),
            meter("QT2", None, "receiver", "heat_flow", "MW", streams={"DS": 1, "DR": -1},
                  u95_percent_of_reading=2.0),
            meter("QT3", "QT", "sender", "power", "MW", u95_percent_of_reading=2.0),
        ],
        "exchanges": [
            {"id": "X1", "kind": "energy", "stream": "S1", "settles": "energy", "unit": "MWh",
             "agreement": {"tolerance_percent": 3, "quality": [
                 {"property": "temperature", "unit": "degC", "low": 180, "high": 240, "delay_on_s": 40,
                  "delay_off_s": 40, "deadband": 1}]}},
            {"id": "X2", "kind": "water", "stream": "C1", "settles": "mass", "unit": "t",
             "agreement": {"tolerance_percent": 2}},
            {"id": "X3", "kind": "material", "stream": "GY", "settles": "mass", "unit": "t",
             "agreement": {"tolerance_percent": 3, "avoids": {"material_t_per_unit": 1.0}}},
            {"id": "X4", "kind": "energy", "streams": {"DS": 1, "DR": -1}, "settles": "energy", "unit": "MWh",
             "agreement": {"tolerance_percent": 3}},
            {"id": "X5", "kind": "water", "stream": "DS", "settles": "volume", "unit": "m3"},
        ],
    }
    return Park.model_validate(document | keys)


SCENARIO: dict[str, Any] = {
    "streams": {
        "FW": {"temperature": {"value": 105, "unit": "degC"}, "pressure": {"value": 30, "unit": "bar"}},
        "BS": {"temperature": {"value": 230, "unit": "degC"}, "pressure": {"value": 14, "unit": "bar"}},
        "S1": {"temperature": {"value": 228, "unit": "degC"}, "pressure": {"value": 13, "unit": "bar"},
               "pressure_drop": {"value": 1, "unit": "bar"}},
        "S2": {"temperature": {"value": 228, "unit": "degC"}, "pressure": {"value": 13, "unit": "bar"}},
        "C1": {"temperature": {"value": 90, "unit": "degC"}},
        "C2": {"temperature": {"value": 40, "unit": "degC"}},
        "MU": {"temperature": {"value": 15, "unit": "degC"}},
        "DS": {"temperature": {"value": 85, "unit": "degC"}, "pressure": {"value": 6, "unit": "bar"}},
        "DR": {"temperature": {"value": 45, "unit": "degC"}, "pressure": {"value": 4, "unit": "bar"}},
        "SL": {"properties": {"solids": {"value": 62, "unit": "%"}}},
        "GY": {"properties": {"solids": {"value": 90, "unit": "%"}}},
        "WW": {"properties": {"solids": {"value": 6, "unit": "%"}}},
        "DG": {"properties": {"solids": {"value": 99, "unit": "%"}}},
        "VA": {"properties": {"solids": {"value": 1, "unit": "%"}}},
    },
}
