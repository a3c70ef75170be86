"""docs/park.md beside the models: no kind of entry is forgotten, and each has all its keys in one table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from park import brokers, model, servers
from park.entry import Entry
from park.load import SECTIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "park.md").read_text(encoding="utf-8")
ENTRIES = sorted(
    {
        entry
        for module in (model, servers, brokers)
        for entry in vars(module).values()
        if isinstance(entry, type) and issubclass(entry, Entry) and entry not in (Entry, model.Park)
    },
    key=lambda entry: entry.__name__,
)


def tables():
    """Return the keys of each table, by the heading above it."""
    parts = re.split(r"^#+ (.*)$", TEXT, flags=re.MULTILINE)
    return {
        heading: set(re.findall(r"^\| `([^`]+)` \|", body, flags=re.MULTILINE))
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


TABLES = tables()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_all_keys_of_an_entry_stand_in_one_table(entry):
    keys = {field.alias or name for name, field in entry.model_fields.items()}
    assert any(keys <= told for told in TABLES.values()), keys


def test_every_section_of_the_file_has_a_heading_and_is_read():
    assert set(model.Park.model_fields) == set(SECTIONS) <= set(TABLES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_the_park_with_every_key_has_them(entry):
    text = (ROOT / "tests" / "cases" / "parks" / "every_key" / "park.yaml").read_text(encoding="utf-8")
    for name, field in entry.model_fields.items():
        assert re.search(rf"\b{field.alias or name}:", text), f"{entry.__name__}.{name}"
