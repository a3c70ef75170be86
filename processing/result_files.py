"""Results as files: the CSV files of the contract, as a replay goes on.

Here: their columns, numbers as text (17 significant digits), times as text. Not here: what is in them (chain.py,
account/statement.py). The main path enters at `Results.write`, window by window; `Results.finish` at the end.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from park.model import Park
from processing.account.statement import Statement, Statements
from processing.chain import WindowResult
from processing.detect.events import Opened

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

RECONCILED = ("window_start", "stream", "side", "quantity", "unit", "measured", "reconciled", "std", "adjustment",
              "status", "coverage", "best_meter", "best_measured")
NODES = ("window_start", "node", "quantity", "unit", "imbalance", "stored", "std", "reconciled_imbalance")
METERS = ("window_start", "meter", "unit", "measured", "expected", "test_statistic", "suspect")
EVENTS = ("event", "kind", "subject", "started_at", "ended_at", "severity", "value", "limit", "message", "aspect")
STATEMENTS = ("exchange", "period_start", "period_end", "unit", "sender_total", "receiver_total", "reconciled_total",
              "u95", "coverage", "in_spec", "settled_total", "settled_by", "revision")

ENDED = EVENTS.index("ended_at")

FILES = {"reconciled": RECONCILED, "nodes": NODES, "meters": METERS, "statements": STATEMENTS, "events": EVENTS}


class Results:
    """The files of results.

    Parameters
    ----------
    out
        Their folder.
    park
        The park.
    """

    def __init__(self, out: Path, park: Park) -> None:
        self._out, self._statements = out, Statements(park)
        self._open: dict[tuple[str, str, str], list[object]] = {}
        self._waiting: deque[list[object]] = deque()        # events from the first that is open on, in order
        self.windows = self.events = self.unsolved = 0

    def __enter__(self) -> Results:
        with ExitStack() as files:
            self._flow, self._node, self._meter, self._statement, self._event = (
                self._table(files, name, columns) for name, columns in FILES.items())
            self._files = files.pop_all()
        return self

    def _table(self, files: ExitStack, name: str, columns: Sequence[str]) -> _Table:
        path = self._out / f"{name}.csv"
        return _Table(files.enter_context(path.open("w", encoding="utf-8", newline="")), columns)

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, result: WindowResult) -> None:
        """Write a window."""
        start = iso(result.start_us)
        self._flow.write((start, *vars(row).values()) for row in result.rows.flows)
        self._node.write((start, *vars(row).values()) for row in result.rows.nodes)
        self._meter.write((start, *vars(row).values()) for row in result.rows.meters)
        self._write_statements(self._statements.add(result.start_us, result.end_us, result.exchanges))
        for change in result.changes:
            key = (change.kind, change.subject, change.aspect)
            if isinstance(change, Opened):
                self.events += 1
                self._open[key] = [
                    self.events, change.kind, change.subject, iso(change.started_at_us), None,
                    change.severity, change.value, change.limit, change.message, change.aspect]
                self._waiting.append(self._open[key])
            else:
                self._open.pop(key)[ENDED] = iso(change.ended_at_us)
        while self._waiting and self._waiting[0][ENDED] is not None:
            self._event.write([self._waiting.popleft()])
        self.windows += 1
        self.unsolved += not result.solved

    def finish(self) -> None:
        """Write what is known at the end alone: events from the first that goes on, and the periods under way."""
        self._event.write(self._waiting)
        self._write_statements(self._statements.finish())

    def _write_statements(self, statements: Iterable[Statement]) -> None:
        self._statement.write(
            (s.exchange, iso(s.period_start_us), iso(s.period_end_us), *list(vars(s).values())[3:]) for s in statements)


class _Table:
    """A CSV file under way."""

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(columns)

    def write(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows: numbers with 17 significant digits, nothing for None."""
        self._writer.writerows([_text(entry) for entry in row] for row in rows)


def _text(entry: object) -> object:
    if isinstance(entry, bool):
        return "true" if entry else "false"
    if isinstance(entry, float):
        return format(entry, ".17g")
    return "" if entry is None else entry


def iso(us: int) -> str:
    """Return microseconds since 1970 as ISO 8601 in UTC ending in Z."""
    return (EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
