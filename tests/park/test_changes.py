"""What two parks differ in, in words."""

from __future__ import annotations

from typing import Any

import pytest

from park.changes import in_words
from park.model import Park


def park_of(*meters: dict[str, Any], **sections: Any) -> Park:
    return Park.model_validate({
        "park": {"name": "P", "timezone": "UTC"},
        "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
        "nodes": [{"id": "a.n", "participant": "a"}, {"id": "b.n", "participant": "b"}],
        "streams": [{"id": "S1", "from": "a.n", "to": "b.n", "carrier": "water"}],
        "meters": meters, **sections})


def meter(id: str, **keys: Any) -> dict[str, Any]:
    return {"id": id, "stream": "S1", "side": "sender", "quantity": "mass_flow", "unit": "t/h",
            "u95_percent_of_reading": 1.0, "source": {"mqtt": {"topic": id}}, **keys}


PARK = park_of(meter("A"))
MANY = [f"M{n}" for n in range(8)]


@pytest.mark.parametrize(("after", "words"), [
    (PARK, "nothing but its wording"),
    (park_of(meter("A", u95_percent_of_reading=2.0)), "meter 'A' has another u95_percent_of_reading"),
    (park_of(meter("A", unit="kg/s", interval_s=5.0)), "meter 'A' has another unit, interval_s, stale_after_s"),
    (park_of(meter("A"), meter("B")), "meter 'B' added"),
    (park_of(meter("B")), "meter 'B' added, meter 'A' dropped"),
    (park_of(meter("A"), *(meter(id) for id in MANY)), "8 meters added (M0, M1, M2, M3, M4 and 3 more)"),
    (park_of(meter("A"), park={"name": "P", "timezone": "UTC", "window_s": 30}), "park has another window_s"),
    (park_of(meter("A"), streams=[{"id": "S1", "from": "b.n", "to": "a.n", "carrier": "water"}]),
     "stream 'S1' has another from, to"),
])
def test_what_has_changed_is_named(after: Park, words: str) -> None:
    assert in_words(PARK, after) == words


def test_of_many_changes_a_few_are_named_and_the_others_counted() -> None:
    before, after = (park_of(*(meter(id, interval_s=s) for id in MANY)) for s in (1.0, 2.0))
    words = in_words(before, after)
    assert words.count("interval_s") == 5
    assert words.endswith(", and 3 changes more")
