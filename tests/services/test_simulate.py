"""A simulated park from the clock to real subscribers: what was sent is what they got."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from asyncua import Client, ua
from paho.mqtt.enums import CallbackAPIVersion

from park.clock import RunClock
from park.errors import InputError, OperationError
from park.model import Park
from simulators import serve
from simulators.scenario import Scenario
from simulators.serve import eu_range, simulate
from tests.fixtures.broker import TestBroker, leave
from tests.simulators.parks import OPCUA, meter, over_mqtt, park_of, until

ALPHA, BETA = OPCUA, "opc.tcp://127.0.0.1:4841/beta"
Sample = tuple[str, float, float | None, int]          # meter, source time [s], value, status


def at(endpoint: str, node: str) -> dict[str, object]:
    return {"opcua": {"endpoint": endpoint, "node_id": f"ns=2;s={node}"}}


METERS = [
    *(meter(f"A{i}", source=at(ALPHA, f"A{i}"), interval_s=2.0) for i in range(20)),
    *(meter(f"B{i}", side="receiver", source=at(BETA, f"B{i}"), interval_s=5.0) for i in range(10)),
    *(meter(f"M{i}", side="receiver", source=over_mqtt(f"M{i}"), interval_s=2.0) for i in range(10)),
    meter("P1", source=over_mqtt("", "pair", value="$.flow", time="$.ts")),
    meter("P2", source=over_mqtt("", "pair", value="$.temp", time="$.ts"), quantity="temperature", unit="degC",
          u95_absolute=0.5),
]
PARK = park_of(METERS)


@dataclass
class Run:
    """A simulation under way, and its files."""

    folder: Path
    clock: RunClock
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    armed: asyncio.Event = field(default_factory=asyncio.Event)
    states: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def state(self, name: str) -> dict[str, object] | None:
        return next((data for state, data in self.states if state == name), None)

    def sent(self) -> tuple[list[Sample], list[Sample]]:
        """What was sent before the line `armed`, and after it."""
        before: list[Sample] = []
        after: list[Sample] | None = None
        with (self.folder / "sent.csv").open(encoding="utf-8", newline="") as file:
            for row in list(csv.reader(file))[1:]:
                if row == ["armed"]:
                    after = []
                    continue
                sample = (row[0], seconds(row[2]), float(row[3]) if row[3] else None, int(row[4]))
                (before if after is None else after).append(sample)
        return before, after or []

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def fast(speed: float = 40.0) -> RunClock:
    """A run that began an hour ago and goes at `speed`."""
    now = time.time()
    return RunClock(epoch=now, start=now - 3600.0, speed=speed)


@asynccontextmanager
async def simulating(folder: Path, broker: str = "mqtt://127.0.0.1:1", park: Park = PARK, *,
                     scenario: Scenario | None = None, clock: RunClock | None = None) -> AsyncIterator[Run]:
    run = Run(folder, clock or fast())
    task = asyncio.create_task(simulate(
        park, scenario or Scenario(), run.clock, seed=3, endpoints={ALPHA: "opc.tcp://127.0.0.1:0",
                                                                   BETA: "opc.tcp://127.0.0.1:0/beta"},
        broker=broker, sent=folder / "sent.csv", truth=folder / "truth.csv", faults=folder / "faults.csv",
        stop=run.stop, armed=run.armed, on_state=lambda name, data: run.states.append((name, data))))
    await until(lambda: task.done() or run.state("serving") is not None)
    if task.done():
        task.result()
    yield run
    run.stop.set()
    async with asyncio.timeout(15):
        await task


class Got:
    """Every good reading that came over either protocol."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.names: dict[ua.NodeId, str] = {}

    def datachange_notification(self, node: object, value: object, data: object) -> None:
        item = data.monitored_item.Value                            # type: ignore[attr-defined]
        if item.StatusCode.value != ua.StatusCodes.BadWaitingForInitialData:
            name = self.names[node.nodeid]                          # type: ignore[attr-defined]
            self.samples.append((name, item.SourceTimestamp.replace(tzinfo=UTC).timestamp(), item.Value.Value,
                                 item.StatusCode.value))

    def on_message(self, client: object, data: object, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        time = seconds(body["ts"])
        if message.topic == "pair":
            pair = (("P1", "flow"), ("P2", "temp"))
            self.samples += [(name, time, body[key], 0) for name, key in pair if key in body]
        else:
            self.samples.append((message.topic.removeprefix("plant/"), time, body["value"], 0))


@asynccontextmanager
async def subscribed(run: Run, got: Got, broker: TestBroker) -> AsyncIterator[None]:
    listener = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener")
    in_force = asyncio.Event()
    loop = asyncio.get_running_loop()
    listener.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
    listener.on_subscribe = lambda *rest: loop.call_soon_threadsafe(in_force.set)
    listener.on_message = got.on_message
    listener.connect("127.0.0.1", broker.port)
    listener.loop_start()
    await in_force.wait()
    endpoints = (run.state("serving") or {})["endpoints"]
    assert isinstance(endpoints, dict)
    async with Client(endpoints[ALPHA]) as alpha, Client(endpoints[BETA]) as beta:
        for client, letter in ((alpha, "A"), (beta, "B")):
            subscription = await client.create_subscription(100, got)
            nodes = [client.get_node(f"ns=2;s={m.id}") for m in PARK.meters if m.id.startswith(letter)]
            got.names |= {node.nodeid: str(node.nodeid.Identifier) for node in nodes}
            await subscription._subscribe(
                nodes, queuesize=1000, mfilter=ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp))
        yield
    leave(listener)


