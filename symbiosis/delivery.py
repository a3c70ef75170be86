"""Was every reading that was sent also stored, once and unchanged? The comparison that the report makes after a run.

Here: reading sent.csv and the stored readings of the run, and holding them against each other. Not here: how the
verdict is worded (`symbiosis.report`). The main path enters at `compare`.

    lost       sent after arming, not stored, and no marked gap covers it
    in gaps    sent after arming, not stored, and a marked gap covers it
    unsent     stored and never sent, but for what says that there is no reading: a dead Sparkplug node's meters as bad,
               and the nulls in the BIRTH of one that was started again and has sampled nothing yet
    altered    stored with another SI value or status than sent
    conflict   a key that came with two values
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
from psycopg.rows import class_row

from park.clock import RunClock
from park.model import Park
from park.quality import BAD_STATUS, NO_COMMUNICATION
from park.units import conversion
from symbiosis.tables import microseconds, query, whole_lines

RELATIVE_TOLERANCE = 1e-12      # a few roundings of the conversion to SI

KEY = ["meter", "time_us"]
_SENT_TYPES: dict[str, Any] = {"meter": str, "seq": "Int64", "source_time": str, "value": float, "status": "Int64"}

STORED = """
    select meter, (extract(epoch from source_time) * 1000000)::bigint as time_us, value, status
      from reading_list where received_at >= {since} or source_time >= {since}
"""
CONFLICTS = "select count(*) as conflicts from reading_conflict_list where received_at >= {since}"
GAPS = """
    select source, meter, (extract(epoch from started_at) * 1000000)::bigint as start_us,
           (extract(epoch from ended_at) * 1000000)::bigint as end_us, cause
      from gap_list where ended_at is null or ended_at >= to_timestamp(%s) order by started_at, source
"""


@dataclass(frozen=True)
class Gap:
    """A marked gap; times in microseconds since 1970, None where it is still open or meant for all meters."""

    source: str
    meter: str | None
    start_us: int
    end_us: int | None
    cause: str


@dataclass(frozen=True)
class Delivery:
    """What became of the readings of a run; times in microseconds since 1970.

    Attributes
    ----------
    published
        Readings sent after arming.
    expected
        Readings that clock and intervals ask for between the first and the last one counted.
    stored
        Of the published, those that are stored.
    lost, in_gaps, unsent, altered, conflict
        As the module says.
    gaps
        Marked gaps, each with how many counted readings it explains.
    unmarked_gaps
        Runs of consecutive lost readings of a meter.
    armed_us, last_us
        Source time of the first and last reading counted; None where none was.
    examples
        Some readings of each kind that is not as it should be, for whoever looks for the cause.
    """

    published: int
    expected: int
    stored: int
    lost: int
    in_gaps: int
    unsent: int
    altered: int
    conflict: int
    gaps: list[tuple[Gap, int]]
    unmarked_gaps: int
    armed_us: int | None
    last_us: int | None
    examples: dict[str, list[str]]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost, invented, altered or contradicted."""
        return not (self.lost or self.unsent or self.altered or self.conflict or self.unmarked_gaps)


def compare(conn: psycopg.Connection, park: Park, clock: RunClock, sent_file: Path) -> Delivery:
    """Hold the sent file of a run against what the store has of it."""
    sent = read_sent(sent_file, park)
    stored = query(conn, STORED, since=clock.start)
    with conn.cursor(row_factory=class_row(Gap)) as cursor:
        gaps = cursor.execute(GAPS, [clock.start]).fetchall()
    conflicts = int(query(conn, CONFLICTS, since=clock.start)["conflicts"].iloc[0])
    return hold_against(sent, stored, gaps, conflicts, park)


def read_sent(path: Path, park: Park) -> pd.DataFrame:
    """Read a sent file.

    Returns
    -------
    DataFrame
        meter, seq, time_us, value [SI], status, counted (stands after the line `armed`); shape (n_readings, 6).
    """
    lines = pd.read_csv(
        whole_lines(path), names=["meter", "seq", "source_time", "value", "status"], header=0,
        dtype=_SENT_TYPES, keep_default_na=False, na_values={"seq": [""], "value": [""], "status": [""]},
    )
    is_mark = ((lines["meter"] == "armed") & lines["status"].isna()).to_numpy()
    counted = np.cumsum(is_mark) > 0
    sent = lines.loc[~is_mark].assign(counted=counted[~is_mark])
    unit = {meter.id: conversion(meter.unit) for meter in park.meters}
    scale = sent["meter"].map({m: c.scale for m, c in unit.items()}).to_numpy(float)
    offset = sent["meter"].map({m: c.offset for m, c in unit.items()}).to_numpy(float)
    return pd.DataFrame({
        "meter": sent["meter"].to_numpy(),
        "seq": sent["seq"].to_numpy(np.int64),
        "time_us": microseconds(sent["source_time"]),
        "value": sent["value"].to_numpy(float) * scale + offset,
        "status": sent["status"].to_numpy(np.int64),
        "counted": sent["counted"].to_numpy(bool),
    })


