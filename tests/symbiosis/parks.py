"""A park of two meters for the tests of the report."""

from __future__ import annotations

from park.model import Park


def small_park(**info) -> Park:
    """Return a park with one OPC UA and one MQTT meter on two streams in a row."""
    return Park.model_validate({
        "park": {"name": "Small", "timezone": "UTC", "window_s": 10, "lateness_s": 5, **info},
        "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
        "nodes": [
            {"id": "a.n", "participant": "a", "conserves": ["mass"]},
            {"id": "b.n", "participant": "b", "conserves": ["mass"]},
            {"id": "b.m", "participant": "b", "conserves": []},
        ],
        "streams": [
            {"id": "S0", "from": "environment", "to": "a.n", "carrier": "water"},
            {"id": "S1", "from": "a.n", "to": "b.n", "carrier": "water", "property_delay_s": 20},
            {"id": "S2", "from": "b.n", "to": "b.m", "carrier": "water"},
            {"id": "S3", "from": "b.m", "to": "environment", "carrier": "water"},
        ],
        "meters": [
            {"id": "a.F", "stream": "S1", "side": "sender", "quantity": "mass_flow", "unit": "t/h", "interval_s": 5,
             "u95_percent_of_reading": 1, "source": {"opcua": {"endpoint": "opc.tcp://h:1", "node_id": "ns=2;s=a.F"}}},
            {"id": "b.T", "stream": "S1", "side": "receiver", "quantity": "temperature", "unit": "degC",
             "interval_s": 10, "u95_absolute": 1, "source": {"mqtt": {"topic": "b/T"}}},
        ],
        "exchanges": [{"id": "X1", "kind": "water", "stream": "S1", "settles": "mass", "unit": "t"}],
    })