async def test_subscribers_get_every_reading_that_was_sent_and_nothing_else(any_broker: TestBroker, tmp_path: Path):
    got = Got()
    async with simulating(tmp_path, any_broker.url) as run, subscribed(run, got, any_broker):
        run.armed.set()
        await until(lambda: run.state("armed") is not None)
        armed_at = run.clock.now()
        await until(lambda: run.clock.now() > armed_at + 60)
        run.stop.set()
        await until(lambda: run.state("drained") is not None)
        before, after = run.sent()
        await until(lambda: set(after) <= set(got.samples))
        assert set(got.samples) <= set(before) | set(after)
        assert len(got.samples) == len(set(got.samples))
    times = [t for _, t, _, _ in after]
    assert max(times) - min(times) >= 50
    per_second = 30 / 2 + 10 / 5 + 2 / 5
    assert len(after) == pytest.approx((max(times) - min(times) + 2) * per_second, abs=30)      # a tick at either end
    assert run.state("drained") == {"queued": 0, "unacknowledged": 0, "abandoned": 0, "mqtt": 0, "given_up": 0}
    assert run.state("serving") is not None
    assert [name for name, _ in run.states if name not in ("late", "on_time")] == ["serving", "armed", "drained"]


async def test_instruments_sample_on_the_run_clock_alone_and_never_skip(broker: TestBroker, tmp_path: Path):
    async with simulating(tmp_path, broker.url) as run:
        await until(lambda: (tmp_path / "sent.csv").read_text(encoding="utf-8").count("A0,") > 3)
        time.sleep(1.5)                                      # noqa: ASYNC251  (the whole process lags)
        late = run.clock.now()
        await until(lambda: run.state("on_time") is not None)
        run.armed.set()
        await until(lambda: run.state("armed") is not None and run.clock.now() > late + 20)
    before, after = run.sent()
    for name, interval in (("A0", 2.0), ("B0", 5.0), ("P1", 5.0)):
        times = [t for meter_id, t, _, _ in before + after if meter_id == name]
        assert [t % interval for t in times] == [0.0] * len(times)
        assert times == list(range(int(times[0]), int(times[-1]) + 1, int(interval)))
    names = [name for name, _ in run.states]
    assert names.index("serving") < names.index("late") < names.index("on_time") < names.index("armed")
    assert {row["seq"] for row in run.rows("sent.csv") if row["meter"] == "A0"} == {
        str(n) for n in range(sum(s[0] == "A0" for s in before + after))}


