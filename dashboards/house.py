"""House defaults: colours, sizes, links, time. Every panel and board starts from a function of this module.

Colours are Okabe and Ito's, which people with any colour vision tell apart, in light and dark; a state is always
written out as well. Widths are 24ths of a screen; on a phone Grafana puts all panels below each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    dashboard,
    nodegraph,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as boards

from dashboards.postgres import Built, source, sql, text_of

GOOD, BAD, WARN, NEUTRAL, LIGHT = "#0072B2", "#D55E00", "#E69F00", "#8F8F8F", "#56B4E9"
"""M. Okabe, K. Ito: Color Universal Design, 2008; and a grey."""

TAG = "symbiosis"
FOLDER, FOLDER_UID = "Symbiosis", "symbiosis"
REFRESH = "10s"
SUSPICIOUS = 1.96
"""Where a test statistic leaves the 95 % interval of a standard normal."""

BOARDS: Mapping[str, str] = {
    "network": "Network now",
    "exchange": "Exchange",
    "balances": "Balances",
    "quality": "Quality",
    "meters": "Meters and collectors",
    "cascade": "Cascade and footprint",
}
"""Boards in the order of their links: name and title; `uid` is made of the name."""


@dataclass(frozen=True)
class Site:
    """What boards take from the park.

    Attributes
    ----------
    name
        The park's.
    timezone
        IANA name.
    currency
        ISO 4217 code.
    """

    name: str
    timezone: str
    currency: str

    @property
    def money(self) -> str:
        """Grafana's unit of money an hour."""
        return f"suffix: {self.currency}/h"


Override = Sequence[tuple[str, object]]


def uid(name: str) -> str:
    """Return the stable uid of a board."""
    return f"symbiosis-{name}"


def board(name: str, site: Site, description: str, since: str = "now-1h") -> dashboard.Dashboard:
    """Return an empty board with the house's time, tags and links."""
    made = (
        dashboard.Dashboard(f"{BOARDS[name]} · {site.name}")
        .uid(uid(name))
        .description(description)
        .tags([TAG])
        .timezone(site.timezone)
        .time(since, "now")
        .refresh(REFRESH)
        .readonly()
        .tooltip(boards.DashboardCursorSync.CROSSHAIR)
    )
    for other, title in BOARDS.items():
        if other != name:
            made.link(_link(title, f"/d/{uid(other)}", "dashboard"))
    return made.link(_link("Wall (Esc leaves it)", f"/d/{uid(name)}?kiosk", "external link"))


def _link(title: str, url: str, icon: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).type(boards.DashboardLinkType.LINK).url(url).icon(icon).keep_time(True)


