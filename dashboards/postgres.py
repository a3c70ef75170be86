"""The PostgreSQL data source as boards name it, and its queries, which the SDK has no class for.

Grafana expands `$__timeFrom()`, `$__timeTo()` and `$__timeFilter(column)` on its server and `${variable:sqlstring}`
in the browser, quoted. The main path enters at `sql`.
"""

from __future__ import annotations

from importlib import resources
from typing import Literal

from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import common

UID = "symbiosis-postgres"
PLUGIN = "postgres"
"""The plug-in's id; Grafana knows it as an alias of its present long one."""

Format = Literal["table", "time_series"]


def source() -> common.DataSourceRef:
    """Return the reference to the data source."""
    return common.DataSourceRef(type_val=PLUGIN, uid=UID)


def text_of(name: str) -> str:
    """Return the query `queries/<name>.sql`."""
    return resources.files("dashboards.queries").joinpath(f"{name}.sql").read_text("utf-8").strip()


class Query(variants.Dataquery):
    """One query, as its data source stores it in a panel."""

    def __init__(self, name: str, form: Format, ref: str = "A") -> None:
        self.text, self.form, self.ref = text_of(name), form, ref

    def to_json(self) -> dict[str, object]:
        """Return the model for the board's JSON."""
        return {
            "refId": self.ref,
            "datasource": {"type": PLUGIN, "uid": UID},
            "editorMode": "code",
            "format": self.form,
            "rawQuery": True,
            "rawSql": self.text,
        }


class Built(builder.Builder[variants.Dataquery]):
    """A query where the SDK wants the builder of one."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def build(self) -> variants.Dataquery:
        """Return the query."""
        return self._query


def sql(name: str, form: Format = "table", ref: str = "A") -> Built:
    """Return the query `queries/<name>.sql` for a panel."""
    return Built(Query(name, form, ref))
