"""How near do the results come to the truth? The comparison that the report makes after a run, and nothing else makes.

Truth and results meet row by row: window, stream, side, quantity. What a fault touched is counted apart. The main
path enters at `Accuracy.of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg

from park.clock import RunClock
from park.model import ENVIRONMENT, Park
from symbiosis.tables import microseconds, query, whole_lines

ROW = ["window_us", "stream", "side", "quantity"]

FLOWS = """
    select (extract(epoch from window_start) * 1000000)::bigint as window_us, stream, side, quantity,
           reconciled, std, best_measured
      from flow_history where window_start >= {since}
"""


@dataclass(frozen=True)
class InjectedFault:
    """A fault that the simulators injected, as faults.csv has it; times in microseconds since 1970."""

    fault: str
    kind: str
    subject: str
    start_us: int
    end_us: int | None
    meters: tuple[str, ...]
    streams: tuple[str, ...]
    nodes: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]        # event kind and subject; the first one is required


def read_faults(path: Path) -> list[InjectedFault]:
    """Read a faults file."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [
        InjectedFault(
            row["fault"], row["kind"], row["subject"],
            _microsecond(row["started_at"]), _microsecond(row["ended_at"]) if row["ended_at"] else None,
            tuple(row["meters"].split()), tuple(row["streams"].split()), tuple(row["nodes"].split()),
            tuple((kind, subject) for kind, _, subject in (a.partition(":") for a in row["answers"].split())),
        )
        for row in rows.to_dict("records")
    ]


@dataclass(frozen=True)
class Accuracy:
    """Errors of one quantity over some rows.

    Attributes
    ----------
    rows
        Rows with a truth, a measured and a reconciled value.
    error_best_meter, error_reconciled
        Sum of |value - truth| over sum of |truth|: of the meter with the smaller u95, and of the reconciled value.
    rms_over_predicted
        Root mean square of (reconciled - truth) / std; 1 where the predicted std is right. None without rows.
    """

    rows: int
    error_best_meter: float | None
    error_reconciled: float | None
    rms_over_predicted: float | None

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Accuracy:
        """Return the errors of rows with value (the truth), best_measured, reconciled, std."""
        known = rows.dropna(subset=["value", "best_measured", "reconciled"])
        truth = known["value"].to_numpy(float)
        total = float(np.abs(truth).sum())
        predicted = rows.dropna(subset=["value", "reconciled", "std"])
        predicted = predicted.loc[predicted["std"] > 0]
        ratio = (predicted["reconciled"] - predicted["value"]).to_numpy(float) / predicted["std"].to_numpy(float)
        return cls(
            rows=len(known),
            error_best_meter=_share(known["best_measured"].to_numpy(float) - truth, total),
            error_reconciled=_share(known["reconciled"].to_numpy(float) - truth, total),
            rms_over_predicted=float(np.sqrt(np.mean(ratio**2))) if len(ratio) else None,
        )


def results_with_truth(conn: psycopg.Connection, clock: RunClock, truth_file: Path, armed_us: int) -> pd.DataFrame:
    """Return results and truth of the windows that began after arming.

    Returns
    -------
    DataFrame
        window_us, stream, side, quantity, reconciled, std, best_measured, value (the truth) [kg/s or kW].
    """
    flows = query(conn, FLOWS, since=clock.start)
    truth = pd.read_csv(
        whole_lines(truth_file), dtype={"stream": str, "side": str, "quantity": str, "unit": str},
        keep_default_na=False, na_values={"value": [""]},
    )
    truth["window_us"] = microseconds(truth["window_start"])
    rows = flows.merge(truth[[*ROW, "value"]], on=ROW)
    return rows.loc[rows["window_us"] >= armed_us]


def touched(rows: pd.DataFrame, faults: Iterable[InjectedFault], park: Park) -> npt.NDArray[np.bool_]:
    """Return which rows an injected fault touched: its streams and those that share a balance with them.

    From the window in which it begins until the window after the one in which it ends.
    """
    window_us = round(park.park.window_s * 1e6)
    hit = np.zeros(len(rows), np.bool_)
    start, stream = rows["window_us"].to_numpy(np.int64), rows["stream"].to_numpy()
    for fault in faults:
        end_us = fault.end_us if fault.end_us is not None else np.iinfo(np.int64).max - 2 * window_us
        lasts = (start + window_us > fault.start_us) & (start < end_us + window_us)
        hit |= lasts & np.isin(stream, sorted(sharing_a_balance(fault, park)))
    return hit


def sharing_a_balance(fault: InjectedFault, park: Park) -> set[str]:
    """Return the streams of a fault and those at the same nodes."""
    nodes = set(fault.nodes)
    for name in fault.streams:
        if name in park.stream:
            nodes |= {park.stream[name].from_node, park.stream[name].to_node}
    nodes.discard(ENVIRONMENT)
    near = {s.id for s in park.streams if s.from_node in nodes or s.to_node in nodes}
    return near | set(fault.streams)


def by_quantity(rows: pd.DataFrame, quantities: Sequence[str] = ("mass_flow", "heat_flow")) -> dict[str, Accuracy]:
    """Return the errors of each quantity."""
    return {quantity: Accuracy.of(rows.loc[rows["quantity"] == quantity]) for quantity in quantities}


def _share(errors: npt.NDArray[np.float64], total: float) -> float | None:
    """Return the sum of |errors| over a total."""
    return float(np.abs(errors).sum()) / total if total > 0 else None


def _microsecond(text: str) -> int:
    """Return an ISO 8601 time in microseconds since 1970."""
    return int(microseconds(pd.Series([text]))[0])
