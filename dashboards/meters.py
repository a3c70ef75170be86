"""The board *Meters and collectors*: who is silent, stuck or suspect; lag, rates, gaps and completeness."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, table, timeseries

from dashboards import house
from dashboards.house import GOOD, WARN, Site


def build(site: Site) -> dashboard.Dashboard:
    """Return the board."""
    return (
        house.board("meters", site, "Meters and the way of their readings.")
        .with_variable(house.choice("meter", "Meter", "meters_list"))
        .annotation(house.events("meters_annotations"))
        .with_panel(_health())
        .with_panel(_attention())
        .with_panel(_meter())
        .with_panel(_rates())
        .with_panel(_lag())
        .with_panel(_sources())
        .with_panel(_completeness())
        .with_panel(_gaps())
    )


def _health() -> stat.Panel:
    return house.figures(
        "Meters", "meters_health", "Of all meters of the park, in the newest window.", width=8, height=9
    ).override_by_regexp("silent|stuck|suspect", house.properties(house.alarming(1, WARN)))


def _attention() -> table.Panel:
    return house.rows("Silent, stuck, suspect", "meters_attention", "Now.", width=16, height=9).override_by_name(
        "meter", house.properties(house.to_meter())
    )


def _meter() -> timeseries.Panel:
    return (
        house.lines(
            "${meter}",
            "meters_series",
            "What it read, and what the reconciled park says it should have read, in its unit "
            "(counters and tanks: their rate, in kg/s, m3/s or kW).",
            width=24,
        )
        .override_by_name("measured", house.properties(house.colored(WARN)))
        .override_by_name("expected", house.properties(house.colored(GOOD)))
    )


def _rates() -> timeseries.Panel:
    return (
        house.lines("Usable readings", "meters_rates", "A second, as windows used them.")
        .axis_soft_min(0)
        .override_by_name("usable readings", house.properties(house.colored(GOOD)))
    )


def _lag() -> timeseries.Panel:
    return (
        house.lines(
            "Lag and revisions",
            "meters_lag",
            "From a window's end to its first result; windows that late readings changed afterwards.",
        )
        .override_by_name("from a window's end to its result", house.properties(("unit", "s"), house.colored(GOOD)))
        .override_by_name(
            "windows revised",
            house.properties(
                ("custom.axisPlacement", "right"), ("custom.drawStyle", "bars"), ("unit", "none"), house.colored(WARN)
            ),
        )
    )


def _sources() -> table.Panel:
    return (
        house.rows(
            "Sources",
            "meters_sources",
            "OPC UA servers and brokers, as the collector sees them; what is missing first. Complete up to: every "
            "reading before is stored, or lies in a marked gap. Clock ahead: of the device, less the shortest way of "
            "its readings.",
            height=8,
        )
        .override_by_name("state", house.properties(*house.STATE_CELL))
        .override_by_regexp("lag|clock ahead", house.properties(("unit", "s"), ("decimals", 1)))
        .override_by_name("open gaps", house.properties(house.alarming(1, WARN), ("decimals", 0)))
        .override_by_regexp("readings|rejected|gaps in 24 h", house.properties(("decimals", 0)))
    )


def _completeness() -> table.Panel:
    return (
        house.rows(
            "Completeness", "meters_completeness", "Share of the range's windows with a value; the worst 30.", width=12
        )
        .override_by_name(
            "completeness", house.properties(("unit", "percentunit"), ("decimals", 1), ("min", 0), ("max", 1))
        )
        .override_by_name("meter", house.properties(house.to_meter()))
    )


def _gaps() -> table.Panel:
    return house.rows("Gaps", "meters_gaps", "Times in which a source could not hold its readings, and why.", width=12)
