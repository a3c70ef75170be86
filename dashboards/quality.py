"""The board *Quality*: every agreement's properties against their limits."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, statetimeline, table, timeseries

from dashboards import house
from dashboards.house import BAD, GOOD, WARN, Site


def build(site: Site) -> dashboard.Dashboard:
    """Return the board."""
    return (
        house.board("quality", site, "Every agreement's properties against their limits.")
        .with_variable(house.choice("exchanges", "Exchanges", "quality_exchanges", several=True))
        .with_variable(house.choice("limit", "Property", "quality_limits"))
        .annotation(house.events("quality_annotations"))
        .with_panel(_now())
        .with_panel(_series())
        .with_panel(_states())
    )


def _now() -> table.Panel:
    return (
        house.rows(
            "Now",
            "quality_now",
            "Outside first. Position: 0 at the low limit, 1 at the high one, where an agreement has both.",
            height=14,
        )
        .override_by_name("state", house.properties(*house.STATE_CELL))
        .override_by_name(
            "position",
            house.properties(
                ("min", 0),
                ("max", 1),
                ("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "hidden"}),
                house.colored(GOOD),
            ),
        )
        .override_by_name("exchange", house.properties(house.to_exchange(), ("custom.width", 90)))
    )


def _series() -> timeseries.Panel:
    return (
        house.lines("${limit}", "quality_series", "In the agreement's unit, with its limits.", width=24)
        .override_by_name("value", house.properties(house.colored(GOOD)))
        .override_by_regexp("low|high", house.properties(*house.LIMIT))
    )


def _states() -> statetimeline.Panel:
    options = {
        "0": {"text": "inside", "color": GOOD},
        "-1": {"text": "below", "color": WARN},
        "1": {"text": "above", "color": BAD},
    }
    return house.states(
        "Inside or outside",
        "quality_states",
        "Window means, or means of 5 minutes or an hour on long ranges.",
        height=16,
    ).override_by_regexp(".*", house.properties(("mappings", [{"type": "value", "options": options}])))
