"""Recorded readings as files: CSV and Parquet in, buckets of time on disk, readings in order of time out.

    CSV, Parquet ──► batches of rows ──► checked, in SI ──► buckets (one file each) ──► Readings, bucket by bucket
     any order        some ten thousand   a fault names       some hours each
                      at a time           file and line

Long form: `time,meter,value[,quality]`; time in ISO 8601 with an offset, value in the meter's unit, quality good,
uncertain or bad (empty: good). A row without a value, or with NaN, is a bad reading. Rows may come in any order and in
any number of files; of rows with one meter and time the first stays, and the others are counted: those that say the
same, and those that contradict it. Rows of meters that the park has not are counted and named with their first place.
Whatever else is wrong refuses the file, with every fault's line (of the first `TOLD`, and how many there are).

Here: that. Not here: windows and results (replay.py). The main path enters at `Recordings.add`, file by file, then
`Recordings.in_order`.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from park.errors import InputError
from park.model import Park
from park.quality import Quality
from park.units import conversion
from processing.window import Readings

BUCKET_S = 7200.0
"""Time in one bucket: some hundred thousand readings of a park are in memory at once."""

ROW = np.dtype([("time", "<i8"), ("meter", "<i4"), ("quality", "<i4"), ("value", "<f8")])
"""A reading in a bucket's file: time [us], position in the park's meters, quality, value [SI]."""

COLUMNS = ("time", "meter", "value", "quality")
QUALITIES = {"": Quality.GOOD, "good": Quality.GOOD, "uncertain": Quality.UNCERTAIN, "bad": Quality.BAD}
OFFSET = r"(Z|[+-]\d{2}:?\d{2})$"

LATEST_YEAR = 2200
LATEST_US = round(datetime(LATEST_YEAR, 1, 1, tzinfo=UTC).timestamp() * 1e6)
"""Times from then on are faults of whoever recorded them, and of a calendar's end."""

TOLD = 10
"""Faults of a file that are told one by one, and unknown meters that are named."""

NAMED = 1000
"""Unknown meters that are told apart."""

OnBytes = Callable[[int], None]


@dataclass
class Unknown:
    """Rows of one meter that the park has not, and where the first is."""

    rows: int
    first: str


@dataclass
class Count:
    """What was read.

    Attributes
    ----------
    rows
        All rows.
    unknown
        Those of meters that the park has not, by meter.
    repeated, contradicted
        Rows of a meter and time that were there already, with the same value and quality, and with others.
    contradictions
        Of the latter the first few, as `meter at time`.
    """

    rows: int = 0
    unknown: dict[str, Unknown] = field(default_factory=dict)
    repeated: int = 0
    contradicted: int = 0
    contradictions: list[str] = field(default_factory=list)