async def test_the_same_start_and_seed_give_the_same_readings(tmp_path: Path):
    clock = fast()
    park = park_of([m for m in METERS if m["id"][0] in "AB"])
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with simulating(folders[0], park=park, clock=clock), simulating(folders[1], park=park, clock=clock) as second:
        serving = clock.now()
        await until(lambda: len(second.sent()[0]) > 400 and clock.now() > serving + 40)
    sent = [{(m, t): v for m, t, v, _ in Run(folder, clock).sent()[0]} for folder in folders]
    truth = [{(r["window_start"], r["stream"], r["quantity"]): r["value"] for r in Run(folder, clock).rows("truth.csv")}
             for folder in folders]
    for first, second, least in ((*sent, 200), (*truth, 5)):
        common = set(first) & set(second)
        assert len(common) > least
        assert [first[key] for key in common] == [second[key] for key in common]


@pytest.mark.parametrize(("began_s", "notes"), [(2000.0, 1), (0.0, 0)])
async def test_simulators_that_are_started_again_say_that_they_play_the_plant_again(
    tmp_path: Path, began_s: float, notes: int
):
    began = time.time() - began_s
    park = park_of([meter(source={"opcua": {"endpoint": ALPHA, "node_id": "ns=2;s=A"}})])
    async with simulating(tmp_path, park=park, clock=RunClock(began, began, 1.0)) as run:
        run.armed.set()
        await until(lambda: run.state("armed") is not None)     # it has come to the present
    said = [str(data["text"]) for state, data in run.states if state == "note"]
    assert len(said) == notes
    assert all("from the start of the run, 0.6 h ago" in text for text in said)


async def test_faults_begin_after_arming_and_are_recorded(broker: TestBroker, tmp_path: Path):
    scenario = Scenario.model_validate({"faults": [
        {"id": "silence", "kind": "dropout", "subject": "A1", "after_s": 20, "duration_s": 20},
        {"id": "later", "kind": "dropout", "subject": "A2", "after_s": 4000, "duration_s": 20}]})
    async with simulating(tmp_path, broker.url, scenario=scenario) as run:
        assert run.rows("faults.csv") == []
        run.armed.set()
        await until(lambda: run.state("armed") is not None)
        armed_at = run.clock.now()
        await until(lambda: run.clock.now() > armed_at + 70)
    (fault,) = run.rows("faults.csv")
    started, ended = seconds(fault["started_at"]), seconds(fault["ended_at"])
    assert ended - started == 20
    assert started % 20 == 0
    assert armed_at - 5 <= started - 20 <= armed_at + 20
    assert (fault["subject"], fault["answers"]) == ("A1", "meter_silent:A1")
    _, after = run.sent()
    times = [t for meter_id, t, _, _ in after if meter_id == "A1"]
    assert not [t for t in times if started <= t < ended]
    assert {started - 2, ended} <= set(times)


async def test_the_truth_has_every_whole_window_of_the_run(broker: TestBroker, tmp_path: Path):
    async with simulating(tmp_path, broker.url) as run:
        serving = run.clock.now()
        await until(lambda: run.clock.now() > serving + 60)
    windows = sorted({seconds(r["window_start"]) for r in run.rows("truth.csv")})
    assert windows == [windows[0] + 20 * k for k in range(len(windows))]
    assert windows[0] <= run.clock.start + 20
    assert windows[-1] >= serving + 20
    assert {r["stream"] for r in run.rows("truth.csv")} == {"S0", "S1", "S2"}


async def test_meters_of_what_the_plant_has_not_are_named_and_not_sent(tmp_path: Path):
    streams = [s.model_dump(by_alias=True) | {"carrier": "material"} for s in PARK.streams]
    park = park_of([meter("A0"), meter("H1", quantity="heat_flow", unit="MW", u95_absolute=0.1)], streams=streams)
    async with simulating(tmp_path, park=park) as run:
        await until(lambda: run.sent()[0])
    assert run.state("unserved") == {"meters": ["H1"], "reason": "the plant has no such value"}
    assert {name for name, *_ in run.sent()[0]} == {"A0"}


async def test_without_mqtt_meters_no_broker_is_needed(tmp_path: Path):
    async with simulating(tmp_path, park=park_of([meter("A0")])) as run:
        assert (run.state("serving") or {})["mqtt"] == 0


