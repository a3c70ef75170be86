"""The board *Cascade and footprint*: heat by grade, water by use, and what the exchanges avoid at the present rate."""

from __future__ import annotations

from grafana_foundation_sdk.builders import barchart, dashboard, stat, table, timeseries

from dashboards import house
from dashboards.house import GOOD, LIGHT, WARN, Site


def build(site: Site) -> dashboard.Dashboard:
    """Return the board."""
    return (
        house.board("cascade", site, "Heat grades, water uses, and what is avoided.", since="now-6h")
        .with_panel(_totals(site))
        .with_panel(_grades())
        .with_panel(_water())
        .with_panel(_footprint())
        .with_panel(_streams())
        .with_panel(_exchanges(site))
    )


def _totals(site: Site) -> stat.Panel:
    return (
        house.figures(
            "At the present rate",
            "cascade_totals",
            "Sums over all exchanges of their reconciled flow times what the agreement says one unit avoids. "
            "The power station's fuel is not among it.",
            width=24,
        )
        .override_by_name("CO2 avoided", house.properties(("unit", "suffix: t/h")))
        .override_by_name("fresh water avoided", house.properties(("unit", "suffix: m³/h")))
        .override_by_name("material avoided", house.properties(("unit", "suffix: t/h")))
        .override_by_regexp("cost saved|money exchanged", house.properties(("unit", site.money)))
    )


def _grades() -> barchart.Panel:
    return house.bars(
        "Heat by grade", "cascade_grades", "Between participants, by the temperature that is measured; MW."
    ).override_by_name("heat", house.properties(house.colored(WARN), ("unit", "suffix: MW")))


def _water() -> barchart.Panel:
    return (
        house.bars(
            "Water by use", "cascade_water", "Between participants, m³/h; used again where fresh water is avoided."
        )
        .override_by_name("used again", house.properties(house.colored(GOOD)))
        .override_by_name("fresh", house.properties(house.colored(LIGHT)))
    )


def _footprint() -> timeseries.Panel:
    return (
        house.lines("Avoided", "cascade_footprint", "t/h, over time.", width=24)
        .unit("suffix: t/h")
        .override_by_name("CO2 avoided", house.properties(house.colored(GOOD)))
        .override_by_name("material avoided", house.properties(house.colored(WARN)))
    )


def _streams() -> table.Panel:
    return (
        house.rows(
            "Heat between participants", "cascade_streams", "Hottest first: what is left of it can go further down."
        )
        .override_by_name("temperature", house.properties(("unit", "celsius"), ("decimals", 1)))
        .override_by_name("heat", house.properties(("unit", "suffix: MW")))
    )


def _exchanges(site: Site) -> table.Panel:
    return (
        house.rows(
            "By exchange",
            "cascade_exchanges",
            "An hour at the present rate. Money that flows the other way is negative.",
            height=16,
        )
        .override_by_name("exchange", house.properties(house.to_exchange(), ("custom.width", 90)))
        .override_by_name("co2", house.properties(("unit", "suffix: kg/h"), ("decimals", 0)))
        .override_by_name("water", house.properties(("unit", "suffix: m³/h")))
        .override_by_name("material", house.properties(("unit", "suffix: t/h")))
        .override_by_regexp("saved|money", house.properties(("unit", site.money)))
    )