def choice(
    name: str, label: str, query: str, *, several: bool = False, hidden: bool = False
) -> dashboard.QueryVariable:
    """Return a variable whose choices come from `queries/<query>.sql`."""
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(source())
        .query(text_of(query))      # as text: Grafana 12 takes no other form from SQL data sources, 13 takes both
        .definition(text_of(query))
        .refresh(boards.VariableRefresh.ON_DASHBOARD_LOAD)
        .multi(several)
        .include_all(several)
    )
    if several:
        made.current(boards.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return made.hide(boards.VariableHide.HIDE_VARIABLE) if hidden else made


def events(query: str) -> dashboard.AnnotationQuery:
    """Return events as marks on every time line of a board."""
    made = dashboard.AnnotationQuery().name("Events").datasource(source()).enable(True).icon_color(BAD)
    return made.target(sql(query, ref="Events"))


def properties(*pairs: tuple[str, object]) -> list[boards.DynamicConfigValue]:
    """Return what a panel does otherwise for one field."""
    return [boards.DynamicConfigValue(id_val=name, value=value) for name, value in pairs]


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Return thresholds: from which value which colour."""
    return (
        dashboard.ThresholdsConfig()
        .mode(boards.ThresholdsMode.ABSOLUTE)
        .steps([boards.Threshold(value=value, color=color) for value, color in pairs])
    )


def alarming(value: float, color: str) -> tuple[str, object]:
    """Return the property that colours a field from a value on."""
    return (
        "thresholds",
        {"mode": "absolute", "steps": [{"value": None, "color": GOOD}, {"value": value, "color": color}]},
    )


def colored(color: str) -> tuple[str, object]:
    """Return the property that fixes a field's colour."""
    return ("color", {"mode": "fixed", "fixedColor": color})


LIMIT = (
    ("custom.lineStyle", {"fill": "dash", "dash": [6, 6]}),
    ("custom.lineWidth", 1),
    ("custom.fillOpacity", 0),
    colored(BAD),
)
HIDDEN = (("custom.hidden", True),)
UNLISTED = ("custom.hideFrom", {"legend": True, "tooltip": False, "viz": False})

STATES: Mapping[str, str] = {
    "agreed": GOOD,
    "inside": GOOD,
    "receiving": GOOD,
    "out of agreement": BAD,
    "below": BAD,
    "above": BAD,
    "no value": NEUTRAL,
    "low": LIGHT,
    "medium": WARN,
    "high": BAD,
    "critical": BAD,
}


def state_colors() -> tuple[str, object]:
    """Return the mapping that colours states by their words."""
    options = {word: {"color": color, "index": i} for i, (word, color) in enumerate(STATES.items())}
    return ("mappings", [{"type": "value", "options": options}])


STATE_CELL = (state_colors(), ("custom.cellOptions", {"type": "color-text"}))


STATISTIC_CELL = (
    (
        "thresholds",
        {
            "mode": "absolute",
            "steps": [
                {"value": None, "color": "text"},
                {"value": SUSPICIOUS, "color": WARN},
                {"value": 2 * SUSPICIOUS, "color": BAD},
            ],
        },
    ),
    ("custom.cellOptions", {"type": "color-text"}),
    ("color", {"mode": "thresholds"}),
)


def threshold_line() -> common.GraphThresholdsStyleConfig:
    """Return thresholds as dashed lines."""
    return common.GraphThresholdsStyleConfig().mode(commons.GraphThresholdsStyleMode.DASHED)


def all_fields() -> common.ReduceDataOptions:
    """Return that every field of an answer is shown, texts too."""
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("/.*/").values(False)


def to_exchange(field: str = "exchange") -> tuple[str, object]:
    """Return the link from a row to its exchange, over the time of its event where it has one."""
    return ("links", [{"title": "Exchange", "url": f"/d/{uid('exchange')}?var-exchange=${{__data.fields.{field}}}"}])


def to_evidence(*, own_exchange: bool = False) -> tuple[str, object]:
    """Return the links from an event to what it rests on, at its time: exchange (the board's or the row's), meter."""
    time = "from=${__data.fields.from_ms}&to=${__data.fields.to_ms}"
    exchange = "${exchange}" if own_exchange else "${__data.fields.exchange}"
    return (
        "links",
        [
            {"title": "Its exchange then", "url": f"/d/{uid('exchange')}?var-exchange={exchange}&{time}"},
            {"title": "Its meter then", "url": f"/d/{uid('meters')}?var-meter=${{__data.fields.meter}}&{time}"},
        ],
    )


def to_meter() -> tuple[str, object]:
    """Return the link from a row to its meter."""
    return (
        "links",
        [{"title": "Meter", "url": f"/d/{uid('meters')}?var-meter=${{__data.fields.meter}}&${{__url_time_range}}"}],
    )


def lines(title: str, query: str, description: str, *, height: int = 9, width: int = 12) -> timeseries.Panel:
    """Return a panel of lines over time."""
    legend = (
        common.VizLegendOptions()
        .display_mode(commons.LegendDisplayMode.LIST)
        .placement(commons.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(source())
        .height(height)
        .span(width)
        .with_target(sql(query, "time_series"))
        .line_width(2)
        .fill_opacity(0)
        .show_points(commons.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(legend)  # a line over missing data would claim to know them
        .tooltip(common.VizTooltipOptions().mode(commons.TooltipDisplayMode.MULTI).sort(commons.SortOrder.NONE))
        .no_value("no data in this range")
    )


def rows(title: str, query: str, description: str, *, height: int = 10, width: int = 24) -> table.Panel:
    """Return a table."""
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(source())
        .height(height)
        .span(width)
        .with_target(sql(query))
        .filterable(True)
        .no_value("none")
        .decimals(2)
        .cell_height(commons.TableCellHeight.SM)
    )


def figures(title: str, query: str, description: str, *, height: int = 4, width: int = 12) -> stat.Panel:
    """Return figures side by side, one a column of the answer."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(source())
        .height(height)
        .span(width)
        .with_target(sql(query))
        .color_mode(commons.BigValueColorMode.VALUE)
        .graph_mode(commons.BigValueGraphMode.NONE)
        .text_mode(commons.BigValueTextMode.VALUE_AND_NAME)
        .thresholds(steps((None, GOOD)))
        .no_value("no data")
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


def bars(title: str, query: str, description: str, *, height: int = 9, width: int = 12) -> barchart.Panel:
    """Return lying bars, one a row of the answer."""
    return (
        barchart.Panel()
        .title(title)
        .description(description)
        .datasource(source())
        .height(height)
        .span(width)
        .with_target(sql(query))
        .orientation(commons.VizOrientation.HORIZONTAL)
        .no_value("no data")
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .placement(commons.LegendPlacement.BOTTOM)
            .display_mode(commons.LegendDisplayMode.LIST)
        )
    )


def states(title: str, query: str, description: str, *, height: int = 12) -> statetimeline.Panel:
    """Return states over time, one line a series."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(source())
        .height(height)
        .span(24)
        .with_target(sql(query, "time_series"))
        .show_value(commons.VisibilityMode.NEVER)
        .no_value("no data")
    )


def graph(
    title: str, nodes: Built, edges: Built, description: str, *, height: int = 18, width: int = 16
) -> nodegraph.Panel:
    """Return a graph of nodes and edges."""
    return (
        nodegraph.Panel()
        .title(title)
        .description(description)
        .datasource(source())
        .height(height)
        .span(width)
        .with_target(nodes)
        .with_target(edges)
        .no_value("no data")
    )
