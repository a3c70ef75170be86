"""docs/park.md: every key of the model has its row, with the default that the model has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from park import brokers, model, servers
from park.secret import Secret
from park.units import QUANTITIES, UNITS, dimensions_of_quantity, units_of

TEXT = (Path(__file__).parents[2] / "docs" / "park.md").read_text(encoding="utf-8")
SECTIONS = {
    "park": model.ParkInfo, "participants": model.Participant, "nodes": model.Node, "streams": model.Stream,
    "meters": model.Meter, "source": model.Source, "opcua": model.OpcuaSource, "mqtt": model.MqttSource,
    "sparkplug": model.SparkplugSource, "exchanges": model.Exchange, "agreement": model.Agreement, "price": model.Price,
    "delivery": model.Delivery, "quality": model.QualityLimit, "avoids": model.Avoids, "allocate": model.Allocation,
    "servers": servers.OpcuaServer, "brokers": brokers.MqttBroker, "tls": brokers.Tls,
}
SHARED = (Secret, servers.Deadband, model.Amount, model.Uncertain, model.Bounds, model.Counter, model.EnthalpyReference)


def rows(heading):
    body = re.split(rf"^#+ {re.escape(heading)}$", TEXT, maxsplit=1, flags=re.MULTILINE)[1]
    body = re.split(r"^#", body, maxsplit=1, flags=re.MULTILINE)[0]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def fields(entry):
    return {field.alias or name: field for name, field in entry.model_fields.items()}


@pytest.mark.parametrize(("heading", "entry"), SECTIONS.items())
def test_every_key_has_a_row_and_every_row_is_a_key(heading, entry):
    assert set(rows(heading)) == set(fields(entry))


@pytest.mark.parametrize(("heading", "entry"), SECTIONS.items())
def test_rows_say_what_is_required_and_plain_defaults(heading, entry):
    for key, field in fields(entry).items():
        meaning, _, default = rows(heading)[key]
        assert meaning, key
        assert (default == "*required*") == field.is_required(), key
        if isinstance(field.default, int | float | str) and field.default != "":
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            shown = shown.removesuffix(".0")
            assert default.startswith(f"`{shown}`"), key


def test_keys_of_the_small_entries_are_explained():
    known = rows("values with a unit, and with an uncertainty")
    assert {key for entry in SHARED for key in fields(entry)} == set(known)


def test_quantities_have_their_units():
    table = {key: cells[-1].replace(";", " ").replace(" of gas", "").split()
             for key, cells in rows("quantity and unit").items()}
    assert set(table) == {*QUANTITIES, "quality.<property>"}
    for quantity, units in table.items():
        name = quantity.replace("<property>", "purity")
        assert set(units) == set(units_of(*sorted(dimensions_of_quantity(name)))), quantity
    assert {unit for units in table.values() for unit in units} == set(UNITS)
