"""Each verdict on the readings of a run: silent where all is well, and firing."""

from __future__ import annotations

import pandas as pd
import pytest

from park.model import Park, Source, SparkplugSource
from park.quality import BAD_STATUS, NO_COMMUNICATION
from symbiosis.delivery import Gap, hold_against, read_sent
from tests.symbiosis.parks import small_park

PARK = small_park()
SENT = """\
meter,seq,source_time,value,status
a.F,0,2026-01-01T00:00:05Z,36.0,0
armed
a.F,1,2026-01-01T00:00:10Z,36.0,0
b.T,0,2026-01-01T00:00:10Z,20.0,0
a.F,2,2026-01-01T00:00:15.250Z,36.9,1073741824
a.F,3,2026-01-01T00:00:20Z,,2147483648
b.T,1,2026-01-01T00:00:20Z,0.0,0
"""
T0 = 1_767_225_600_000_000      # 2026-01-01 in microseconds since 1970


@pytest.fixture
def sent(tmp_path):
    path = tmp_path / "sent.csv"
    path.write_text(SENT + "a.F,4,2026-01-01T00:00:2")       # the simulators were killed in the middle of a line
    return read_sent(path, PARK)


@pytest.fixture
def stored():
    rows = [
        ("a.F", 10.0, 10.0, 0), ("b.T", 10.0, 293.15, 0), ("a.F", 15.25, 36.9 / 3.6, 1073741824),
        ("a.F", 20.0, None, 2147483648), ("b.T", 20.0, 273.15, 0),
    ]
    return pd.DataFrame(
        [(meter, T0 + round(at * 1e6), value, status) for meter, at, value, status in rows],
        columns=["meter", "time_us", "value", "status"],
    )


def verdict(sent, stored, gaps=(), conflicts=0):
    return hold_against(sent, stored, list(gaps), conflicts, PARK)


def test_sent_values_are_read_in_si_with_their_exact_times(sent):
    assert sent["time_us"].tolist() == [T0 + n for n in (5_000_000, 10_000_000, 10_000_000, 15_250_000, 20_000_000,
                                                         20_000_000)]
    assert sent["value"].iloc[0] == pytest.approx(10.0, rel=1e-15)
    assert sent["value"].iloc[2] == 293.15
    assert sent["counted"].tolist() == [False, True, True, True, True, True]


def test_what_was_sent_and_stored_as_it_was_raises_nothing(sent, stored):
    found = verdict(sent, stored)
    assert found.is_whole
    assert (found.published, found.stored) == (5, 5)
    assert (found.lost, found.unsent, found.altered, found.conflict, found.unmarked_gaps) == (0, 0, 0, 0, 0)
    assert found.armed_us == T0 + 10_000_000
    assert found.last_us == T0 + 20_000_000
    assert found.expected == 5
    assert found.examples == {}


@pytest.mark.parametrize("status", [NO_COMMUNICATION, BAD_STATUS], ids=["died", "newly born"])
def test_what_says_that_a_node_has_no_reading_was_not_sent_and_need_not_be(status, sent, stored):
    mark = pd.DataFrame([("b.T", T0 + 17_000_000, None, status)], columns=stored.columns)
    with_mark = pd.concat([stored, mark], ignore_index=True)
    assert verdict(sent, with_mark).unsent == 1                         # an MQTT meter has no node that could die
    meters = tuple(
        m.model_copy(update={"source": Source(sparkplug=SparkplugSource(group="g", edge_node="n", metric="m"))})
        for m in PARK.meters)
    hosted = Park.model_construct(**{**dict(PARK), "meters": meters})
    assert hold_against(sent, with_mark, [], 0, hosted).is_whole
    with_mark.loc[len(with_mark) - 1, "value"] = 20.0
    assert hold_against(sent, with_mark, [], 0, hosted).unsent == 1


def test_readings_from_before_arming_need_not_be_stored_but_may(sent, stored):
    early = pd.DataFrame([("a.F", T0 + 5_000_000, 10.0, 0)], columns=stored.columns)
    found = verdict(sent, pd.concat([early, stored], ignore_index=True))
    assert found.is_whole
    assert (found.published, found.stored) == (5, 5)


def test_a_reading_that_is_not_stored_is_lost(sent, stored):
    found = verdict(sent, stored.drop(index=[0, 2]))
    assert (found.lost, found.unmarked_gaps, found.is_whole) == (2, 1, False)     # seq 1 and 2: one run
    assert "a.F 2026-01-01T00:00:10+00:00" in found.examples["lost"][0]
    found = verdict(sent, stored.drop(index=[0, 3]))
    assert (found.lost, found.unmarked_gaps) == (2, 2)                            # seq 1 and 3: two runs


@pytest.mark.parametrize(("gap", "lost"), [
    (Gap("opcua:opc.tcp://h:1", None, T0 + 9_000_000, T0 + 16_000_000, "server killed"), 0),
    (Gap("opcua:opc.tcp://h:1", "a.F", T0 + 10_000_000, None, "still away"), 0),
    (Gap("opcua:opc.tcp://h:1", "b.T", T0 + 9_000_000, T0 + 16_000_000, "another meter"), 2),
    (Gap("mqtt", None, T0 + 9_000_000, T0 + 16_000_000, "another source"), 2),
    (Gap("opcua:opc.tcp://h:1", None, T0 + 9_000_000, T0 + 11_000_000, "too short"), 1),
])
def test_a_marked_gap_covers_the_readings_of_its_source_and_time_alone(sent, stored, gap, lost):
    found = verdict(sent, stored.drop(index=[0, 2]), [gap])
    assert (found.lost, found.in_gaps) == (lost, 2 - lost)
    assert found.is_whole == (lost == 0)
    assert found.gaps == [(gap, 2 - lost)]


def test_a_stored_reading_that_nobody_sent_is_unsent(sent, stored):
    made_up = pd.DataFrame([("a.F", T0 + 12_000_000, 10.0, 0)], columns=stored.columns)
    found = verdict(sent, pd.concat([stored, made_up], ignore_index=True))
    assert (found.unsent, found.is_whole) == (1, False)


@pytest.mark.parametrize(("column", "value"), [("value", 10.0 * (1 + 1e-9)), ("value", None), ("status", 1)])
def test_another_value_or_status_is_altered(sent, stored, column, value):
    stored.loc[0, column] = value
    found = verdict(sent, stored)
    assert (found.altered, found.is_whole) == (1, False)
    assert "altered" in found.examples


def test_a_last_digit_of_the_conversion_is_not_altered(sent, stored):
    stored.loc[0, "value"] = 10.0 * (1 + 3e-16)
    assert verdict(sent, stored).is_whole


def test_conflicts_of_the_store_and_of_the_sent_file_both_count(sent, stored):
    assert verdict(sent, stored, conflicts=2).conflict == 2
    twice = pd.concat([sent, sent.iloc[[1]].assign(value=11.0)], ignore_index=True)
    found = verdict(twice, stored)
    assert (found.conflict, found.is_whole) == (1, False)


def test_a_run_that_was_never_armed_counts_nothing(sent, stored):
    found = verdict(sent.assign(counted=False), stored)
    assert (found.published, found.expected, found.armed_us) == (0, 0, None)
