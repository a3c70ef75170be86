"""The board *Balances*: what is left open at the nodes, which meters are suspected, and the tests over time."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, table, timeseries

from dashboards import house
from dashboards.house import BAD, GOOD, LIGHT, WARN, Site


def build(site: Site) -> dashboard.Dashboard:
    """Return the board."""
    return (
        house.board("balances", site, "Nodes, imbalances, suspects and test statistics.")
        .with_variable(house.choice("participant", "Participant", "balances_participants", several=True))
        .with_variable(house.choice("node", "Node", "balances_node_list"))
        .with_panel(_global())
        .with_panel(_imbalance())
        .with_panel(_nodes())
        .with_panel(_statistics())
        .with_panel(_meters())
        .with_panel(_suspects())
    )


def _global() -> timeseries.Panel:
    return (
        house.lines(
            "Global test",
            "balances_global",
            "Relative to its degrees of freedom: about 1 where meters are as good as they are said to be.",
        )
        .axis_soft_min(0)
        .thresholds(house.steps((None, GOOD), (2, WARN)))
        .override_by_name("global test", house.properties(house.colored(GOOD)))
    )


def _imbalance() -> timeseries.Panel:
    return (
        house.lines(
            "Imbalance of ${node}",
            "balances_imbalance",
            "What the raw values leave open (in minus out, minus what was stored), and its 95 % band; kg/s or kW.",
        )
        .override_by_name("imbalance", house.properties(house.colored(GOOD)))
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
    )


def _nodes() -> table.Panel:
    return (
        house.rows(
            "Nodes", "balances_nodes", "In the newest window, the most striking first. Statistic: |imbalance| / std."
        )
        .override_by_name("statistic", house.properties(*house.STATISTIC_CELL))
        .override_by_name(
            "node",
            house.properties(
                (
                    "links",
                    [
                        {
                            "title": "Its imbalance over time",
                            "url": f"/d/{house.uid('balances')}?var-node=${{__data.fields.node}}%20"
                            "${__data.fields.quantity}"
                            "&${__url_time_range}",
                        }
                    ],
                )
            ),
        )
    )


def _statistics() -> timeseries.Panel:
    return _tested(
        house.lines("Nodal tests", "balances_statistics", "Of the six nodes that stand out now; a bucket's largest.")
    )


def _meters() -> timeseries.Panel:
    return _tested(
        house.lines("Measurement tests", "balances_meters", "Of the six meters that stand out now; a bucket's largest.")
    )


def _tested(panel: timeseries.Panel) -> timeseries.Panel:
    """Draw the line beyond which a statistic is suspicious."""
    return (
        panel.axis_soft_min(0)
        .thresholds(house.steps((None, "transparent"), (house.SUSPICIOUS, BAD)))
        .thresholds_style(house.threshold_line())
    )


def _suspects() -> table.Panel:
    return (
        house.rows("Meters", "balances_suspects", "Suspects first, then by measurement test in the newest window.")
        .override_by_name("statistic", house.properties(*house.STATISTIC_CELL))
        .override_by_name("meter", house.properties(house.to_meter()))
    )
