"""`symbiosis discover` on real servers and brokers: what it prints can be pasted into meters.csv."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from asyncua import ua

from collector.discovery import COLUMNS
from collector.mqtt import listen
from collector.opcua import browse
from collector.opcua.certificates import own_identity
from collector.sparkplug.wire import Payload
from park.errors import SourceError
from park.load import load_park
from park.model import Park
from park.servers import OpcuaServer
from simulators.engineering_units import engineering_units
from symbiosis import discover
from symbiosis.cli import build_parser, main
from tests.collector.running import collecting, rows, until_stored
from tests.fixtures.broker import TestBroker, free_port
from tests.fixtures.opcua import NAMESPACE, TestServer
from tests.services.test_collector_mqtt import publishing
from tests.services.test_opcua_security import PASSWORD, SERVER_URI, secured, trust
from tests.services.test_sparkplug import Samples, listening, nodes
from tests.simulators.parks import until

PARK = """
park: {name: Test park, timezone: UTC}
participants: [{id: a, name: A}, {id: b, name: B}]
nodes: [{id: a.n, participant: a, conserves: [mass]}, {id: b.n, participant: b, conserves: [mass]}]
streams: [{id: S1, from: a.n, to: b.n, carrier: water}]
meters: {csv: meters.csv}
"""


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def loaded(found: list[dict[str, str]], folder: Any) -> Park:
    """The park whose meters are what was found, after somebody has filled in what no server knows."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
    writer.writeheader()
    for row in found:
        filled = {"stream": "S1", "side": "sender", "u95_percent_of_reading": "1"}
        writer.writerow(row | filled | {"quantity": row["quantity"] or "mass_flow", "unit": row["unit"] or "kg/s"})
    (folder / "meters.csv").write_text(out.getvalue(), encoding="utf-8")
    (folder / "park.yaml").write_text(PARK, encoding="utf-8")
    return load_park(folder / "park.yaml")


async def analog(server: TestServer, parent: Any, name: str, unit: ua.EUInformation | None = None,
                 span: tuple[float, float] | None = None, value: Any = 1.0, kind: ua.VariantType | None = None) -> Any:
    """Add a variable with the properties of an AnalogItemType."""
    variable = await parent.add_variable(2, name, value, kind)
    if unit is not None:
        await variable.add_property(0, "EngineeringUnits", unit)
    if span is not None:
        await variable.add_property(0, "EURange", ua.Range(*map(ua.Double, span)))
    return variable


async def plant(server: TestServer) -> None:
    """A plant of two areas; names repeat, and not everything is a measured number."""
    assert server._server is not None
    objects = server._server.nodes.objects
    for area in ("Power", "Refinery"):
        folder = await objects.add_folder(2, area)
        await analog(server, folder, "FT1", engineering_units("t/h"), (0.0, 60.5))
    deep = await (await folder.add_object(2, "Unit 7")).add_object(2, "Tank")
    await analog(server, deep, "TT9", ua.EUInformation(DisplayName=ua.LocalizedText("°C"), UnitId=ua.Int32(-1)))
    await analog(server, deep, "QT9", ua.EUInformation(UnitId=ua.Int32(int.from_bytes(b"KWT"))))       # no name
    await analog(server, deep, "VT9", ua.EUInformation(DisplayName=ua.LocalizedText("mm/s"), UnitId=ua.Int32(-1)))
    await analog(server, deep, "running", value=True)
    await analog(server, deep, "count", value=3, kind=ua.VariantType.UInt16)
    await analog(server, deep, "label", value="text")
    await analog(server, deep, "list", value=[1.0, 2.0])
    await deep.add_reference(folder, ua.ObjectIds.Organizes)        # a way back: each node is looked at once


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, str]], str]:
    options = build_parser().parse_args(["discover", *arguments])
    code = options.work(options)            # `main` takes signals, which is for the main thread
    out, said = capsys.readouterr()
    return code, table(out), said


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


