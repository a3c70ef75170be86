"""What a Sparkplug host makes of its nodes' messages: each rule where it stays silent and where it fires."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from collector.register import SPARKPLUG, register_of
from collector.rejections import Rejections
from collector.sparkplug import order
from collector.sparkplug.doubt import ANSWER_S, REBIRTH_S
from collector.sparkplug.host import Host
from collector.sparkplug.order import REORDER_S
from collector.sparkplug.readings import NO_COMMUNICATION
from collector.sparkplug.wire import Payload, rebirth
from collector.times import micros
from simulators import sparkplug_wire
from tests.collector.running import START, meter, park_of

T0 = micros(START)
DOUBLE, INT32, INT64 = 10, 3, 4
FT, TT, LT = 0, 1, 2            # places: two of the node's device, one of the node itself


def spark(id: str, metric: str, device: str | None = None, **keys: Any) -> dict[str, Any]:
    return meter(id, {"sparkplug": {"group": "g", "edge_node": "e", "device": device, "metric": metric}}, **keys)


PARK = park_of(spark("FT", "flow", "d"), spark("TT", "temp", "d"), spark("LT", "level"))


def message(seq: int | None, *metrics: dict[str, Any], tick: float = 0.0) -> bytes:
    payload = Payload(timestamp=T0 // 1000 + round(1000 * tick))
    for metric in metrics:
        payload.metrics.add(**metric)
    if seq is not None:
        payload.seq = seq
    return payload.SerializeToString()


def bd(number: int) -> dict[str, Any]:
    return {"name": "bdSeq", "datatype": INT64, "long_value": number}


class Plant:
    """A host, and what came out of it; the clock runs by `wait`."""

    def __init__(self) -> None:
        self.rejections = Rejections()
        self.host = Host(register_of(PARK), self.rejections)
        self.host.confirmed(0.0)                # an old connection: it began before there was anybody to ask
        for node in self.host._nodes.values():
            node.doubt.born()
        self.now = 100.0
        self.rows: list[tuple[int, int, float, int]] = []
        self.causes: list[tuple[str, bool]] = []
        self.commands: list[str] = []

    def hear(self, kind: str, payload: bytes, *, node: str = "e", retained: bool = False) -> None:
        topic = f"spBv1.0/g/{kind}/{node}" + ("/d" if kind.startswith("D") else "")
        self.host.receive(topic, payload, self.received_us, self.now, retained=retained)
        self._take()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.host.tick(self.now, self.received_us)
        self._take()

    @property
    def received_us(self) -> int:
        return T0 + round((self.now - 100.0) * 1e6)

    def _take(self) -> None:
        segments, commands = self.host.take()
        for segment in segments:
            if segment.interruption is not None:
                self.causes.append((segment.interruption.cause, segment.interruption.kept))
            rows = segment.rows
            self.rows += zip(rows.place, ((us - T0) // 1000 for us in rows.source_us), rows.value, rows.status,
                             strict=True)
        self.commands += [command.topic for command in commands]

    def born(self, seq: int = 0, number: int = 7, *, tick: float = 0.0) -> None:
        self.hear("NBIRTH", message(seq, bd(number), {"name": "level", "alias": 1, "datatype": DOUBLE,
                                                      "is_null": True}, tick=tick))
        self.hear("DBIRTH", message((seq + 1) % 256, {"name": "flow", "alias": 2, "datatype": DOUBLE, "is_null": True},
                                    {"name": "temp", "alias": 3, "datatype": INT32, "is_null": True},
                                    {"name": "other", "alias": 4, "datatype": DOUBLE, "double_value": 1.0}))

    def flow(self, seq: int | None, value: float) -> None:
        self.hear("DDATA", message(seq, {"alias": 2, "double_value": value, "timestamp": T0 // 1000 + round(value)}))

    @property
    def values(self) -> list[float]:
        return [row[2] for row in self.rows]

    @property
    def reasons(self) -> dict[str, int]:
        return self.rejections.by_reason(SPARKPLUG)


@pytest.fixture
def plant() -> Plant:
    made = Plant()
    made.born()
    return made


def test_only_needed_groups_are_subscribed():
    assert Plant().host.topics == ["spBv1.0/g/#"]


def test_data_are_readings_by_alias_or_name_at_their_own_time_or_the_payloads(plant):
    plant.hear("DDATA", message(2, {"alias": 2, "double_value": 1.5, "timestamp": T0 // 1000 + 250},
                                {"name": "temp", "int_value": 0xFFFFFFF4}, tick=0.5))
    plant.hear("NDATA", message(3, {"alias": 1, "double_value": 2.5, "is_historical": True,
                                    "timestamp": T0 // 1000 - 9_000}))
    assert plant.rows == [(FT, 250, 1.5, 0), (TT, 500, -12.0, 0), (LT, -9000, 2.5, 0)]
    assert (plant.reasons, plant.commands, plant.causes) == ({}, [], [])


def test_values_of_a_birth_are_readings_but_a_null_before_the_first_is_none(plant):
    assert plant.rows == []
    plant.flow(2, 5.0)
    plant.hear("DBIRTH", message(3, {"name": "flow", "alias": 2, "datatype": DOUBLE, "is_null": True},
                                 {"name": "temp", "alias": 3, "datatype": INT32, "int_value": 4}, tick=1))
    assert plant.rows[0] == (FT, 5, 5.0, 0)
    assert plant.rows[1][:2] == (FT, 1000)
    assert math.isnan(plant.rows[1][2])
    assert plant.rows[2] == (TT, 1000, 4.0, 0)


def test_metrics_that_are_not_in_the_park_are_counted_and_no_fault(plant):
    plant.hear("DDATA", message(2, {"alias": 4, "double_value": 1.0}))
    assert (plant.rows, plant.reasons, plant.host.ignored) == ([], {}, 2)


def test_nodes_that_are_not_in_the_park_and_commands_are_passed_over(plant):
    plant.hear("NDATA", b"\xff\xff", node="elsewhere")
    plant.hear("NCMD", b"\xff\xff")
    plant.host.receive("spBv1.0/g/NDATA", b"", T0, 0.0)
    assert (plant.rows, plant.reasons) == ([], {})


@pytest.mark.parametrize("first", [0, 200, 254, 255])
def test_the_sequence_begins_anywhere_and_wraps(first):
    plant = Plant()
    plant.born(first)
    for k in range(2, 600):
        plant.flow((first + k) % 256, float(k))
    assert plant.values == [float(k) for k in range(2, 600)]
    assert (plant.causes, plant.commands) == ([], [])


def test_messages_out_of_order_are_put_in_order(plant):
    plant.flow(4, 4.0)
    plant.flow(3, 3.0)
    assert (plant.values, plant.host.held) == ([], 2)
    plant.flow(2, 2.0)
    assert (plant.values, plant.host.held) == ([2.0, 3.0, 4.0], 0)
    plant.wait(2 * REORDER_S)
    assert (plant.causes, plant.commands, plant.host.due_in(plant.now)) == ([], [], None)


def test_a_message_that_never_comes_is_a_gap_and_a_request_for_a_rebirth(plant):
    plant.flow(3, 3.0)
    plant.flow(5, 5.0)
    assert plant.host.due_in(plant.now) == pytest.approx(REORDER_S)
    plant.wait(0.9 * REORDER_S)
    assert plant.values == []
    plant.wait(0.2 * REORDER_S)
    assert plant.values == [3.0, 5.0]
    assert plant.causes == [("messages of g/e are missing", False)]
    assert plant.commands == ["spBv1.0/g/NCMD/e"]
    plant.flow(6, 6.0)
    assert plant.values == [3.0, 5.0, 6.0]


def test_a_late_or_repeated_message_is_read_and_moves_nothing(plant):
    for seq in (2, 3, 2, 3, 4):
        plant.flow(seq, float(seq))
    assert plant.values == [2.0, 3.0, 2.0, 3.0, 4.0]
    assert (plant.causes, plant.commands, plant.host.held) == ([], [], 0)


def test_a_flood_behind_a_gap_is_not_held_for_ever(plant, monkeypatch):
    monkeypatch.setattr(order, "MOST_HELD", 5)
    for seq in range(3, 8):
        plant.flow(seq, float(seq))
    assert plant.values == [3.0, 4.0, 5.0, 6.0, 7.0]


def test_a_birth_that_comes_twice_changes_nothing(plant):
    plant.flow(2, 2.0)
    plant.hear("NBIRTH", message(0, bd(7), {"name": "level", "alias": 1, "datatype": DOUBLE, "is_null": True}))
    plant.flow(3, 3.0)
    assert (plant.values, plant.causes, plant.commands) == ([2.0, 3.0], [], [])


def test_a_new_birth_gives_new_aliases(plant):
    plant.flow(2, 2.0)
    plant.hear("NBIRTH", message(0, bd(7), tick=1))
    plant.hear("DBIRTH", message(1, {"name": "flow", "alias": 3, "datatype": DOUBLE, "is_null": False,
                                     "double_value": 9.0}, {"name": "temp", "alias": 2, "datatype": INT32,
                                                            "int_value": 1}, tick=1))
    plant.hear("DDATA", message(2, {"alias": 2, "int_value": 8}, tick=2))
    assert [(place, value) for place, _, value, _ in plant.rows] == [(FT, 2.0), (FT, 9.0), (TT, 1.0), (TT, 8.0)]


def test_an_unknown_alias_is_one_throttled_request(plant):
    for seq in range(2, 10):
        plant.hear("DDATA", message(seq, {"alias": 99, "double_value": 1.0},
                                    {"alias": 2, "double_value": float(seq), "timestamp": T0 // 1000}))
    assert plant.values == [float(seq) for seq in range(2, 10)]
    assert plant.reasons == {"unknown alias": 8}
    assert plant.commands == ["spBv1.0/g/NCMD/e"]
    plant.wait(1.1 * REBIRTH_S)
    plant.hear("DDATA", message(10, {"alias": 99, "double_value": 1.0}))
    plant.wait(1.1 * REBIRTH_S)
    plant.hear("DDATA", message(11, {"alias": 99, "double_value": 1.0}))
    assert len(plant.commands) == 2         # the node does not answer: asked at ever longer times


def test_data_before_any_birth_ask_for_it_and_are_no_readings():
    plant = Plant()
    assert plant.commands == []
    plant.flow(17, 1.0)
    plant.flow(18, 1.0)
    assert (plant.rows, plant.commands) == ([], ["spBv1.0/g/NCMD/e"])
    plant.born()
    plant.flow(2, 2.0)
    assert plant.values == [2.0]


def test_data_of_a_device_without_birth_ask_for_it():
    plant = Plant()
    plant.hear("NBIRTH", message(0, bd(1)))
    plant.hear("DDATA", message(1, {"alias": 2, "double_value": 1.0}))
    assert (plant.rows, len(plant.commands)) == ([], 1)


def test_a_dead_node_makes_all_its_meters_bad_from_that_instant(plant):
    plant.flow(2, 2.0)
    plant.wait(3.0)
    plant.hear("NDEATH", message(None, bd(7)))
    assert sorted((place, ms, status) for place, ms, _, status in plant.rows[1:]) == [
        (FT, 3000, NO_COMMUNICATION), (TT, 3000, NO_COMMUNICATION), (LT, 3000, NO_COMMUNICATION)]
    assert all(math.isnan(value) for value in plant.values[1:])
    assert plant.causes == [("g/e is dead", True)]
    plant.hear("NDEATH", message(None, bd(7)))
    assert len(plant.rows) == 4
    plant.flow(3, 3.0)
    assert (len(plant.rows), plant.commands) == (4, ["spBv1.0/g/NCMD/e"])
    plant.wait(1.0)
    plant.born(number=8, tick=4)
    plant.flow(2, 4.0)
    assert plant.values[-1] == 4.0


def test_the_death_of_an_earlier_life_kills_nobody_who_speaks(plant):
    plant.hear("NDEATH", message(None, bd(6)))
    assert plant.commands == ["spBv1.0/g/NCMD/e"]
    plant.flow(2, 2.0)
    plant.wait(2 * ANSWER_S)
    assert (plant.values, plant.reasons) == ([2.0], {})


def test_a_node_that_says_goodbye_with_a_wrong_number_is_asked_and_dead_if_it_does_not_answer(plant):
    plant.flow(2, 2.0)
    plant.wait(1.0)
    plant.hear("NDEATH", message(None, bd(8)))
    assert (plant.values, plant.commands, plant.host.is_in_doubt) == ([2.0], ["spBv1.0/g/NCMD/e"], True)
    plant.wait(1.1 * ANSWER_S)
    assert sorted(row[:2] for row in plant.rows[1:]) == [(FT, 1000), (TT, 1000), (LT, 1000)]
    assert {row[3] for row in plant.rows[1:]} == {NO_COMMUNICATION}
    assert not plant.host.is_in_doubt


def test_a_node_that_died_before_it_was_known_is_asked_and_bad_from_then_if_it_does_not_answer():
    plant = Plant()
    plant.hear("NDEATH", message(None, bd(7)))
    assert (plant.rows, plant.commands) == ([], ["spBv1.0/g/NCMD/e"])
    assert plant.host.due_in(plant.now) == pytest.approx(ANSWER_S)
    plant.wait(1.1 * ANSWER_S)
    assert sorted((place, ms, status) for place, ms, _, status in plant.rows) == [
        (place, 0, NO_COMMUNICATION) for place in (FT, TT, LT)]
    assert plant.host.due_in(plant.now) is None
    plant.hear("NDEATH", message(None, bd(7)))
    plant.wait(2 * ANSWER_S)
    assert (len(plant.rows), len(plant.commands)) == (3, 1)


@pytest.mark.parametrize("speaks", ["birth", "data"])
def test_a_node_that_answers_is_not_dead(speaks):
    plant = Plant()
    plant.hear("NDEATH", message(None, bd(6)))
    if speaks == "birth":
        plant.born()
    else:
        plant.flow(2, 1.0)
    plant.wait(2 * ANSWER_S)
    assert all(status != NO_COMMUNICATION for *_, status in plant.rows)


def test_a_death_comes_after_the_last_reading_whatever_its_clock_says(plant):
    plant.hear("DDATA", message(2, {"alias": 2, "double_value": 1.0}, tick=60))
    plant.hear("NDEATH", message(None, bd(7)))
    assert plant.rows[1][:2] == (FT, 60_000)        # a microsecond later
    assert plant.rows[1][3] == NO_COMMUNICATION


def test_a_dead_device_takes_its_own_meters_alone(plant):
    plant.hear("DDEATH", message(2, tick=1))
    assert sorted(row[:2] for row in plant.rows) == [(FT, 1000), (TT, 1000)]
    plant.hear("NDATA", message(3, {"alias": 1, "double_value": 6.0}))
    assert plant.rows[-1][0] == LT
    assert plant.commands == []
    plant.flow(4, 4.0)
    assert (plant.rows[-1][0], len(plant.commands)) == (LT, 1)


@pytest.mark.parametrize(("payload", "reason"), [
    (b"\xff\xff\xff", "payload is not Sparkplug B"),
    (b"\x12\x04\x0a\x02\xff\xfe", "metric is not in the BIRTH"),
    (bytes(5 << 20), "payload is larger than 4 MiB"),
])
def test_what_is_no_payload_is_counted(plant, payload, reason):
    plant.hear("DDATA", payload)
    plant.flow(2, 2.0)
    assert (plant.reasons, plant.values) == ({reason: 1}, [2.0])


def test_a_name_that_is_not_utf_8_harms_no_other(plant):
    plant.hear("DBIRTH", message(2, {"name": "flow", "alias": 2, "datatype": DOUBLE, "double_value": 4.0})
               + b"\x12\x06\x0a\x02\xff\xfe\x10\x63")
    assert plant.values == [4.0]


def test_a_retained_message_is_counted_and_not_read(plant):
    plant.hear("DDATA", message(2, {"alias": 2, "double_value": 1.0}), retained=True)
    assert (plant.rows, plant.reasons) == ([], {"message is retained": 1})


def test_unknown_fields_are_skipped(plant):
    plant.hear("DDATA", message(2, {"alias": 2, "double_value": 1.0}) + b"\x2a\x03abc" + b"\xf8\x07\x05")
    assert plant.values == [1.0]


def test_what_a_simulated_node_writes_is_read(plant):
    metrics = [sparkplug_wire.Metric(-1.5, alias=2, time_ms=T0 // 1000, status=0x40930000),
               sparkplug_wire.Metric(None, alias=1, time_ms=T0 // 1000 + 1, historical=True, status=0x80310000),
               sparkplug_wire.Metric(-7, alias=3)]
    plant.hear("DDATA", sparkplug_wire.payload(T0 // 1000 + 2, metrics, 2))
    assert [(place, ms, status) for place, ms, _, status in plant.rows] == [(FT, 0, 0x40930000), (TT, 2, 0)]
    assert (plant.values, plant.reasons) == ([-1.5, -7.0], {"unknown alias": 1})
    assert sparkplug_wire.asks_rebirth(rebirth(1))
    assert not sparkplug_wire.asks_rebirth(b"\xff")
    assert not sparkplug_wire.asks_rebirth(sparkplug_wire.payload(1, [sparkplug_wire.Metric(False, "a")], None))


def test_the_short_way_reads_what_the_long_way_reads(monkeypatch):
    dice = random.Random(3)
    names = {"a": 10, "b": 9, "c": 10, "d": 3, "e": 10}
    park = park_of(*(spark(name.upper(), name) for name in "abcd"))
    born = message(0, bd(0), *({"name": name, "alias": alias, "datatype": datatype, "is_null": True}
                               for alias, (name, datatype) in enumerate(names.items())))
    data = []
    for k in range(400):
        made = Payload(timestamp=T0 // 1000 + k, seq=(k + 1) % 256)
        for _ in range(dice.randrange(6)):
            metric = made.metrics.add()
            if dice.random() < 0.9:
                metric.alias = dice.randrange(7)
            if dice.random() < 0.9:
                metric.timestamp = max(0, T0 // 1000 + dice.choice([k, -k, 10**9, -2 * 10**12]))
            field, value = dice.choice([
                ("double_value", 1.5 * k), ("double_value", 0.0), ("double_value", math.nan), ("float_value", 2.0 + k),
                ("double_value", -math.inf), ("int_value", k), ("is_null", True), ("is_historical", True)])
            setattr(metric, field, value)
        data.append(made.SerializeToString())
    found = []
    for short in (True, False):
        if not short:
            monkeypatch.setattr(order.Message, "tells_quality", True)
        rejections = Rejections(log=False)
        host = Host(register_of(park), rejections)
        host.confirmed(0.0)
        host.receive("spBv1.0/g/NBIRTH/e", born, T0 + 10**7, 0.0)
        for payload in data:
            host.receive("spBv1.0/g/NDATA/e", payload, T0 + 10**7, 0.0)
        columns = [(of.place, of.source_us, of.value, of.status) for _, of in host.take()[0]]
        rows = sorted((row for of in columns for row in zip(*of, strict=True)), key=repr)
        found.append((repr(rows), rejections.by_reason(SPARKPLUG), host.ignored))
    assert found[0] == found[1]
    assert found[0][0].count("(") > 100
