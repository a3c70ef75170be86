"""Rows of the store and of run files as data frames, for the report. COPY carries millions of rows in seconds."""

from __future__ import annotations

import io
from collections.abc import Hashable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
from psycopg import sql

# an id may read 01
TEXT: dict[Hashable, type[str]] = dict.fromkeys(("meter", "stream", "side", "quantity", "closed_by"), str)


def query(conn: psycopg.Connection, text: str, *, since: float) -> pd.DataFrame:
    """Return the rows of a query.

    Parameters
    ----------
    conn
        The store.
    text
        A query of this package, never of a user, with `{since}` where the run's start stands.
    since
        Run time at which the run began [s since 1970].
    """
    start = datetime.fromtimestamp(since, UTC)
    statement = sql.SQL(text).format(since=sql.Literal(start))
    buffer = io.BytesIO()
    with conn.cursor() as cursor, cursor.copy(
        sql.SQL("copy ({}) to stdout (format csv, header)").format(statement)
    ) as rows:
        for block in rows:
            buffer.write(block)
    buffer.seek(0)
    return pd.read_csv(buffer, dtype=TEXT, keep_default_na=False, na_values=[""])


def whole_lines(path: Path) -> io.BytesIO:
    """Return a file without a last line that has no end: a killed writer had not handed it on."""
    text = path.read_bytes()
    return io.BytesIO(text[: text.rfind(b"\n") + 1])


def microseconds(times: pd.Series[str]) -> npt.NDArray[np.int64]:
    """Return ISO 8601 times in UTC as microseconds since 1970; shape (n_times,)."""
    moments = pd.to_datetime(times, utc=True, format="ISO8601")
    return np.asarray(moments.dt.as_unit("us").astype("int64"), np.int64)
