"""The processing chain over recorded data, without a database: files in, files out.

    CSV, Parquet ──► buckets of time on disk ──► Chain.run, window by window ──► reconciled, nodes, meters .csv
      any order       (an hour or so each)                                  └──► events, statements .csv

Input, long form: `time,meter,value[,quality]`; time in ISO 8601 with an offset, value in the meter's unit, quality
good, uncertain or bad. Rows may come in any order and in any number of files; of rows with one meter and time the first
stays. The data are sorted into buckets on disk first, so memory holds one bucket and what the longest delay reaches
back, whatever the length of the data.

Results are those of the live cycle, bit for bit, had the same readings come in time and without gaps. Times in which
nothing was recorded have no windows.

Here: reading, buckets, windows, writing. Not here: what a window gives (chain.py). The main path enters at `replay`.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from park.errors import InputError
from park.model import Park
from park.quality import Quality
from park.units import conversion
from processing.account.statement import Statement, Statements
from processing.attendance import Attendance
from processing.chain import Chain, WindowResult
from processing.detect.events import Opened
from processing.window import Readings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

BUCKET_WINDOWS = 120
"""Windows in one bucket of time: two hours of windows of a minute, some hundred thousand readings of a park."""

PATIENCE_S = 3.0
"""As in the live cycle at the speed of life."""

ROW = np.dtype([("time", "<i8"), ("meter", "<i4"), ("quality", "<i4"), ("value", "<f8")])
"""A reading in a bucket's file: time [us], position in the park's meters, quality, value [SI]."""

QUALITIES = {"good": Quality.GOOD, "uncertain": Quality.UNCERTAIN, "bad": Quality.BAD}

RECONCILED = ("window_start", "stream", "side", "quantity", "unit", "measured", "reconciled", "std", "adjustment",
              "status", "coverage", "best_meter", "best_measured")
NODES = ("window_start", "node", "quantity", "unit", "imbalance", "stored", "std", "reconciled_imbalance")
METERS = ("window_start", "meter", "unit", "measured", "expected", "test_statistic", "suspect")
EVENTS = ("event", "kind", "subject", "started_at", "ended_at", "severity", "value", "limit", "message", "aspect")
STATEMENTS = ("exchange", "period_start", "period_end", "unit", "sender_total", "receiver_total", "reconciled_total",
              "u95", "coverage", "in_spec", "settled_total", "settled_by", "revision")

FILES = {"reconciled": RECONCILED, "nodes": NODES, "meters": METERS, "statements": STATEMENTS, "events": EVENTS}

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    Attributes
    ----------
    readings, unknown
        Rows read, and those of meters that the park has not.
    windows, events
        Computed and found.
    """

    readings: int
    unknown: int
    windows: int
    events: int


def replay(
    park: Park, data: Sequence[Path], out: Path, *, window_s: float | None = None, on_progress: OnProgress | None = None
) -> Replayed:
    """Run the chain over recorded data.

    Parameters
    ----------
    park
        The park.
    data
        Files ending in ``.csv`` (also compressed, ``.csv.gz``) or ``.parquet``.
    out
        Folder for the results; made if it is not there, files of earlier replays are replaced.
    window_s
        Instead of the park's window [s].
    on_progress
        Told ``("reading", files done, files)`` and ``("windows", windows done, windows at most)``.

    Returns
    -------
    Replayed

    Raises
    ------
    InputError
        If a file cannot be read or a row is wrong; names the file and what is wrong.
    OSError
        If results cannot be written.
    """
    if window_s is not None:
        park = park.model_copy(update={"park": park.park.model_copy(update={"window_s": window_s})})
    tell = on_progress or (lambda what, done, of: None)
    chain = Chain(park)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="symbiosis-replay-", dir=out) as folder, Results(out, park) as results:
        buckets = Buckets(Path(folder), park)
        for number, path in enumerate(data):
            tell("reading", number, len(data))
            buckets.add(path)
        tell("reading", len(data), len(data))
        for result in _windows(chain, buckets, tell):
            results.write(result)
        results.finish()
        return Replayed(buckets.rows, buckets.unknown, results.windows, results.events)