async def test_numbers_of_a_server_with_units_and_ranges_become_rows(opcua_server, capsys, tmp_path):
    server = await opcua_server(["waiting"])
    await plant(server)
    code, found, said = await in_thread(run, capsys, server.url)
    assert code == 0
    assert tuple(found[0])[: len(COLUMNS)] == COLUMNS
    by_id = {row["id"]: row for row in found}
    assert set(by_id) == {"waiting", "Power.FT1", "Refinery.FT1", "TT9", "QT9", "VT9", "running", "count"}
    one = by_id["Power.FT1"]
    assert (one["quantity"], one["unit"], one["span"]) == ("mass_flow", "t/h", "0, 60.5")
    assert one["opcua.endpoint"] == server.url
    assert one["opcua.node_id"].startswith(f"nsu={NAMESPACE};")
    assert by_id["waiting"]["opcua.node_id"] == f"nsu={NAMESPACE};s=waiting"
    assert [(by_id[id]["quantity"], by_id[id]["unit"]) for id in ("TT9", "QT9", "VT9")] == [
        ("temperature", "degC"), ("", "kW"), ("", "")]
    assert all(row[key] == "" for row in found for key in ("stream", "node", "side", "u95_percent_of_reading"))
    for word in ("2 variables are not single numbers", "unit 'mm/s' is none that a meter can have", "8 found",
                 "to be filled in: stream or node, side", "unit is not known of 4 of 8"):
        assert word in said

    for row in found:
        if row["unit"] == "kW":
            row["quantity"], row["unit"] = "mass_flow", "kg/s"
    park = loaded([row for row in found if row["id"] != "waiting"], tmp_path)
    assert {meter.id for meter in park.meters} == set(by_id) - {"waiting"}


async def test_what_was_found_is_collected(opcua_server, capsys, tmp_path, postgres_dsn):
    server = await opcua_server([])
    await plant(server)
    _, found, _ = await in_thread(run, capsys, server.url, "--filter", "FT1")
    async with collecting(loaded(found, tmp_path), postgres_dsn):
        await until_stored(postgres_dsn, 2)
    assert {row[0] for row in rows(postgres_dsn)} == {"Power.FT1", "Refinery.FT1"}


def park_with_servers(folder, endpoint, user="collector", other="sessions: 0"):
    """The file of a park with two servers; its meters.csv is not there yet."""
    file = folder / "park.yaml"
    file.write_text(PARK + f"""servers:
  - {{id: plc, endpoint: "{endpoint}", security_policy: Basic256Sha256, user: {user}, password: {{env: PLC_PASSWORD}}}}
  - {{id: other, endpoint: "opc.tcp://h", {other}}}
""")
    return file


