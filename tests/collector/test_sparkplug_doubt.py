"""Nodes that may have died unheard: who was away asks everybody, and who does not answer is dead."""

from __future__ import annotations

import math

import pytest

from collector.register import SPARKPLUG, register_of
from collector.sparkplug.doubt import ANSWER_S, REBIRTH_S
from collector.sparkplug.host import CONFIRM_S, SPREAD_S, Host
from collector.sparkplug.readings import NO_COMMUNICATION
from tests.collector.running import park_of
from tests.collector.test_sparkplug_host import (
    DOUBLE,
    FT,
    INT32,
    LT,
    T0,
    TT,
    Plant,
    bd,
    message,
    spark,
)

ASKED = ["spBv1.0/g/NCMD/e"]


@pytest.fixture
def plant() -> Plant:
    made = Plant()
    made.born()
    made.flow(2, 2.0)
    return made


def connect(plant: Plant, *, away: float | None = None) -> None:
    """Connect, after being away so long [s], and hear that all is said that the broker kept."""
    if away is not None:
        plant.host.lost(plant.received_us)
        plant.wait(away)
    plant.host.connected(plant.received_us, plant.now)
    plant.host.confirmed(plant.now)
    plant.wait(0.0)


def test_what_comes_before_the_connection_is_confirmed_neither_asks_nor_kills(plant):
    plant.host.lost(plant.received_us)
    plant.wait(1.0)
    plant.hear("NDEATH", message(None, bd(6)))          # comes with the broker's answer to CONNECT
    plant.hear("DDATA", message(3, {"alias": 99, "double_value": 1.0}))
    plant.wait(2 * ANSWER_S)
    assert (plant.commands, deaths(plant)) == ([], [])
    connect(plant)
    assert plant.commands == ASKED


def deaths(plant: Plant) -> list[tuple[int, int]]:
    return sorted((place, ms) for place, ms, _, status in plant.rows if status == NO_COMMUNICATION)


def test_a_node_that_died_while_we_were_away_is_dead_since_the_connection_was_lost(plant):
    plant.wait(1.0)
    connect(plant, away=60.0)
    assert (plant.commands, plant.host.is_in_doubt, deaths(plant)) == (ASKED, True, [])
    plant.wait(0.9 * ANSWER_S)
    assert deaths(plant) == []
    plant.wait(0.2 * ANSWER_S)
    assert deaths(plant) == [(FT, 1000), (TT, 1000), (LT, 1000)]
    assert plant.causes == [("g/e is dead", True)]
    assert not plant.host.is_in_doubt
    assert plant.host.due_in(plant.now) is None


def test_a_node_that_was_never_heard_is_dead_from_the_start():
    plant = Plant()
    connect(plant)
    assert plant.commands == ASKED
    plant.wait(1.1 * ANSWER_S)
    assert deaths(plant) == [(FT, 0), (TT, 0), (LT, 0)]
    connect(plant, away=60.0)
    plant.wait(1.1 * ANSWER_S)
    assert (len(plant.commands), len(plant.rows)) == (2, 3)         # asked again, for it may live now; dead but once


@pytest.mark.parametrize("speaks", ["birth", "data", "device"])
def test_a_node_that_speaks_lives(plant, speaks):
    connect(plant, away=60.0)
    if speaks == "birth":
        plant.born(tick=60)
    elif speaks == "data":
        plant.flow(3, 3.0)
    else:
        plant.hear("DDEATH", message(3, tick=60))
    assert not plant.host.is_in_doubt
    plant.wait(2 * ANSWER_S)
    assert len(deaths(plant)) == (2 if speaks == "device" else 0)
    plant.hear("NDATA", message(4 if speaks != "birth" else 2, {"alias": 1, "double_value": 6.0}))
    plant.wait(2 * ANSWER_S)
    assert plant.rows[-1][0] == LT


def test_what_the_broker_kept_is_no_sign_of_life(plant):
    plant.host.lost(plant.received_us)
    plant.wait(1.0)
    plant.host.connected(plant.received_us, plant.now)
    plant.flow(3, 3.0)
    plant.wait(0.5 * CONFIRM_S)
    assert (plant.values, plant.commands) == ([2.0, 3.0], [])
    plant.host.confirmed(plant.now)
    plant.wait(0.0)
    plant.host.confirmed(plant.now)             # it says so again
    plant.wait(1.1 * ANSWER_S)
    assert (plant.commands, len(deaths(plant))) == (ASKED, 3)


def test_a_broker_that_keeps_our_state_from_us_is_not_waited_for_for_ever(plant):
    plant.host.connected(plant.received_us, plant.now)
    assert plant.host.due_in(plant.now) == pytest.approx(CONFIRM_S)
    plant.wait(1.1 * CONFIRM_S)
    assert plant.commands == ASKED


def test_an_answer_that_waits_to_be_read_is_an_answer(plant):
    connect(plant, away=60.0)
    plant.now += 2 * ANSWER_S
    plant.host.tick(plant.now, plant.received_us, caught_up=False)
    plant.born(tick=61)
    plant.wait(2 * ANSWER_S)
    assert deaths(plant) == []


def test_a_connection_that_is_lost_again_lets_nobody_answer(plant):
    plant.wait(1.0)
    connect(plant, away=10.0)
    plant.host.lost(plant.received_us)
    plant.wait(10 * ANSWER_S)
    assert (deaths(plant), plant.host.due_in(plant.now)) == ([], None)
    connect(plant)
    plant.wait(1.1 * ANSWER_S)
    assert deaths(plant) == [(FT, 1000), (TT, 1000), (LT, 1000)]        # since the first time