def hold_against(
    sent: pd.DataFrame, stored: pd.DataFrame, gaps: Sequence[Gap], conflicts: int, park: Park
) -> Delivery:
    """Hold what was sent against what is stored; the frames are those of `read_sent` and of the queries above."""
    once = sent.drop_duplicates([*KEY, "value", "status"])
    sent_twice = int(once.duplicated(KEY).sum())
    once = once.drop_duplicates(KEY)
    both = once.merge(stored, on=KEY, how="outer", suffixes=("", "_stored"), indicator="found")
    is_counted = both["counted"].fillna(False).to_numpy(bool)
    was_sent = (both["found"] != "right_only").to_numpy(bool)
    is_stored = (both["found"] != "left_only").to_numpy(bool)
    missing = both.loc[is_counted & ~is_stored].sort_values(["meter", "seq"])
    covering = _covering_gap(missing, gaps, park)
    lost = missing.loc[covering < 0]
    altered = both.loc[was_sent & is_stored & _differs(both)]
    unsent = both.loc[~was_sent & ~_is_mark(both, park)]
    counted = once.loc[once["counted"]]
    return Delivery(
        published=len(counted), expected=_expected(counted, park), stored=int((is_counted & is_stored).sum()),
        lost=len(lost), in_gaps=len(missing) - len(lost), unsent=len(unsent), altered=len(altered),
        conflict=conflicts + sent_twice,
        gaps=[(gap, int((covering == number).sum())) for number, gap in enumerate(gaps)],
        unmarked_gaps=_runs(lost),
        armed_us=int(counted["time_us"].min()) if len(counted) else None,
        last_us=int(counted["time_us"].max()) if len(counted) else None,
        examples={
            kind: _examples(rows)
            for kind, rows in (("lost", lost), ("unsent", unsent), ("altered", altered)) if len(rows)
        },
    )


def _differs(both: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether value or status differ, for each row; shape (n_rows,)."""
    sent, stored = both["value"].to_numpy(float), both["value_stored"].to_numpy(float)
    close = np.abs(sent - stored) <= RELATIVE_TOLERANCE * np.maximum(np.abs(sent), np.abs(stored))
    same = close | (np.isnan(sent) & np.isnan(stored))
    result: npt.NDArray[np.bool_] = ~same | (both["status"].to_numpy(float) != both["status_stored"].to_numpy(float))
    return result


def _is_mark(both: pd.DataFrame, park: Park) -> npt.NDArray[np.bool_]:
    """Whether a row says that a Sparkplug node has no reading: it is dead, or newly born; shape (n_rows,)."""
    hosted = {meter.id for meter in park.meters if meter.source.sparkplug is not None}
    says_so = both["status_stored"].isin([NO_COMMUNICATION, BAD_STATUS]) & both["value_stored"].isna()
    result: npt.NDArray[np.bool_] = (says_so & both["meter"].isin(hosted)).to_numpy(bool)
    return result


def _covering_gap(missing: pd.DataFrame, gaps: Sequence[Gap], park: Park) -> npt.NDArray[np.int64]:
    """Return which marked gap covers each missing reading, -1 where none does; shape (n_missing,)."""
    covering = np.full(len(missing), -1, np.int64)
    source = missing["meter"].map(source_of_meters(park)).to_numpy()
    meter, time = missing["meter"].to_numpy(), missing["time_us"].to_numpy(np.int64)
    for number, gap in enumerate(gaps):
        covers = (source == gap.source) & (time >= gap.start_us)
        if gap.end_us is not None:
            covers &= time <= gap.end_us
        if gap.meter is not None:
            covers &= meter == gap.meter
        covering[covers & (covering < 0)] = number
    return covering


def source_of_meters(park: Park) -> dict[str, str]:
    """Return the name of each meter's source, as the collector writes it into gaps."""
    return {meter.id: meter.source.name for meter in park.meters}


def _runs(lost: pd.DataFrame) -> int:
    """Return in how many runs of consecutive readings of a meter the lost ones lie; `lost` is sorted."""
    if lost.empty:
        return 0
    meter, seq = lost["meter"].to_numpy(), lost["seq"].to_numpy(np.int64)
    return 1 + int(((meter[1:] != meter[:-1]) | (np.diff(seq) != 1)).sum())


def _expected(counted: pd.DataFrame, park: Park) -> int:
    """Return how many readings periodic meters owe from the first to the last one counted."""
    if counted.empty:
        return 0
    first, last = int(counted["time_us"].min()), int(counted["time_us"].max())
    intervals = [round(m.interval_s * 1e6) for m in park.meters]
    return sum(last // interval - (first - 1) // interval for interval in intervals)


def _examples(rows: pd.DataFrame, count: int = 5) -> list[str]:
    """Return some readings as text."""
    times = pd.to_datetime(rows["time_us"].head(count), unit="us", utc=True)
    texts = []
    for time, (_, row) in zip(times, rows.head(count).iterrows(), strict=True):
        texts.append(
            f"{row['meter']} {time.isoformat()} sent {row['value']} status {row['status']}, "
            f"stored {row['value_stored']} status {row['status_stored']}"
        )
    return texts
