"""Places of meters, also over a park that changes under a running collector."""

from __future__ import annotations

from collector.register import register_of
from tests.collector.running import mqtt, opcua, park_of

URL = "opc.tcp://h"


def test_what_is_read_as_before_keeps_its_place_and_what_is_new_comes_last():
    before = register_of(park_of(opcua(URL, "A"), mqtt("B"), opcua(URL, "C")))
    after = before.after(park_of(opcua(URL, "N"), opcua(URL, "C", u95_percent_of_reading=3.0), mqtt("B")))
    assert after.ids == ("A", "B", "C", "N")
    assert after.live == (1, 2, 3)
    assert after.opcua == {URL: [2, 3]}
    assert after.mqtt == [1]
    assert after.meters[2].u95_percent_of_reading == 3.0


def test_a_meter_that_is_read_in_another_way_gets_a_new_place_and_rows_on_their_way_keep_their_unit():
    before = register_of(park_of(opcua(URL, "A", unit="t/h")))
    after = before.after(park_of(opcua(URL, "A", unit="kg/s")))
    assert (after.ids, after.live) == (("A", "A"), (1,))
    assert after.scale.tolist() == [before.scale[0], 1.0]


def test_a_meter_that_comes_back_as_it_was_finds_its_place_again():
    before = register_of(park_of(opcua(URL, "A"), opcua(URL, "B")))
    without = before.after(park_of(opcua(URL, "B")))
    assert without.live == (1,)
    assert without.after(park_of(opcua(URL, "B"), opcua(URL, "A"))) == before
