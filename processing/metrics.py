"""What processing counts, in the words of Prometheus. What the names mean to an operator: docs/operating.md.

Fed with the states that `processing.cycle.process` tells: `ProcessMetrics.note` is the way in.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from processing.results_store import ClosedBy

_LATENCY_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)
_DURATION_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)
_CLOSED_BY: tuple[ClosedBy, ...] = ("complete", "lateness", "revised")


class ProcessMetrics:
    """The metrics of one process of processing.

    Parameters
    ----------
    registry
        Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._windows = Counter(
            "symbiosis_windows", "Windows computed, by why they were", ["closed_by"], registry=registry)
        for closed_by in _CLOSED_BY:
            self._windows.labels(closed_by)         # shown as 0 before the first
        self._latency = Histogram(
            "symbiosis_window_latency_seconds", "Run time from a window's end to its result, revisions left out",
            buckets=_LATENCY_S, registry=registry)
        self._duration = Histogram(
            "symbiosis_window_duration_seconds", "Wall time that computing and storing a window took",
            buckets=_DURATION_S, registry=registry)
        self._readings = Counter("symbiosis_window_readings", "Readings in the windows computed", registry=registry)
        self._unsolved = Counter(
            "symbiosis_windows_unsolved", "Windows whose balances had no solution: nothing in them is reconciled",
            registry=registry)
        self._changes = Counter("symbiosis_event_changes", "Events that began or ended", registry=registry)
        self._end = Gauge(
            "symbiosis_window_end_timestamp_seconds", "End of the last window closed", registry=registry)
        self._open = Gauge("symbiosis_events_open", "Events that have not ended", ["kind"], registry=registry)
        self._version = Gauge("symbiosis_park_version", "Version of the park that is computed with", registry=registry)

    def note(self, state: str, detail: Mapping[str, Any]) -> None:
        """Take in a state that processing tells."""
        if state != "window":
            return
        self._windows.labels(detail["closed_by"]).inc()
        self._duration.observe(detail["took_s"])
        self._readings.inc(detail["readings"])
        self._unsolved.inc(not detail["solved"])
        self._changes.inc(detail["events"])
        self._version.set(detail["park_version"])
        if detail["closed_by"] != "revised":
            self._latency.observe(detail["lag_s"])
            self._end.set(datetime.fromisoformat(detail["end"]).timestamp())
        self._open.clear()
        for kind, count in detail["open_events"].items():
            self._open.labels(kind).set(count)