def test_a_connection_that_comes_and_goes_asks_no_more_often_than_nodes_are_asked(plant):
    for _ in range(20):
        connect(plant, away=1.0)
        plant.born(tick=plant.now)
    assert len(plant.commands) <= 1 + 20 / REBIRTH_S


def test_many_nodes_are_asked_one_after_the_other():
    meters = [spark(f"M{k}", "level") for k in range(100)]
    for k, meter in enumerate(meters):
        meter["source"]["sparkplug"]["edge_node"] = f"e{k}"
    plant = Plant()
    plant.host = Host(register_of(park_of(*meters)), plant.rejections)
    plant.host.connected(T0, plant.now)
    plant.host.confirmed(plant.now)
    counts = []
    for _ in range(4):
        plant.wait(25.1 * SPREAD_S)
        counts.append(len(plant.commands))
    assert counts == [26, 51, 76, 100]
    plant.wait(1.1 * ANSWER_S)
    assert len(deaths(plant)) == 100


def test_a_node_that_never_answers_lives_again_as_soon_as_it_speaks(plant):
    connect(plant, away=1.0)
    plant.wait(1.1 * ANSWER_S)
    plant.flow(3, 8000.0)
    assert plant.rows[-1] == (FT, 8000, 8000.0, 0)
    assert len(plant.commands) == 1             # asked lately
    plant.wait(1.1 * REBIRTH_S)
    plant.hear("NDEATH", message(None, bd(7)))
    assert len(deaths(plant)) == 3 + 1


def test_what_has_not_changed_since_a_death_holds_again_from_the_birth_on():
    plant = Plant()
    plant.host.apply(register_of(park_of(
        spark("FT", "flow", "d", sampling="on_change"), spark("TT", "temp", "d"), spark("LT", "level"))))
    birth = [{"name": "flow", "alias": 2, "datatype": DOUBLE, "double_value": 5.0, "timestamp": T0 // 1000 + 100},
             {"name": "temp", "alias": 3, "datatype": INT32, "int_value": 4, "timestamp": T0 // 1000 + 100}]
    plant.hear("NBIRTH", message(0, bd(7)))
    plant.hear("DBIRTH", message(1, *birth))
    plant.wait(10.0)
    plant.hear("NDEATH", message(None, bd(7)))
    plant.wait(10.0)
    plant.hear("NBIRTH", message(0, bd(8), tick=20))
    plant.hear("DBIRTH", message(1, *birth, tick=20))
    good = [(place, ms, value) for place, ms, value, status in plant.rows if status == 0]
    assert good == [(FT, 100, 5.0), (TT, 100, 4.0), (FT, 20_000, 5.0), (TT, 100, 4.0)]
    connect(plant, away=1.0)                    # one that lived on says the same again
    plant.hear("NBIRTH", message(0, bd(8), tick=22))
    plant.hear("DBIRTH", message(1, *birth, tick=22))
    assert plant.rows[-2:] == [(FT, 100, 5.0, 0), (TT, 100, 4.0, 0)]


def test_a_device_that_is_not_born_with_its_node_is_not_there(plant):
    plant.wait(1.0)
    plant.hear("NBIRTH", message(0, bd(7), tick=1))
    plant.wait(0.9 * ANSWER_S)
    assert deaths(plant) == []
    plant.wait(0.2 * ANSWER_S)
    assert deaths(plant) == [(FT, 1000), (TT, 1000)]
    assert plant.causes == [("g/e/d is not there", True)]
    assert plant.host.due_in(plant.now) is None


def test_nodes_that_a_changed_park_brings_are_asked():
    plant = Plant()
    connect(plant)
    plant.born()
    other = spark("NT", "level")
    other["source"]["sparkplug"]["edge_node"] = "f"
    plant.host.apply(register_of(park_of(
        spark("FT", "flow", "d"), spark("TT", "temp", "d"), spark("LT", "level"), other)))
    plant.host.ask_unknown(plant.received_us, plant.now)
    plant.wait(0.0)
    assert plant.commands == [*ASKED, "spBv1.0/g/NCMD/f"]
    plant.wait(1.1 * ANSWER_S)
    assert deaths(plant) == [(3, 0)]


def test_values_that_cannot_be_named_are_marked_though_the_node_was_asked_before():
    plant = Plant()
    connect(plant)
    plant.flow(17, 1.0)
    plant.flow(18, 1.0)
    assert (plant.commands, plant.causes) == (ASKED, [("g/e sent data before its BIRTH", False)])
    assert plant.rejections.by_reason(SPARKPLUG) == {"no BIRTH of the node is known": 2}
    assert not any(math.isnan(value) for value in plant.values)


@pytest.mark.parametrize("kept", ["birth", "data"])
def test_a_dead_node_of_which_the_broker_had_kept_something_is_in_doubt(plant, kept):
    connect(plant, away=1.0)
    plant.wait(1.1 * ANSWER_S)
    assert len(deaths(plant)) == 3
    plant.host.lost(plant.received_us)
    plant.host.connected(plant.received_us, plant.now)
    if kept == "birth":
        plant.born(tick=9)
    else:
        plant.flow(3, 9000.0)
    assert plant.host.is_in_doubt
    plant.host.confirmed(plant.now)
    plant.wait(REBIRTH_S)
    plant.wait(1.1 * ANSWER_S)
    assert len(deaths(plant)) == (4 if kept == "data" else 3)       # a BIRTH of nulls told of no value
    assert not plant.host.is_in_doubt
