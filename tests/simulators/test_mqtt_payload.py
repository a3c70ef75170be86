from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.errors import InputError
from park.model import Park
from simulators.mqtt_publisher import Fields, messages, placed, steps
from tests.simulators.parks import meter, over_mqtt, park_of

TIME_US = 1_800_000_000_250_000


def park_with(*sources: dict[str, object], **keys: object) -> Park:
    return park_of([meter(f"M{i}", source=source, **keys) for i, source in enumerate(sources)])


def payload(park: Park, topic: str, rows: dict[int, tuple[float, int]]) -> object:
    return json.loads(messages(park)[topic].payload(TIME_US, rows))


@pytest.mark.parametrize(("path", "expected"), [
    ("$", ()), ("$.value", ("value",)), ("$['a b'][0]['x']", ("a b", 0, "x")),
    ("$[-1]", (-1,)), ("$.größe.Ω", ("größe", "Ω")),
])
def test_paths_are_names_and_indexes(path: str, expected: tuple[object, ...]):
    assert steps(path) == expected


@pytest.mark.parametrize("path", ["value", "$.", "$.*", "$..value", "$[0:2]", "$[?@.a]"])
def test_other_paths_are_refused(path: str):
    with pytest.raises(InputError, match="JSON path"):
        steps(path)


def test_value_time_and_status_stand_where_the_paths_look_for_them():
    source = over_mqtt("M0", topic="t", value="$.d[1].v", time="$.d[1].t", status="$.q")
    park = park_with(source)
    assert payload(park, "t", {0: (1.5, 0)}) == {"d": [None, {"v": 1.5, "t": "2027-01-15T08:00:00.250Z"}], "q": 0}


def test_the_whole_payload_may_be_the_number():
    park = park_with({"mqtt": {"topic": "t"}})
    assert messages(park)["t"].payload(TIME_US, {0: (0.1 + 0.2, 0)}) == b"0.30000000000000004"


def test_a_missing_value_is_null_and_says_its_status():
    park = park_with(over_mqtt("M0", topic="t", value="$.v", status="$.s"))
    assert payload(park, "t", {0: (float("nan"), 0x80000000)}) == {"v": None, "s": 0x80000000}


def test_meters_on_one_topic_travel_together():
    park = park_with(*(over_mqtt("", topic="t", value=f"$.{name}", time="$.ts") for name in ("flow", "temp")))
    time = {"ts": "2027-01-15T08:00:00.250Z"}
    assert payload(park, "t", {0: (1.0, 0), 1: (2.0, 0)}) == {"flow": 1.0, "temp": 2.0} | time
    assert payload(park, "t", {1: (2.0, 0)}) == {"temp": 2.0} | time


def test_meters_that_share_a_status_have_the_worst():
    park = park_with(*(over_mqtt("", topic="t", value=f"$.{name}", status="$.s") for name in ("a", "b")))
    assert payload(park, "t", {0: (1.0, 0x40000000), 1: (2.0, 0)}) == {"a": 1.0, "b": 2.0, "s": 0x40000000}


@pytest.mark.parametrize("paths", [("$.a", "$.a"), ("$.a", "$.a.b"), ("$", "$.a"), ("$[0]", "$.a"), ("$[-1]", "$[1]")])
def test_paths_that_cannot_stand_together_are_refused_with_the_meters(paths: tuple[str, str]):
    park = park_with(*(over_mqtt("", topic="t", value=path) for path in paths))
    with pytest.raises(InputError, match=r"topic 't': the JSON paths of meters 'M0', 'M1' do not fit"):
        messages(park)


def test_every_topic_with_a_mistake_is_told_at_once():
    park = park_with(*(over_mqtt("", topic=topic, value="$.a") for topic in ("t", "t", "u", "u", "v")))
    with pytest.raises(InputError, match=r"(?s)topic 't'.*topic 'u'"):
        messages(park)


class TestSharedLists:
    SOURCES = tuple(over_mqtt("", topic="t", value=f"$.v[{i}]") for i in range(2))

    def test_are_fine_where_all_are_due_together(self):
        assert not messages(park_with(*self.SOURCES))["t"].separable

    def test_of_objects_may_be_sent_one_by_one(self):
        park = park_with(*(over_mqtt("", topic="t", value=f"$[{i}].v") for i in range(2)))
        message = messages(park)["t"]
        assert message.separable
        assert json.loads(message.payload(0, {1: (2.0, 0)})) == [None, {"v": 2.0}]

    @pytest.mark.parametrize("keys", [{"interval_s": 10.0}, {"sampling": "on_change"}])
    def test_need_one_pace(self, keys: dict[str, object]):
        park = park_of([meter("M0", source=self.SOURCES[0]), meter("M1", source=self.SOURCES[1], **keys)])
        with pytest.raises(InputError, match=r"meters 'M0', 'M1' share a list, so they need the same interval_s"):
            messages(park)


NAMES = st.text(min_size=1, max_size=5)
PATHS = st.lists(NAMES | st.integers(0, 3), max_size=4).map(tuple)


@given(PATHS, st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_placed_is_found_by_the_same_path(path: tuple[str | int, ...], value: float):
    import jsonpath_rfc9535 as jsonpath

    document = json.loads(json.dumps(placed(None, path, value)))
    query = "$" + "".join(f"[{json.dumps(step)}]" for step in path)
    assert steps(query) == path
    found = jsonpath.find_one(query, document)
    assert found is not None
    assert found.value == value


def test_fields_of_a_source():
    source = park_with(over_mqtt("M0", topic="t", value="$.v", time="$.t")).meters[0].source.mqtt
    assert source is not None
    assert Fields.of(source) == Fields(("v",), ("t",), None)
