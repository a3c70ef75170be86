"""What Grafana makes of a query before PostgreSQL sees it, and every query of the built files.

Macros become what Grafana's PostgreSQL data source makes of them (its `macros.go`): times as RFC 3339 in quotes,
`column BETWEEN 'from' AND 'to'`. Variables become what its browser side makes of `${name:sqlstring}`: quoted, several
separated by commas, quotes doubled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)")
_VARIABLE = re.compile(r"\$\{(\w+):sqlstring\}")

Values = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Asked:
    """One query: where it stands, its text and format, and the panel, if it is of one."""

    place: str
    text: str
    form: str
    panel: Mapping[str, Any] | None = None


def expand(text: str, since: datetime, until: datetime, values: Values) -> str:
    """Return the query as PostgreSQL gets it."""
    filled = _VARIABLE.sub(lambda found: _quoted(values[found[1]]), text)
    expanded = _MACRO.sub(lambda found: _macro(found[1], found[2].strip(), since, until), filled)
    assert "$" not in expanded, f"not expanded: {expanded}"
    return expanded


def _quoted(chosen: Sequence[str]) -> str:
    return ",".join("'" + value.replace("'", "''") + "'" for value in chosen)


def _macro(name: str, argument: str, since: datetime, until: datetime) -> str:
    times = {"__timeFrom": since, "__timeTo": until}
    if name in times:
        return f"'{_rfc3339(times[name])}'"
    assert name == "__timeFilter", f"unknown macro {name}"
    return f"{argument} BETWEEN '{_rfc3339(since)}' AND '{_rfc3339(until)}'"


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z"


def variables(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a board's variables, in order."""
    return list(model.get("templating", {}).get("list", []))


def queries(name: str, model: Mapping[str, Any]) -> Iterator[Asked]:
    """Yield every query of a board: of its variables, its annotations and its panels."""
    for variable in variables(model):
        yield Asked(f"{name}: variable {variable['name']}", variable["query"], "table")
    for annotation in model.get("annotations", {}).get("list", []):
        yield Asked(f"{name}: annotation {annotation['name']}", annotation["target"]["rawSql"], "table")
    for panel in model["panels"]:
        for target in panel["targets"]:
            yield Asked(f"{name}: {panel['title']} {target['refId']}", target["rawSql"], target["format"], panel)
