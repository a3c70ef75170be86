"""What a service that is run by hand says of itself: every state that one tells has words."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from symbiosis.said import _WORDS, in_words

ROOT = Path(__file__).parents[2]
TELLERS = {"on_state", "_on_state", "tell", "_tell"}
BY_THEMSELVES = {"source", "store", "unserved", "late", "note"}       # logged at each change, or words already


@pytest.mark.parametrize(("state", "detail", "words"), [
    ("serving", {"opcua": 2, "mqtt": 1, "sparkplug": 0, "epoch": 1.0,
                 "endpoints": {"opc.tcp://a:1": "opc.tcp://127.0.0.1:5"}},
     "serving meters: 2 over OPC UA, 1 over MQTT; OPC UA at opc.tcp://127.0.0.1:5"),
    ("serving", {"opcua": 0, "mqtt": 3, "endpoints": {}}, "serving meters: 3 over MQTT"),
    ("armed", {"sent": 0}, "readings count from now on, and the schedule of faults begins"),
    ("armed", {"opcua": 2, "mqtt": 0}, "every subscription is in force: meters: 2 over OPC UA"),
    ("drained", {"queued": 0, "mqtt": 0}, "stopped, and everything that was sent is delivered"),
    ("drained", {"queued": 0, "mqtt": 4}, "stopped, before everything was delivered"),
    ("waiting", {"for": {"mqtt": "refused"}}, "waiting for mqtt"),
    ("waiting", {"for": "the database"}, "waiting for the database"),
    ("waiting", {"reason": "connection refused"}, "waiting for the database"),
    ("not_collected", {"count": 7, "meters": {"A": "mqtt: refused"}}, "meters that are refused: 7 (A: mqtt: refused)"),
    ("not_collected", {"count": 0, "meters": {}}, "no meter is refused any more"),
    ("window", {"readings": 5, "reconciled": 3, "start": "x"},
     "the first window is stored: 5 readings, 3 flows reconciled"),
    ("a new one", {"a": 1}, "a new one a=1"),
])
def test_a_state_in_words(state: str, detail: dict[str, object], words: str) -> None:
    assert in_words(state, detail) == words


@pytest.mark.parametrize("file", ["simulators/serve.py", "collector/agent.py", "processing/cycle.py"])
def test_every_state_that_a_service_tells_has_words(file: str) -> None:
    calls = [node for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if isinstance(node, ast.Call)]
    told = {call.args[0].value for call in calls
            if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
            and (getattr(call.func, "attr", "") or getattr(call.func, "id", "")) in TELLERS}
    assert told
    assert told <= _WORDS.keys() | BY_THEMSELVES
