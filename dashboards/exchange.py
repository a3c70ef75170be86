"""The board *Exchange*: one exchange, chosen by variable: both ends and reconciled, quality and events."""

from __future__ import annotations

from grafana_foundation_sdk.builders import barchart, dashboard, stat, table, timeseries

from dashboards import house
from dashboards.house import GOOD, LIGHT, NEUTRAL, WARN, Site


def build(site: Site) -> dashboard.Dashboard:
    """Return the board."""
    return (
        house.board("exchange", site, "One exchange: sender, receiver, reconciled, quality, events, totals.")
        .with_variable(house.choice("exchange", "Exchange", "exchange_list"))
        .with_variable(house.choice("property", "Property", "exchange_properties"))
        .annotation(house.events("exchange_annotations"))
        .with_panel(_now(site))
        .with_panel(_today(site))
        .with_panel(_flows())
        .with_panel(_quality())
        .with_panel(_days())
        .with_panel(_events())
    )


def _now(site: Site) -> stat.Panel:
    return (
        house.figures("Now", "exchange_now", "In the unit shown; the difference of the ends is relative to the sender.")
        .reduce_options(house.all_fields())
        .override_by_name("difference", house.properties(("unit", "percentunit"), ("decimals", 1)))
        .override_by_name("money_per_h", house.properties(("unit", site.money), ("displayName", "money")))
    )


def _today(site: Site) -> stat.Panel:
    return (
        house.figures(
            "Newest day of the park's calendar",
            "exchange_today",
            "What has been exchanged in it so far, in the settled unit; u95 as if it were wholly systematic. "
            "Not a statement.",
        )
        .reduce_options(house.all_fields())
        .override_by_name("money", house.properties(("unit", f"suffix: {site.currency}")))
        .override_by_name("hours", house.properties(("unit", "h"), ("displayName", "with data")))
    )


def _flows() -> timeseries.Panel:
    return (
        house.lines(
            "Flow",
            "exchange_flows",
            "Both ends' meters, the reconciled flow and its 95 % band, in settled units an hour.",
            height=11,
            width=24,
        )
        .override_by_name("low", house.properties(house.colored(LIGHT), ("custom.lineWidth", 0), house.UNLISTED))
        .override_by_name(
            "high",
            house.properties(
                house.colored(LIGHT),
                ("custom.lineWidth", 0),
                ("custom.fillBelowTo", "low"),
                ("custom.fillOpacity", 25),
                house.UNLISTED,
            ),
        )
        .override_by_name("sender", house.properties(house.colored(WARN)))
        .override_by_name("receiver", house.properties(house.colored("#CC79A7")))
        .override_by_name("reconciled", house.properties(house.colored(GOOD), ("custom.lineWidth", 3)))
    )


def _quality() -> timeseries.Panel:
    return (
        house.lines(
            "Quality: ${property}", "exchange_quality", "The agreed property and its limits, in the agreement's unit."
        )
        .override_by_name("value", house.properties(house.colored(GOOD)))
        .override_by_regexp("low|high", house.properties(*house.LIMIT))
        .no_value("this agreement has no limit of that property")
    )


def _days() -> barchart.Panel:
    return (
        house.bars("Days", "exchange_days", "Totals of the park's calendar days, in the settled unit.")
        .override_by_name("time", house.properties(("unit", "time:YYYY-MM-DD")))
        .override_by_name("sender", house.properties(house.colored(WARN)))
        .override_by_name("receiver", house.properties(house.colored("#CC79A7")))
        .override_by_name("reconciled", house.properties(house.colored(GOOD)))
    )


def _events() -> table.Panel:
    return (
        house.rows("Events", "exchange_events", "Of this exchange and its meters, with their evidence.")
        .override_by_name("severity", house.properties(*house.STATE_CELL, ("custom.width", 90)))
        .override_by_name("message", house.properties(house.to_evidence(own_exchange=True), ("custom.minWidth", 300)))
        .override_by_name("evidence", house.properties(("custom.inspect", True), house.colored(NEUTRAL)))
        .override_by_regexp("meter|from_ms|to_ms", house.properties(*house.HIDDEN))
    )