async def test_a_server_of_a_park_is_browsed_with_its_security_and_user(opcua_server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLC_PASSWORD", PASSWORD)
    own_identity(OpcuaServer(id="s", endpoint="", cert_file="server/cert.der", key_file="server/key.pem"), SERVER_URI)
    server = await opcua_server(["FT1"], **secured(ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt, users=True))
    file = park_with_servers(tmp_path, server.url)
    for name in ("plc", server.url):
        with pytest.raises(SourceError, match="its certificate is not trusted"):
            await in_thread(run, capsys, name, "--park", str(file))
    trust()
    for name in ("plc", server.url):
        code, found, said = await in_thread(run, capsys, name, "--park", str(file))
        assert (code, [row["id"] for row in found], [row["opcua.endpoint"] for row in found]) == (
            0, ["FT1"], [server.url])
        assert PASSWORD not in said
    park_with_servers(tmp_path, server.url, user="nobody")
    with pytest.raises(SourceError, match="BadUserAccessDenied"):
        await in_thread(run, capsys, "plc", "--park", str(file))


def test_an_entry_that_is_wrong_or_not_there_is_said(capsys, tmp_path):
    file = park_with_servers(tmp_path, "opc.tcp://h:4840")
    for name, park, said in (
        ("other", file, "park.yaml:9: server 'other': sessions must be"),
        ("mqtt://h", file, "no entry of servers has the id or endpoint 'mqtt://h'"),
        ("plc", tmp_path / "none.yaml", "none.yaml"),
    ):
        assert main(["discover", name, "--park", str(park)]) == 2
        out, err = capsys.readouterr()
        assert (out, said in err) == ("", True), err


@pytest.mark.parametrize(("options", "ids"), [
    (["--depth", "1"], {"FT3"}),
    (["--depth", "2"], {"FT3", "Power.FT1", "Refinery.FT1"}),
    (["--filter", "tank/t"], {"TT9"}),
    (["--filter", "*/ft?"], {"Power.FT1", "Refinery.FT1"}),
])
async def test_depth_and_filter(opcua_server, capsys, options, ids):
    server = await opcua_server(["FT3"])
    await plant(server)
    _, found, _ = await in_thread(run, capsys, server.url, *options)
    assert {row["id"] for row in found} == ids


async def test_a_small_server_is_asked_in_small_calls_and_again(opcua_server, monkeypatch, capsys):
    names = [f"FT{number}" for number in range(250)]
    server = await opcua_server(names)
    monkeypatch.setattr(browse, "MOST_NODES", 100)
    _, found, said = await in_thread(run, capsys, server.url)
    assert [row["id"] for row in found] == names
    assert "browsing ended at 100 nodes" in said


async def test_calls_are_halved_until_the_server_takes_them():
    sizes = []

    async def ask(some: Any) -> list[int]:
        sizes.append(len(some))
        if len(some) > 30:
            raise ua.uaerrors.BadTooManyOperations
        return list(some)

    assert await browse._in_calls(list(range(60)), ask) == list(range(60))
    assert sizes == [60, 50, 25, 25, 10]


@pytest.mark.parametrize(("node", "text"), [
    (ua.NodeId("a", 1), "nsu=urn:a%3Bb%25;s=a"), (ua.NodeId(7, 1), "nsu=urn:a%3Bb%25;i=7"),
    (ua.NodeId(b"\1\2", 1), "nsu=urn:a%3Bb%25;b=AQI="), (ua.NodeId(7, 9), "ns=9;i=7")])
def test_node_ids_name_their_namespace(node, text):
    assert browse.node_id_text(node, ["x", "urn:a;b%"]) == text


MESSAGES: Iterable[tuple[str, str | bytes]] = [
    ("plant/FT1", "1.5"),
    ("plant/FT2", '{"value": 1.5, "ts": "2026-01-01T00:00:00Z", "status": 0, "unit": "t/h"}'),
    ("plant/box", '{"at": 1767225600, "flow": [0, 3.6], "f 2": 7.2, "quality": 192, "name": "x", "on": true}'),
    ("plant/each", '{"a": {"v": 1, "time": 1767225600123, "status": "good"}, "b": {"v": 2, "unit": "°C"}}'),
    ("plant/text", "hello"),
    ("plant/deep", b"[" * 100_000),
    ("spBv1.0/g/NBIRTH/e", b"\x08\x01"),
]


async def test_numbers_on_topics_become_rows(any_broker: TestBroker, capsys, tmp_path):
    async with publishing(any_broker) as publisher:
        for topic, payload in MESSAGES:
            await publisher.send(topic, [payload], retain=True)
        code, found, said = await in_thread(run, capsys, any_broker.url, "--seconds", "1")
    assert code == 0
    assert [(row["id"], row["mqtt.value"], row["mqtt.time"], row["mqtt.status"]) for row in found] == [
        ("plant.FT1", "$", "", ""),
        ("plant.FT2", "$.value", "$.ts", "$.status"),
        ("plant.box.0", "$.flow[0]", "$.at", ""),
        ("plant.box.1", "$.flow[1]", "$.at", ""),
        ("plant.box.f 2", '$["f 2"]', "$.at", ""),
        ("plant.each.a.v", "$.a.v", "$.a.time", "$.a.status"),
        ("plant.each.b.v", "$.b.v", "", ""),
    ]
    assert [(row["unit"], row["quantity"]) for row in found if row["unit"]] == [
        ("t/h", "mass_flow"), ("degC", "temperature")]
    assert "2 topics have no JSON with numbers" in said
    assert len(loaded(found, tmp_path).meters) == 7


def birth() -> bytes:
    payload = Payload(timestamp=1, seq=0)
    payload.metrics.add(name="bdSeq", datatype=4, long_value=0)
    payload.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=False)
    flow = payload.metrics.add(name="steam/flow", alias=1, datatype=10, double_value=1.0)
    for key, said in (("engUnit", {"string_value": "t/h"}), ("engLow", {"double_value": 0.0}),
                      ("engHigh", {"int_value": 60}), ("other", {"boolean_value": True})):
        flow.properties.keys.append(key)
        flow.properties.values.add(**said)
    payload.metrics.add(name="count", alias=2, datatype=3, int_value=4)
    payload.metrics.add(name="label", alias=3, datatype=12, string_value="x")
    payload.metrics.add(name="list", alias=4, datatype=31, bytes_value=b"")
    return payload.SerializeToString()


