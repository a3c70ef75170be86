"""Every query of the built files, on a simulated park, as the role that Grafana uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from dashboards import house
from park.store import connect
from tests.dashboards.expand import Asked, Values, expand, queries, variables
from tests.dashboards.filled import BEGAN, ENDED

BUILT = Path(__file__).parents[2] / "deploy" / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    name: json.loads((BUILT / "dashboards" / f"{house.uid(name)}.json").read_text()) for name in house.BOARDS
}
ASKED = {asked.place: (name, asked) for name, model in BOARDS.items() for asked in queries(name, model)}
RULES = [
    rule
    for group in yaml.safe_load((BUILT / "provisioning/alerting/rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
WRONG_SERIES = "a time series has a time, then numbers, and texts that name a series"

CHOSEN: dict[str, str] = {  # where something happens in the simulated quarter of an hour
    "exchange": "X27",
    "property": "water",
    "limit": "X27 water",
    "meter": "utility.FT-W02",
}
RANGES = {"windows": timedelta(hours=1), "5 minutes": timedelta(days=2), "hours": timedelta(days=30)}


@pytest.fixture(scope="module")
def reader(reader_dsn: str) -> Iterator[psycopg.Connection]:
    with connect(reader_dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="module")
def values(reader: psycopg.Connection) -> dict[str, Values]:
    """What every variable of every board is set to: all, or what is chosen above."""
    return {name: _values(reader, model) for name, model in BOARDS.items()}


def _values(reader: psycopg.Connection, model: dict[str, Any]) -> Values:
    found: dict[str, list[str]] = {}
    for variable in variables(model):
        answer = reader.execute(expand(variable["query"], BEGAN, ENDED, found).encode())
        assert answer.description
        names = [column.name for column in answer.description]
        offered = [str(row[names.index("__value") if "__value" in names else 0]) for row in answer]
        assert offered, f"nothing to choose for {variable['name']}"
        wanted = CHOSEN.get(variable["name"], offered[0])
        assert wanted in offered
        found[variable["name"]] = offered if variable["multi"] else [wanted]
    return found


def ask(
    reader: psycopg.Connection, asked: Asked, since: datetime, values: Values
) -> tuple[list[tuple[str, str]], list[tuple]]:
    """Return the columns with their types, and the rows."""
    answer = reader.execute(expand(asked.text, since, ENDED, values).encode())
    assert answer.description
    kinds = [(c.name, reader.adapters.types[c.type_code].name) for c in answer.description]
    return kinds, answer.fetchall()


@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize("place", ASKED)
def test_query_answers(place: str, range_: str, reader: psycopg.Connection, values: dict[str, Values]) -> None:
    board, asked = ASKED[place]
    columns, rows = ask(reader, asked, ENDED - RANGES[range_], values[board])
    assert rows, "no rows"
    if asked.form == "time_series":
        assert_series(columns, rows)
    if "annotation" in place:
        assert [name for name, _ in columns] == ["time", "timeend", "text", "tags"]
    if asked.panel and asked.panel["type"] == "stat":
        assert {kind for _, kind in columns} <= {"float8", "text", "timestamptz"}
        numbers_alone = {kind for _, kind in columns} == {"float8"}
        wanted = asked.panel["options"]["reduceOptions"].get("fields")
        assert numbers_alone or wanted == "/.*/", "a stat panel leaves out what is no number unless told to show all"


def assert_series(columns: list[tuple[str, str]], rows: list[tuple]) -> None:
    assert columns[0] == ("time", "timestamptz"), WRONG_SERIES
    assert {kind for _, kind in columns[1:]} <= {"float8", "text"}, WRONG_SERIES
    assert "float8" in {kind for _, kind in columns}, WRONG_SERIES
    times = [row[0] for row in rows]
    assert times == sorted(times), "a time series is in the order of time"
    keys = [(row[0], *(v for v, (_, kind) in zip(row, columns, strict=True) if kind == "text")) for row in rows]
    assert len(keys) == len(set(keys)), "one value a time and series"


@pytest.mark.parametrize("place", [p for p, (_, asked) in ASKED.items() if asked.panel])
def test_panel_speaks_of_columns_that_are_there(
    place: str, reader: psycopg.Connection, values: dict[str, Values]
) -> None:
    board, asked = ASKED[place]
    assert asked.panel
    names = {
        name
        for target in asked.panel["targets"]
        for name, _ in ask(reader, Asked(place, target["rawSql"], ""), ENDED - timedelta(hours=1), values[board])[0]
    }
    for override in asked.panel["fieldConfig"]["overrides"]:
        wanted = override["matcher"]["options"]
        if override["matcher"]["id"] == "byName":
            assert wanted in names
        else:
            assert any(re.fullmatch(wanted, name) for name in names)
        for link in (link for p in override["properties"] if p["id"] == "links" for link in p["value"]):
            assert_link(link["url"], names)


def assert_link(url: str, names: set[str]) -> None:
    """A link leads to a board that is there, sets variables that it has, from columns that the row has."""
    assert set(re.findall(r"__data\.fields\.(\w+)", url)) <= names
    found = re.match(r"/d/([\w-]+)\?", url)
    assert found
    [board] = [model for model in BOARDS.values() if model["uid"] == found[1]]
    assert set(re.findall(r"var-(\w+)=", url)) <= {variable["name"] for variable in variables(board)}


def test_node_graph_is_one_grafana_draws(reader: psycopg.Connection, values: dict[str, Values]) -> None:
    columns, nodes = ask(reader, ASKED["network: Network nodes"][1], BEGAN, values["network"])
    edge_columns, edges = ask(reader, ASKED["network: Network edges"][1], BEGAN, values["network"])
    at = {name: i for i, (name, _) in enumerate(columns)}
    assert {"id", "title", "mainstat", "secondarystat"} <= at.keys()
    assert dict(columns)["mainstat"] == dict(edge_columns)["mainstat"] == "float8"
    ids = [row[at["id"]] for row in nodes]
    assert len(ids) == len(set(ids)) == 12
    for row in nodes:
        assert sum(row[at[f"arc__{part}"]] for part in ("agreed", "deviating", "unknown")) == pytest.approx(1)
    at = {name: i for i, (name, _) in enumerate(edge_columns)}
    assert len({row[at["id"]] for row in edges}) == len(edges) > 30
    for row in edges:
        assert {row[at["source"]], row[at["target"]]} <= set(ids)
    deviating = [row for row in edges if row[at["detail__state"]] == "out of agreement"]
    assert [row[at["detail__exchange"]] for row in deviating] == ["X27"]


def test_what_is_grave_comes_first(reader: psycopg.Connection, values: dict[str, Values]) -> None:
    columns, rows = ask(reader, ASKED["network: What to look at next A"][1], BEGAN, values["network"])
    assert [row[[n for n, _ in columns].index("subject")] for row in rows] == ["X27", "pharma.FT-W06"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["uid"])
def test_rule_asks_for_a_time_series(rule: dict[str, Any], reader: psycopg.Connection) -> None:
    text = rule["data"][0]["model"]["rawSql"]
    assert "$" not in text
    columns, rows = ask(reader, Asked(rule["uid"], text, "time_series"), BEGAN, {})
    assert [kind for _, kind in columns].count("float8") == 1
    if rows:
        assert_series(columns, rows)