async def test_stopping_while_the_broker_is_away_ends_the_wait(tmp_path: Path):
    stop = asyncio.Event()
    states: list[str] = []
    files = {name: tmp_path / f"{name}.csv" for name in ("sent", "truth", "faults")}
    task = asyncio.create_task(simulate(
        park_of([meter("M0", source=over_mqtt("M0"))]), Scenario(), fast(), seed=1, endpoints={},
        broker="mqtt://127.0.0.1:1", stop=stop, armed=asyncio.Event(),
        on_state=lambda name, data: states.append(name), **files))
    await until((tmp_path / "faults.csv").exists)
    stop.set()
    async with asyncio.timeout(5):
        await task
    assert states == []


async def test_what_could_not_be_delivered_is_said(
    broker: TestBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(serve, "DRAIN_S", 0.3)
    async with simulating(tmp_path, broker.url, park_of([meter("M0", source=over_mqtt("M0"))])) as run:
        broker.stop()
        sent = len(run.sent()[0])
        await until(lambda: len(run.sent()[0]) > sent + 3)
    remained = run.state("drained") or {}
    assert isinstance(remained["mqtt"], int)
    assert remained["mqtt"] >= 3
    assert any(text.startswith("not delivered when the simulators stopped: mqtt ") for text in caplog.messages)


async def test_two_endpoints_of_one_port_are_one_server(broker: TestBroker, tmp_path: Path):
    from tests.fixtures.broker import free_port

    port = free_port()
    both = [f"opc.tcp://127.0.0.1:{port}", f"opc.tcp://127.0.0.1:{port}/beta"]
    park = park_of([meter("A0", source=at(both[0], "A0")), meter("B0", side="receiver", source=at(both[1], "B0"))])
    async with simulating(tmp_path, park=park) as run, Client(both[0]) as client:
        assert set((run.state("serving") or {})["endpoints"]) == set(both)      # type: ignore[call-overload]
        await until(lambda: len(run.sent()[0]) > 1)
        for name in ("A0", "B0"):
            assert await client.get_node(f"ns=2;s={name}").read_value() > 0


async def test_a_host_that_is_not_here_stops_the_start(tmp_path: Path):
    park = park_of([meter("A0", source=at("opc.tcp://192.0.2.1:4840", "A0"))])
    with pytest.raises(OperationError, match=r"cannot listen on opc.tcp://192.0.2.1:4840"):
        async with simulating(tmp_path, park=park):
            pass


async def test_a_fault_of_what_is_not_there_stops_the_start_before_anything_is_opened(tmp_path: Path):
    scenario = Scenario.model_validate({"faults": [
        {"id": "F", "kind": "dropout", "subject": "nobody", "after_s": 0, "duration_s": 1}]})
    with pytest.raises(InputError, match="no meter 'nobody'"):
        async with simulating(tmp_path, scenario=scenario):
            pass
    assert not (tmp_path / "truth.csv").exists()


async def test_a_dropout_cannot_strike_one_meter_of_a_list(tmp_path: Path):
    park = park_of([meter(f"M{i}", source=over_mqtt("", "t", value=f"$[{i}]")) for i in range(2)])
    scenario = Scenario.model_validate({"faults": [
        {"id": "F", "kind": "dropout", "subject": "M1", "after_s": 0, "duration_s": 1}]})
    with pytest.raises(InputError, match="meters 'M1' share a list with others on their topic"):
        async with simulating(tmp_path, park=park, scenario=scenario):
            pass


@pytest.mark.parametrize(("keys", "typical", "expected"), [
    ({"span": [10, 60]}, 40.0, (10.0, 60.0)),
    ({"quantity": "mass_total", "unit": "t", "counter": {"modulus": 1e6, "resolution": 1}}, 3.0, (0.0, 1e6)),
    ({}, 40.0, (0.0, 100.0)), ({}, 25.0, (0.0, 50.0)), ({}, -3.0, (-10.0, 10.0)), ({}, 0.0, (0.0, 1.0)),
])
def test_range_of_a_meter(keys: dict[str, object], typical: float, expected: tuple[float, float]):
    assert eu_range(park_of([meter("FT1", **keys)]).meters[0], typical) == expected