class Recordings:
    """Readings sorted into files by time; what is in one is read at once.

    Parameters
    ----------
    folder
        Where the files go.
    park
        The park.
    """

    def __init__(self, folder: Path, park: Park) -> None:
        self._folder, self._names = folder, [m.id for m in park.meters]
        self._ids = pa.array(self._names, pa.string())
        units = [conversion(m.unit) for m in park.meters]
        self._scale, self._offset = np.array([u.scale for u in units]), np.array([u.offset for u in units])
        self.windows = max(1, int(BUCKET_S // park.park.window_s))
        self._length = round(park.park.window_s * 1e6) * self.windows
        self._numbers: set[int] = set()
        self.count = Count()

    def __len__(self) -> int:
        """Return how many buckets there are."""
        return len(self._numbers)

    def add(self, path: Path, on_bytes: OnBytes = lambda _: None) -> None:
        """Sort a file in.

        Parameters
        ----------
        path
            Ends in ``.csv``, ``.csv.gz`` or ``.parquet``.
        on_bytes
            Told how many bytes of the file are read.

        Raises
        ------
        InputError
            If the file cannot be read or rows are wrong; names the file, and every row's line.
        """
        first = 0
        try:
            for batch in _batches(path, on_bytes):
                self._add(batch, path, first)
                first += len(batch)
        except _RowFault as fault:
            raise InputError("\n".join(_faults(path, fault))) from fault
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            told = _faults(path, error)
            raise InputError("\n".join(told) if told else f"{path}: {_first_line(error)}") from error

    def _add(self, batch: pa.RecordBatch, path: Path, first: int) -> None:
        """Take in a batch of rows, the first of which is row `first` of the file, counted from 0."""
        meter = batch["meter"].cast(pa.string())
        found = pc.index_in(meter, value_set=self._ids)
        known = pc.is_valid(found).to_numpy(zero_copy_only=False)
        time, value, quality = _times(batch["time"]), _values(batch["value"]), _qualities(batch)
        rows = np.zeros(int(known.sum()), dtype=ROW)
        rows["meter"] = found.drop_null().to_numpy()
        rows["time"], rows["quality"] = time[known], quality[known]
        rows["value"] = value[known] * self._scale[rows["meter"]] + self._offset[rows["meter"]]
        self.count.rows += len(known)
        if not known.all():
            self._note_unknown(meter, np.flatnonzero(~known), path, first)
        self._spread(rows)

    def _note_unknown(self, meter: pa.Array, at: npt.NDArray[np.intp], path: Path, first: int) -> None:
        names = np.array(meter.take(pa.array(at)).to_pylist(), dtype=object)
        if any(name is None for name in names):
            raise _RowFault
        unknown = self.count.unknown
        for name in dict.fromkeys(names.tolist()):
            kept = name if name in unknown or len(unknown) < NAMED else "others"
            rows = np.flatnonzero(names == name)
            entry = unknown.setdefault(kept, Unknown(0, f"{path}, row {first + int(at[rows[0]]) + 1}"))
            entry.rows += len(rows)

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
            self._count_doubles(rows)
            yield Readings.of(len(self._names), rows["meter"], rows["time"], rows["value"], rows["quality"])
            self._path(which).unlink()

    def _count_doubles(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> None:
        """Count the rows that `Readings.of` leaves out, against the first of their meter and time."""
        order = np.lexsort((rows["time"], rows["meter"]))
        rows = rows[order]
        fresh = np.ones(len(rows), dtype=np.bool_)
        fresh[1:] = (rows["meter"][1:] != rows["meter"][:-1]) | (rows["time"][1:] != rows["time"][:-1])
        if fresh.all():
            return
        first = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
        same = (rows["quality"] == rows["quality"][first]) & (
            (rows["value"] == rows["value"][first]) | (np.isnan(rows["value"]) & np.isnan(rows["value"][first])))
        self.count.repeated += int((same & ~fresh).sum())
        other = rows[~same]
        self.count.contradicted += len(other)
        room = TOLD - len(self.count.contradictions)
        self.count.contradictions += [
            f"{self._names[row['meter']]} at {np.datetime64(int(row['time']), 'us')}Z" for row in other[:max(room, 0)]]

    def _path(self, which: int) -> Path:
        return self._folder / f"{which}.readings"


# -- rows of a file ---------------------------------------------------------------------------------------------------


class _RowFault(Exception):
    """A row is wrong; which one is looked up (`_faults`)."""


def _batches(path: Path, on_bytes: OnBytes) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, some ten thousand at a time."""
    if path.suffix == ".parquet":
        size = path.stat().st_size
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, path)
            rows, done = max(file.metadata.num_rows, 1), 0
            for batch in file.iter_batches():
                yield batch
                done += len(batch)
                on_bytes(size * done // rows)
        return
    if path.suffixes[-1:] != [".csv"] and path.suffixes[-2:] != [".csv", ".gz"]:
        raise InputError(f"{path}: must end in .csv, .csv.gz or .parquet")
    texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False)
    with path.open("rb") as raw, pyarrow.csv.open_csv(_unpacked(raw, path), convert_options=texts) as reader:
        _check_columns(reader.schema.names, path)
        for batch in reader:
            yield batch
            on_bytes(raw.tell())


def _unpacked(raw: BinaryIO, path: Path) -> Any:
    return gzip.open(raw) if path.suffix == ".gz" else raw


def _check_columns(names: Sequence[str], path: Path) -> None:
    for name in COLUMNS[:3]:
        if name not in names:
            raise InputError(f"{path}:1: no column {name!r} (hint: the columns are time, meter, value and quality)")
    twice = [name for name in COLUMNS if list(names).count(name) > 1]
    if twice:
        raise InputError(f"{path}:1: column {twice[0]!r} is there twice")


def _times(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return times [us since 1970 UTC]; texts must say their offset from UTC."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        told = pc.match_substring_regex(column, OFFSET)
        if not pc.all(told).as_py():
            raise _RowFault
    elif not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise pa.ArrowInvalid(f"column 'time' must have a time zone, got {column.type}")
    if column.null_count:
        raise _RowFault
    found: npt.NDArray[np.int64] = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    if ((found < 0) | (found >= LATEST_US)).any():
        raise _RowFault(f"times must be from 1970 to {LATEST_YEAR}")
    return found


def _values(column: pa.Array) -> npt.NDArray[np.float64]:
    """Return values in their meters' units; NaN where there is none."""
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    found: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if np.isinf(found).any():
        raise _RowFault
    return found


def _qualities(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Return values of `Quality`, shape (n_rows,) [1]."""
    if "quality" not in batch.schema.names:
        return np.zeros(len(batch), dtype=np.int64)
    words = pc.fill_null(batch["quality"].cast(pa.string()), "")
    index = pc.index_in(words, value_set=pa.array(list(QUALITIES), pa.string()))
    if index.null_count:
        raise _RowFault
    found: npt.NDArray[np.int64] = np.array([int(q) for q in QUALITIES.values()])[index.to_numpy()]
    return found


# -- where the fault is -----------------------------------------------------------------------------------------------


def _faults(path: Path, error: BaseException) -> list[str]:
    """Return what is wrong with the rows of a file, each with its place; empty where it is not the rows."""
    found: list[str] = []
    number = 0
    try:
        for place, row in _rows(path):
            fault = _fault(row)
            if fault is not None:
                number += 1
                if number <= TOLD:
                    found.append(f"{place}: {fault}")
    except (OSError, EOFError, UnicodeDecodeError, OverflowError, csv.Error, pa.ArrowException):
        return found or [f"{path}: {_first_line(error)}"]
    return [*found, f"{path}: and {number - TOLD} more"] if number > TOLD else found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a file's rows one by one, each with its place."""
    if path.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(columns=[n for n in COLUMNS if n in file.schema_arrow.names]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
        return
    with path.open("rb") as raw:
        text = io.TextIOWrapper(_unpacked(raw, path), encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text)
        _check_columns(reader.fieldnames or (), path)
        for row in reader:
            yield f"{path}:{reader.line_num}", row


def _fault(row: dict[Any, Any]) -> str | None:
    """Return what is wrong with a row; None where nothing is."""
    if isinstance(row["time"], str) and (None in row or None in row.values()):
        return "must have as many entries as the first line"
    if not row["meter"]:
        return "meter is empty"
    return _time_fault(row["time"]) or _value_fault(row["value"]) or _quality_fault(row.get("quality"))


def _time_fault(time: Any) -> str | None:
    if time is None:
        return "time is empty"
    try:
        _times(pa.array([time]))
    except (_RowFault, pa.ArrowException):
        example = f"2026-01-01T00:00:00Z, from 1970 to {LATEST_YEAR}"
        return f"time {time!r} must be ISO 8601 with an offset, such as {example}"
    return None


def _value_fault(value: Any) -> str | None:
    try:
        _values(pa.array(["" if value is None else str(value)]))
    except (_RowFault, pa.ArrowException):
        return f"value must be a finite number, got {value!r}"
    return None


def _quality_fault(quality: Any) -> str | None:
    return None if (quality or "") in QUALITIES else f"quality must be good, uncertain or bad, got {quality!r}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
