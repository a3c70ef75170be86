"""The board *Network now*: the park as a graph, what is out of agreement, what to look at next."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, nodegraph, stat, table
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import nodegraph as models

from dashboards import house
from dashboards.house import BAD, GOOD, NEUTRAL, WARN, Site
from dashboards.postgres import sql


def build(site: Site) -> dashboard.Dashboard:
    """Return the board."""
    return (
        house.board("network", site, "What flows between the companies now, and what is wrong.")
        .with_variable(house.choice("kind", "Kind", "network_kinds", several=True))
        .with_panel(_agreement())
        .with_panel(_health())
        .with_panel(_newest_window())
        .with_panel(_graph())
        .with_panel(_next())
        .with_panel(_exchanges(site))
    )


def _agreement() -> stat.Panel:
    return (
        house.figures("Exchanges", "network_state", "As agreed, or not, in the newest window.", width=8)
        .override_by_name("out of agreement", house.properties(house.alarming(1, BAD)))
        .override_by_name("without value", house.properties(house.colored(NEUTRAL)))
    )


def _health() -> stat.Panel:
    return house.figures(
        "Meters and events", "network_health", "Meters that are silent, stuck or suspect; open events.", width=8
    ).thresholds(house.steps((None, GOOD), (1, WARN)))


def _newest_window() -> stat.Panel:
    return (
        house.figures(
            "Newest window",
            "network_window",
            "When it ended, how long its result took, and its global test relative to what is expected (about 1).",
            width=8,
        )
        .reduce_options(house.all_fields())     # a time is no number, and would be left out
        .override_by_name("newest window", house.properties(("unit", "dateTimeAsLocal")))
        .override_by_name("lag", house.properties(("unit", "s"), ("decimals", 1)))
        .override_by_name("global test", house.properties(("decimals", 2), house.alarming(2, WARN)))
    )


def _graph() -> nodegraph.Panel:
    arcs: list[Builder[models.ArcOption]] = [
        nodegraph.ArcOption().field(field).color(color)
        for field, color in (("arc__agreed", GOOD), ("arc__deviating", BAD), ("arc__unknown", NEUTRAL))
    ]
    return (
        house.graph(
            "Network",
            sql("network_nodes", ref="nodes"),
            sql("network_edges", ref="edges"),
            "Participants; each with its largest nodal test (|imbalance| / std) and the number of its exchanges; the "
            "ring says how many are in agreement. Edges: what goes from one to the other in the unit given; an edge "
            "out of agreement is thick and orange, says so, and leads to its exchange. One edge for each kind: choose "
            "a kind above where they overlap.",
        )
        .nodes(nodegraph.NodeOptions().arcs(arcs))
        .override_by_name("detail__exchange", house.properties(house.to_exchange("detail__exchange")))
    )


def _next() -> table.Panel:
    return (
        house.rows(
            "What to look at next",
            "network_next",
            "Open events: the gravest first, then by the money that their exchange moves. Messages lead to evidence.",
            height=18,
            width=8,
        )
        .override_by_name("severity", house.properties(*house.STATE_CELL, ("custom.width", 80)))
        .override_by_name("since", house.properties(("unit", "dateTimeFromNow"), ("custom.width", 110)))
        .override_by_name(
            "message",
            house.properties(
                house.to_evidence(),
                ("custom.cellOptions", {"type": "auto", "wrapText": True}),
                ("custom.minWidth", 220),
            ),
        )
        .override_by_regexp("kind|subject|exchange|meter|money_per_h|from_ms|to_ms", house.properties(*house.HIDDEN))
    )


def _exchanges(site: Site) -> table.Panel:
    return (
        house.rows(
            "All exchanges",
            "network_exchanges",
            "At the present rate, reconciled, with its 95 % half-width; difference of the ends relative to the sender.",
            height=16,
        )
        .override_by_name("exchange", house.properties(house.to_exchange(), ("custom.width", 90)))
        .override_by_name("state", house.properties(*house.STATE_CELL))
        .override_by_regexp("difference|tolerance", house.properties(("unit", "percentunit"), ("decimals", 1)))
        .override_by_name("money_per_h", house.properties(("unit", site.money), ("displayName", "money")))
    )