async def test_births_become_rows(any_broker: TestBroker, capsys, tmp_path):
    async with publishing(any_broker) as publisher:
        for topic in ("spBv1.0/g/NBIRTH/e", "spBv1.0/g/DBIRTH/e/d", "spBv1.0/g/NBIRTH/broken"):
            await publisher.send(topic, [birth() if "broken" not in topic else b"\xff"], retain=True)
        await publisher.send("plant/FT1", ["1.5"], retain=True)
        code, found, said = await in_thread(run, capsys, any_broker.url, "--seconds", "1")
    assert code == 0
    columns = ("id", "sparkplug.device", "sparkplug.metric", "unit", "span")
    assert [tuple(row[column] for column in columns) for row in found] == [
        ("plant.FT1", "", "", "", ""),
        ("e.count", "", "count", "", ""), ("e.steam.flow", "", "steam/flow", "t/h", "0, 60"),
        ("d.count", "d", "count", "", ""), ("d.steam.flow", "d", "steam/flow", "t/h", "0, 60")]
    assert "2 Sparkplug metrics are arrays" in said
    sources = [meter.source.sparkplug for meter in loaded(found, tmp_path).meters[1:]]
    assert [(s.group, s.edge_node, s.device, s.metric) for s in sources if s] == [
        ("g", "e", None, "count"), ("g", "e", None, "steam/flow"),
        ("g", "e", "d", "count"), ("g", "e", "d", "steam/flow")]


async def test_nodes_that_are_alive_already_are_asked_if_that_is_wanted(broker: TestBroker, capsys):
    async with nodes(broker) as plant:
        sampling = asyncio.create_task(Samples(plant).publish())
        with listening(broker, "spBv1.0/g/DDATA/#") as (_, heard):
            await until(lambda: {topic[-3:] for topic, *_ in heard} == {"e/d", "f/d"})      # the births are over
        _, found, said = await in_thread(run, capsys, broker.url, "--seconds", "0.5")
        assert found == []
        assert "2 Sparkplug nodes sent data and no BIRTH, g/e for one" in said
        _, found, said = await in_thread(run, capsys, broker.url, "--seconds", "1", "--rebirth", "--filter", "g/e/*")
        sampling.cancel()
    assert {row["sparkplug.metric"] for row in found} == {"flow", "level"}
    assert "no BIRTH" not in said


async def test_topics_are_chosen(broker, capsys):
    async with publishing(broker) as publisher:
        for topic, payload in MESSAGES:
            await publisher.send(topic, [payload], retain=True)
        chosen = ["--topic", "plant/+", "--filter", "ft"]
        _, found, _ = await in_thread(run, capsys, broker.url, "--seconds", "0.5", *chosen)
        assert [row["id"] for row in found] == ["plant.FT1", "plant.FT2"]
        code, found, said = await in_thread(run, capsys, broker.url, "--seconds", "0.1", "--topic", "none")
    assert (code, found) == (1, [])
    assert "nothing was heard" in said


def test_a_broker_or_server_that_is_not_there_is_said(capsys):
    port = free_port()
    before = time.monotonic()
    who = "user:secret"
    assert main(["discover", f"mqtt://{who}@127.0.0.1:{port}"]) == 1
    assert main(["discover", f"opc.tcp://{who}@127.0.0.1:{port}"]) == 1
    assert main(["discover", "http://x"]) == 2
    out, said = capsys.readouterr()
    assert out == ""
    assert "secret" not in said
    assert "cannot reach mqtt://127.0.0.1" in said
    assert f"cannot browse opc.tcp://127.0.0.1:{port}" in said
    assert "URL must begin with" in said
    assert time.monotonic() - before < 15


def test_a_flood_of_topics_and_paths_is_bounded(monkeypatch):
    monkeypatch.setattr(listen, "MOST_TOPICS", 2)
    monkeypatch.setattr(listen, "MOST_PATHS", 3)
    heard = listen.Heard()
    for number in range(4):
        heard.add(f"t{number}", json.dumps(list(range(10))).encode(), 0)
    offer = heard.offer()
    assert len(offer.found) == 6
    assert any("2 messages were passed over" in remark for remark in offer.remarks)
    assert any("only the first 3" in remark for remark in offer.remarks)


def test_the_commands_defaults_are_the_collectors():
    assert (discover.DEPTH, discover.SECONDS) == (browse.DEPTH, listen.SECONDS)