def _windows(chain: Chain, buckets: Buckets, tell: OnProgress) -> Iterator[WindowResult]:
    """Run the chain over all windows that have readings, in order."""
    park, table = chain.park, chain.table
    length, reach = round(park.park.window_s * 1e6), chain.estimator.plan.reach_us()
    patience = round(max(park.park.lateness_s, PATIENCE_S) * 1e6)
    attendance = Attendance(park, table)
    readings = Readings.of(len(table), [], [], [])
    done, expected, most = 0, None, len(buckets) * BUCKET_WINDOWS
    for fresh in buckets.in_order():
        attendance.note(fresh)
        readings = readings.joined(fresh)
        for start in np.unique(fresh.time_us // length * length).tolist():
            if expected is not None and start != expected:
                attendance.restart(start)
                attendance.note(readings)
            window = (start, start + length)
            expected = start + length
            presence = attendance.presence(readings, window, (), patience)
            yield chain.run(readings, *window, presence)
            done += 1
            tell("windows", done, max(most, done))
        if expected is not None:
            readings = readings.between(expected - reach, 2**62)
    tell("windows", done, done)


# -- reading ----------------------------------------------------------------------------------------------------------


class Buckets:
    """Readings sorted into files by time; what is in one is read at once.

    Parameters
    ----------
    folder
        Where the files go.
    park
        The park.
    """

    def __init__(self, folder: Path, park: Park) -> None:
        self._folder, self._n = folder, len(park.meters)
        self._ids = pa.array([m.id for m in park.meters], pa.string())
        units = [conversion(m.unit) for m in park.meters]
        self._scale, self._offset = np.array([u.scale for u in units]), np.array([u.offset for u in units])
        self._length = round(park.park.window_s * 1e6) * BUCKET_WINDOWS
        self._numbers: set[int] = set()
        self.rows, self.unknown = 0, 0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, path: Path) -> None:
        """Sort a file in."""
        try:
            for batch in _batches(path):
                self._add(batch, path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: {_first_line(error)}") from error

    def _add(self, batch: pa.RecordBatch, path: Path) -> None:
        found = pc.index_in(batch["meter"].cast(pa.string()), value_set=self._ids)
        known = pc.is_valid(found).to_numpy(zero_copy_only=False)
        rows = np.zeros(int(known.sum()), dtype=ROW)
        rows["meter"] = found.drop_null().to_numpy()
        rows["time"] = _times(batch["time"], path)[known]
        value = batch["value"].cast(pa.float64()).to_numpy(zero_copy_only=False)[known]
        rows["value"] = value * self._scale[rows["meter"]] + self._offset[rows["meter"]]
        if "quality" in batch.schema.names:
            rows["quality"] = _qualities(batch["quality"], path)[known]
        self.rows += len(known)
        self.unknown += int((~known).sum())
        self._spread(rows)

    def _spread(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> None:
        """Append rows to the files of their times, in the order given."""
        number = rows["time"] // self._length
        order = np.argsort(number, kind="stable")
        bounds = np.flatnonzero(np.diff(number[order], prepend=np.iinfo(np.int64).min))
        for part in np.split(order, bounds[1:]):
            if part.size:
                which = int(number[part[0]])
                with self._path(which).open("ab") as file:
                    file.write(rows[part].tobytes())
                self._numbers.add(which)

    def in_order(self) -> Iterator[Readings]:
        """Yield the readings of each bucket, earliest first."""
        for which in sorted(self._numbers):
            rows = np.fromfile(self._path(which), dtype=ROW)
            yield Readings.of(self._n, rows["meter"], rows["time"], rows["value"], rows["quality"])
            self._path(which).unlink()

    def _path(self, which: int) -> Path:
        return self._folder / f"{which}.readings"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, some ten thousand at a time."""
    if path.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, path)
            yield from file.iter_batches()
        return
    if ".csv" not in path.suffixes:
        raise InputError(f"{path}: must end in .csv, .csv.gz or .parquet")
    types = pyarrow.csv.ConvertOptions(
        column_types={"time": pa.string(), "meter": pa.string(), "value": pa.float64(), "quality": pa.string()},
        strings_can_be_null=True)
    with pyarrow.csv.open_csv(path, convert_options=types) as reader:
        _check_columns(reader.schema.names, path)
        yield from reader


def _check_columns(names: Sequence[str], path: Path) -> None:
    missing = [name for name in ("time", "meter", "value") if name not in names]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} (hint: the columns are time, meter, value and quality)")


def _times(column: pa.Array, path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return times [us since 1970 UTC]; texts must say their offset from UTC."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        told = pc.match_substring_regex(column, r"(Z|[+-]\d{2}:?\d{2})$")
        if not pc.all(told).as_py():
            wrong = column.filter(pc.invert(pc.fill_null(told, False)))[0].as_py()
            raise InputError(f"{path}: time {wrong!r} must be ISO 8601 with an offset, such as 2026-01-01T00:00:00Z")
        column = column.cast(pa.timestamp("us", "UTC"))
    elif not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise InputError(f"{path}: column 'time' must have a time zone, got {column.type}")
    if column.null_count:
        raise InputError(f"{path}: a row has no time")
    found: np.ndarray[Any, np.dtype[np.int64]] = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return found


def _qualities(column: pa.Array, path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return values of `Quality`; an empty one is good."""
    words = pc.fill_null(column.cast(pa.string()), "good")
    index = pc.index_in(words, value_set=pa.array(list(QUALITIES), pa.string()))
    if index.null_count:
        wrong = words.filter(pc.is_null(index))[0].as_py()
        raise InputError(f"{path}: quality must be good, uncertain or bad, got {wrong!r}")
    found: np.ndarray[Any, np.dtype[np.int64]] = np.array([int(q) for q in QUALITIES.values()])[index.to_numpy()]
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


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
        self._events: list[list[object]] = []
        self.windows = 0

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

    @property
    def events(self) -> int:
        """How many events were found."""
        return len(self._events)

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
                self._open[key] = [
                    len(self._events) + 1, change.kind, change.subject, iso(change.started_at_us), None,
                    change.severity, change.value, change.limit, change.message, change.aspect]
                self._events.append(self._open[key])
            else:
                self._open.pop(key)[4] = iso(change.ended_at_us)
        self.windows += 1

    def finish(self) -> None:
        """Write what is known at the end alone: events with their ends, and the periods under way."""
        self._event.write(self._events)
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
