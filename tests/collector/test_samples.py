"""The sample configurations of the protocols load, and say what their READMEs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import collector
from collector.batches import Rows
from collector.mqtt.payload import Topics, rules_of
from collector.opcua.tags import tags_of
from collector.register import register_of
from collector.rejections import Rejections
from collector.sparkplug.host import Host
from park.load import load_park

FOLDER = Path(collector.__file__).parent


def sample(protocol: str):
    return register_of(load_park(FOLDER / protocol / "sample.yaml"))


def test_the_opcua_sample_gives_tags():
    [tags] = [tags_of(register, url, 1.0) for register in [sample("opcua")] for url in register.opcua]
    assert [tag.node_id for tag in tags] == ["nsu=urn:power:plc;s=FT101", "ns=2;i=1042"]


def test_the_mqtt_sample_reads_the_payloads_of_its_comments():
    register, rejections, rows = sample("mqtt"), Rejections(), Rows()
    topics = Topics(rules_of(register), rejections)
    comments = [line.rpartition(": ")[2] if "number" in line else line[line.index("{"):]
                for line in (FOLDER / "mqtt" / "sample.yaml").read_text("utf-8").splitlines()
                if line.startswith("  #")]
    topic_of = [register.meters[place].source.mqtt.topic for place in (0, 1, 3, 4)]
    for topic, payload in zip(topic_of, comments, strict=True):
        json.loads(payload)
        topics.read(topic, payload.encode(), 1_900_000_000_000_000, rows)
    assert rows.value == [11.2, 231.5, 25.1, 4.1, 38.7]
    assert rejections.total("mqtt") == 0


def test_the_sparkplug_sample_gives_the_topics_of_its_comments():
    assert Host(sample("sparkplug"), Rejections()).topics == ["spBv1.0/refinery/#"]


@pytest.mark.parametrize("protocol", ["opcua", "mqtt", "sparkplug"])
def test_the_readme_shows_a_source_as_the_sample_writes_it(protocol):
    text = (FOLDER / protocol / "README.md").read_text("utf-8")
    keys = {"opcua": ["endpoint", "node_id"], "mqtt": ["topic", "value", "time", "status"],
            "sparkplug": ["group", "edge_node", "device", "metric"]}[protocol]
    source = next(line for line in text.splitlines() if line.startswith("source: "))
    assert all(f"{key}: " in source for key in keys)
