"""Readings in PostgreSQL's binary COPY format, built and read with numpy: no Python object for a row.

The format (PostgreSQL manual, COPY, "Binary Format"): a header; for each row the number of fields, then each field as
a 32-bit length and its bytes, length -1 for null; a trailer. All numbers are big-endian. Rows whose meter names have
the same length have the same layout, so each such group is one structured array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

READING_COLUMNS = "meter, source_time, received_at, status, value"
WINDOW_COLUMNS = "meter index as integer, source_time, received_at, status, value or 'NaN'"

_MICROSECONDS_TO_2000 = 946_684_800_000_000     # PostgreSQL counts from 2000-01-01
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)      # signature, no flags, no extension
_TRAILER = b"\xff\xff"

_WINDOW_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("meter_length", ">i4"),
        ("meter", ">i4"),
        ("source_time_length", ">i4"),
        ("source_time", ">i8"),
        ("received_at_length", ">i4"),
        ("received_at", ">i8"),
        ("status_length", ">i4"),
        ("status", ">i8"),
        ("value_length", ">i4"),
        ("value", ">f8"),
    ]
)


def encode_readings(
    names: Sequence[str],
    meter: npt.NDArray[np.int64],
    source_us: npt.NDArray[np.int64],
    received_us: npt.NDArray[np.int64],
    status: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    *,
    numbered: bool = False,
) -> bytes:
    """Return rows of `READING_COLUMNS` for COPY FROM.

    Parameters
    ----------
    names
        Meter ids.
    meter
        Index into `names`, shape (n_rows,) [1].
    source_us, received_us
        Times, shape (n_rows,) [us since 1970-01-01 UTC].
    status
        StatusCodes, shape (n_rows,) [1].
    value
        Values, shape (n_rows,) [SI]; NaN becomes null.
    numbered
        Whether a last column, integer, tells the place of each row: the rows themselves change order.
    """
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]     # what is not UTF-8 the server refuses
    name_length = np.array([len(name) for name in encoded], dtype=np.int64)
    row_length = name_length[meter]
    is_null = np.isnan(value)
    pieces = [_HEADER]
    for length in np.unique(row_length):
        table = np.array([name if len(name) == length else b"" for name in encoded], dtype=f"S{length}")
        for null in (False, True):
            rows = np.flatnonzero((row_length == length) & (is_null == null))
            if not len(rows):
                continue
            out = np.zeros(len(rows), dtype=_reading_row(int(length), null=null, numbered=numbered))
            out["fields"] = 6 if numbered else 5
            _put(out, "meter", table[meter[rows]], int(length))
            _put(out, "source_time", source_us[rows] - _MICROSECONDS_TO_2000)
            _put(out, "received_at", received_us[rows] - _MICROSECONDS_TO_2000)
            _put(out, "status", status[rows])
            out["value_length"] = -1
            if not null:
                _put(out, "value", value[rows])
            if numbered:
                _put(out, "ordinal", rows, 4)
            pieces.append(out.tobytes())
    pieces.append(_TRAILER)
    return b"".join(pieces)


def decode_window(data: bytes) -> npt.NDArray[np.void]:
    """Return the rows of a COPY TO of `WINDOW_COLUMNS`, none of them null.

    Returns
    -------
    ndarray
        Structured, shape (n_rows,), with `meter` [1], `source_us` and `received_us` [us since 1970-01-01 UTC],
        `status` [1] and `value`, in the byte order of this machine.
    """
    body = memoryview(data)[len(_HEADER) : len(data) - len(_TRAILER)]
    raw = np.frombuffer(body, dtype=_WINDOW_ROW)
    out = np.empty(
        len(raw),
        dtype=[("meter", np.int64), ("source_us", np.int64), ("received_us", np.int64), ("status", np.int64),
               ("value", np.float64)],
    )
    out["meter"] = raw["meter"]
    out["source_us"] = raw["source_time"].astype(np.int64) + _MICROSECONDS_TO_2000
    out["received_us"] = raw["received_at"].astype(np.int64) + _MICROSECONDS_TO_2000
    out["status"] = raw["status"]
    out["value"] = raw["value"]
    return out


def _reading_row(name_length: int, *, null: bool, numbered: bool) -> np.dtype[np.void]:
    """Return the layout of a row with a meter name of this length."""
    fields = [
        ("fields", ">i2"),
        ("meter_length", ">i4"),
        ("meter", f"S{name_length}"),
        ("source_time_length", ">i4"),
        ("source_time", ">i8"),
        ("received_at_length", ">i4"),
        ("received_at", ">i8"),
        ("status_length", ">i4"),
        ("status", ">i8"),
        ("value_length", ">i4"),
    ]
    if not null:
        fields.append(("value", ">f8"))
    if numbered:
        fields += [("ordinal_length", ">i4"), ("ordinal", ">i4")]
    return np.dtype(fields)


def _put(out: npt.NDArray[np.void], field: str, values: npt.NDArray[np.generic], length: int = 8) -> None:
    """Fill a field of all rows, with its length."""
    out[field] = values
    out[f"{field}_length"] = length
