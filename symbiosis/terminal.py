"""What a run shows while it runs: a live view on a terminal, or plain lines where there is none.

Both take the same calls (`Screen`): steps of the start-up, notes, and looks at the store (`symbiosis.observe`).
The live view fits any size: what is out of its agreement comes first, the rest is paged through where it does not
fit. Drawing is `draw`, a function of what is known and of the size; nothing here asks the store.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from park.clock import RunClock
from symbiosis.observe import EventRow, ExchangeRow, Look, NodeRow, Pace

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

SUMMARY_EVERY_S = 10.0
PAGE_EVERY_S = 6.0
NOTES_KEPT = 3
SHOWS_ENDS = 120            # columns from which both participants are named


States = Callable[[], Mapping[str, str]]        # what each service does


class Screen(Protocol):
    """What shows a run. Calls may come from any thread."""

    def step(self, name: str) -> None:
        """Show that a step of the start-up has begun."""

    def done(self, name: str, detail: str = "") -> None:
        """Show that a step is done."""

    def note(self, text: str) -> None:
        """Tell of something that a person should know."""

    def begin(self, clock: RunClock, states: States) -> None:
        """Show looks from now on; `states` is asked at each."""

    def show(self, look: Look) -> None:
        """Show a look at the store."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainScreen:
    """One line for each step, note and event, and a summary from time to time, on stderr."""

    def __init__(self, summary_every_s: float = SUMMARY_EVERY_S) -> None:
        self._every_s = summary_every_s
        self._lock = threading.Lock()
        self._clock = RunClock()
        self._told: dict[int, bool] = {}            # events: whether their end was told
        self._next_summary = 0.0
        self._away = ""
        self._first = True

    def step(self, name: str) -> None:
        """Do nothing: a step is told when it is done."""

    def done(self, name: str, detail: str = "") -> None:
        """Print the step."""
        self.note(f"{name}: {detail}" if detail else name)

    def note(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
            sys.stderr.flush()

    def begin(self, clock: RunClock, states: States) -> None:
        """Take the clock."""
        self._clock = clock

    def show(self, look: Look) -> None:
        """Print what is new in a look."""
        if look.away != self._away:
            self._away = look.away
            self.note(f"the database is away: {look.away}" if look.away else "the database answers again")
        for event in reversed(look.events):
            self._tell_event(event)
        if look.window is not None and (self._first or time.monotonic() >= self._next_summary):
            self._first = False
            self._next_summary = time.monotonic() + self._every_s
            self.note(_summary(look, Pace.of(look, self._clock, time.time())))

    def close(self) -> None:
        """Nothing to leave."""

    def _tell_event(self, event: EventRow) -> None:
        ended = event.ended_at is not None
        if self._told.get(event.event) == ended:
            return
        if event.event not in self._told:
            self.note(f"event {event.kind} since {event.started_at:%H:%M:%S}Z: {_told(event)}")
        if event.ended_at is not None:
            self.note(f"event {event.kind} {event.subject} ended at {event.ended_at:%H:%M:%S}Z")
        self._told[event.event] = ended


def _summary(look: Look, pace: Pace) -> str:
    """Return the state of a run in one line."""
    assert look.window is not None
    out = sum(1 for row in look.exchanges if row.in_agreement is False)
    known = sum(1 for row in look.exchanges if row.reconciled is not None)
    return (
        f"window {look.window.window_start:%Y-%m-%d %H:%M:%S}Z, {look.window.windows} windows, "
        f"{known} exchanges reconciled, {out} out of agreement, {pace.values_per_s:.0f} values/s, "
        f"lag {_seconds(pace.lag_s)}"
    )


@dataclass
class Known:
    """All that the live view draws."""

    title: str
    steps: dict[str, tuple[float, float | None, str]] = field(default_factory=dict)     # began, took [s], detail
    notes: list[str] = field(default_factory=list)
    states: States = dict
    clock: RunClock | None = None
    look: Look = field(default_factory=Look)


class LiveScreen:
    """The live view, on the terminal's alternate screen."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._known = Known(title)
        self._lock = threading.Lock()
        self._console = Console(stderr=True)
        self._live: Live = Live(
            get_renderable=self._draw, console=self._console, screen=True, refresh_per_second=4,
            redirect_stdout=False, redirect_stderr=False,
        )
        self._live.start()

    def step(self, name: str) -> None:
        """Note that a step has begun."""
        with self._lock:
            self._known.steps[name] = (time.monotonic(), None, "")

    def done(self, name: str, detail: str = "") -> None:
        """Note that a step is done."""
        with self._lock:
            began = self._known.steps.get(name, (time.monotonic(), None, ""))[0]
            self._known.steps[name] = (began, time.monotonic() - began, detail)

    def note(self, text: str) -> None:
        """Keep a note; all are printed when the view is left."""
        with self._lock:
            self._known.notes.append(f"{datetime.now(UTC):%H:%M:%S} {text}")

    def begin(self, clock: RunClock, states: States) -> None:
        """Take clock and states."""
        with self._lock:
            self._known.clock, self._known.states = clock, states

    def show(self, look: Look) -> None:
        """Keep a look; the view is drawn four times a second."""
        with self._lock:
            self._known.look = look

    def close(self) -> None:
        """Leave the alternate screen; print what was reached, and the notes."""
        self._live.stop()
        with self._lock:
            look, clock = self._known.look, self._known.clock
            if look.window is not None and clock is not None:
                sys.stderr.write(_summary(look, Pace.of(look, clock, time.time())) + "\n")
            for note in self._known.notes:
                sys.stderr.write(note + "\n")
            self._known.notes.clear()

    def _draw(self) -> RenderableType:
        width, height = self._console.size
        with self._lock:
            return draw(self._known, width, height, time.time())


def draw(known: Known, width: int, height: int, now: float) -> RenderableType:
    """Return the view for a terminal of `width` columns and `height` lines at the wall time `now` [s]."""
    from rich.console import Group

    if known.look.window is None or known.clock is None:
        return _draw_start(known)
    head = _draw_head(known, known.clock, width, now)
    kept = NOTES_KEPT if height >= 30 else 1
    notes = [_line(note, "yellow", width) for note in known.notes[-kept:]]
    left = height - len(head) - len(notes)
    if width >= 170 and left >= 12:
        body = _draw_side_by_side(known.look, width, left, now)
    else:
        body = _draw_stacked(known.look, width, left, now)
    return Group(*head, *notes, body)


def _draw_start(known: Known) -> RenderableType:
    """Return the start-up's steps."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(known.title, style="bold"), Text()]
    for name, (began, took, detail) in known.steps.items():
        mark, style = ("✓", "green") if took is not None else ("…", "cyan")
        seconds = took if took is not None else time.monotonic() - began
        lines.append(Text.assemble((f" {mark} ", style), f"{name:<28}", (f"{seconds:5.1f} s  ", "dim"), detail))
    lines += [Text(note, style="yellow") for note in known.notes[-10:]]
    return Group(*lines)


def _draw_head(known: Known, clock: RunClock, width: int, now: float) -> list[RenderableType]:
    """Return the lines above the tables: the run, its pace, its services."""
    look, pace = known.look, Pace.of(known.look, clock, now)
    assert look.window is not None
    run_time = datetime.fromtimestamp(clock.at(now), UTC)
    speed = clock.at(now) - clock.at(now - 1.0)
    facts = [
        f"{run_time:%Y-%m-%d %H:%M:%S}Z x{speed:.0f}", f"results {_seconds(pace.result_age_s)} ago",
        f"lag {_seconds(pace.lag_s)}", f"{pace.values_per_s:.0f} values/s",
        f"window {look.window.window_start:%H:%M:%S}", f"{look.window.windows} windows",
    ]
    first = _line(f" {known.title}  " + "  ".join(facts), "bold reverse", width)
    if look.away:
        return [first, _line(f" the database is away, this is what it said last: {look.away}", "bold red", width)]
    services = "  ".join(f"{name} {state}" for name, state in known.states().items())
    return [first, _line(f" {services}", "dim", width)]


def _draw_stacked(look: Look, width: int, height: int, now: float) -> RenderableType:
    """Return exchanges above nodes and events: for narrow terminals."""
    from rich.console import Group

    below = max(5, height // 4)
    if width >= 100 and height >= 16:
        parts: RenderableType = _columns(
            _draw_nodes(look.nodes, below), _draw_events(look.events, below), width, (2, 3)
        )
    else:
        parts = _draw_events(look.events, below)
    return Group(_draw_exchanges(look.exchanges, width, height - below, now), parts)


def _draw_side_by_side(look: Look, width: int, height: int, now: float) -> RenderableType:
    """Return exchanges to the left, nodes and events to the right: for walls."""
    from rich.console import Group

    left = max(110, width * 3 // 5)
    nodes = min(height // 2, len(look.nodes) + 1)
    right = Group(_draw_nodes(look.nodes, nodes), _draw_events(look.events, height - nodes))
    return _columns(_draw_exchanges(look.exchanges, left, height, now), right, width, (left, width - left))


def _columns(left: RenderableType, right: RenderableType, width: int, ratio: tuple[int, int]) -> RenderableType:
    """Return two things beside each other."""
    from rich.table import Table

    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    grid.width = width
    grid.add_column(ratio=ratio[0])
    grid.add_column(ratio=ratio[1])
    grid.add_row(left, right)
    return grid


def _draw_exchanges(rows: Sequence[ExchangeRow], width: int, height: int, now: float) -> RenderableType:
    """Return the exchanges that fit: out of agreement first, the others page by page."""
    table = _table(width)
    table.add_column("", no_wrap=True, min_width=3)
    table.add_column("exchange", style="bold", max_width=10, no_wrap=True)
    table.add_column("name", ratio=3, min_width=8, no_wrap=True)
    if width >= SHOWS_ENDS:
        table.add_column("from", ratio=2, style="dim", no_wrap=True)
        table.add_column("to", ratio=2, style="dim", no_wrap=True)
    for title in ("sender", "receiver", "reconciled", "± u95"):
        table.add_column(title, justify="right", no_wrap=True, min_width=7)
    table.add_column("unit", no_wrap=True, min_width=4)
    shown, hidden = page(rows, max(1, height - 2), now)
    for row in shown:
        table.add_row(*_exchange_cells(row, width), style="bold red" if row.in_agreement is False else None)
    if hidden:
        table.caption = f"{hidden} more"
        table.caption_justify = "left"
    return table


def page(rows: Sequence[ExchangeRow], room: int, now: float) -> tuple[list[ExchangeRow], int]:
    """Return the rows to show in `room` lines at the wall time `now` [s], and how many are not shown.

    Those out of agreement come first and stay; the others take turns, a page every few seconds.
    """
    out = [row for row in rows if row.in_agreement is False]
    rest = [row for row in rows if row.in_agreement is not False]
    first = out[:room]
    space = room - len(first)
    if len(rest) <= space:
        return first + rest, len(out) - len(first)
    if space <= 0:
        return first, len(rows) - len(first)
    pages = -(-len(rest) // space)
    at = min(int(now / PAGE_EVERY_S) % pages * space, len(rest) - space)
    second = rest[at:at + space]
    return first + second, len(rows) - len(first) - len(second)


def _exchange_cells(row: ExchangeRow, width: int) -> list[str]:
    """Return the cells of an exchange."""
    flows = [row.shown(row.sender), row.shown(row.receiver), row.shown(row.reconciled)]
    u95 = row.shown(row.reconciled_u95)
    digits = decimals(u95, flows[2])
    mark = {None: "", True: "ok", False: "OUT"}[row.in_agreement]
    names = [row.name]
    if width >= SHOWS_ENDS:
        names += [row.from_name or "", row.to_name or ""]
    return [
        mark, row.exchange, *names, *(_number(flow, digits) for flow in flows), _number(u95, digits), row.shown_unit
    ]


def decimals(u95: float | None, value: float | None) -> int:
    """Return how many decimals to show: two digits of the uncertainty, four of the value where there is none."""
    if u95 is not None and u95 > 0:
        return max(0, min(5, 1 - _magnitude(u95)))
    return max(0, min(5, 3 - _magnitude(value))) if value else 1


def _magnitude(value: float) -> int:
    """Return the power of ten of the leading digit."""
    return int(f"{abs(value):e}".rpartition("e")[2])


def _draw_nodes(rows: Sequence[NodeRow], height: int) -> RenderableType:
    """Return the nodes whose raw values disagree most."""
    worst = sorted(rows, key=lambda row: -row.ratio)[: max(1, height - 1)]
    table = _table(None)
    table.add_column("node", ratio=1, no_wrap=True, style="bold")
    table.add_column("imbalance", justify="right", no_wrap=True)
    table.add_column("± u95", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for row in worst:
        u95 = None if row.std is None else 1.96 * row.std
        digits = decimals(u95, row.imbalance)
        style = "bold red" if row.ratio > 1.0 else None
        name = row.node if row.quantity == "mass" else f"{row.node} {row.quantity}"
        table.add_row(name, _number(row.imbalance, digits), _number(u95, digits), row.unit, style=style)
    return table


def _draw_events(rows: Sequence[EventRow], height: int) -> RenderableType:
    """Return the latest events, those that last first."""
    table = _table(None)
    table.add_column("since", no_wrap=True, style="dim")
    table.add_column("until", no_wrap=True, style="dim")
    table.add_column("event", no_wrap=True)
    table.add_column("what", no_wrap=True, ratio=1)
    lasting = sorted(rows, key=lambda row: (row.ended_at is not None, -row.event))
    for row in lasting[: max(1, height - 1)]:
        until = f"{row.ended_at:%H:%M:%S}" if row.ended_at else "lasts"
        table.add_row(
            f"{row.started_at:%H:%M:%S}", until, row.kind, _told(row),
            style="bold red" if row.ended_at is None else None,
        )
    if not rows:
        table.add_row("", "", "none yet", "")
    return table


def _told(row: EventRow) -> str:
    """Return what an event is about and says; a message may name its subject already."""
    return row.message if row.subject in row.message else f"{row.subject}: {row.message}"


def _table(width: int | None) -> Table:
    """Return an empty table in the house's look."""
    from rich.table import Table

    return Table(box=None, expand=True, width=width, padding=(0, 1), header_style="dim", pad_edge=True)


def _line(text: str, style: str, width: int | None = None) -> RenderableType:
    """Return one line that is cut, not wrapped."""
    from rich.text import Text

    line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    if width is not None:
        line.truncate(width, overflow="ellipsis", pad=True)
    return line


def _number(value: float | None, digits: int) -> str:
    """Return a number with a fixed count of decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _seconds(value: float | None) -> str:
    """Return seconds as text."""
    return "-" if value is None else f"{value:.1f} s"
