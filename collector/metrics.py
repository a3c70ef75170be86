"""What the collector counts, in the words of Prometheus. What the names mean to an operator: docs/operating.md.

Rendered from the standing when somebody asks, so nothing is counted twice. The way in is `CollectorMetrics`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from collector.standing import Standing
from collector.status import State
from collector.times import MICROS

_OF_SOURCE = ["source"]


class CollectorMetrics(Collector):
    """The metrics of one collector.

    Parameters
    ----------
    standing
        What is counted.
    spool
        The spool's file; None: there is none.
    """

    def __init__(self, standing: Standing, spool: Path | None) -> None:
        self._standing = standing
        self._spool = spool

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; called in the thread of whoever asks, so each table is copied before it is walked."""
        yield from self._stored()
        yield from self._waiting()
        yield from self._sources()
        yield from self._completeness()

    def _stored(self) -> Iterator[Metric]:
        tally = self._standing.tally
        readings = CounterMetricFamily(
            "symbiosis_readings", "Readings written to the database, by quality", labels=["source", "quality"])
        for (source, quality), count in list(tally.readings.items()):
            readings.add_metric([source, quality.name.lower()], count)
        yield readings
        for name, text, value in (
            ("symbiosis_batches", "Batches committed to the database", tally.batches),
            ("symbiosis_readings_new", "Readings that the database did not have", tally.new),
            ("symbiosis_readings_repeated", "Readings that the database had already", tally.repeated),
            ("symbiosis_readings_conflicting", "Readings whose key had another value", tally.conflicting),
        ):
            yield CounterMetricFamily(name, text, value)
        rejected = CounterMetricFamily(
            "symbiosis_rejected", "What came and is no reading, by reason", labels=["source", "reason"])
        for (source, reason), count in self._standing.rejections.counts().items():
            rejected.add_metric([source, reason], count)
        yield rejected

    def _waiting(self) -> Iterator[Metric]:
        standing = self._standing
        for name, text, value in (
            ("symbiosis_queue_readings", "Readings in memory that are not durable", standing.batches.uncommitted),
            ("symbiosis_spool_readings", "Readings in the spool that the database does not have",
             standing.spooled_rows()),
            ("symbiosis_spool_bytes", "Size of the spool's file and its log", _size(self._spool)),
            ("symbiosis_waiting_seconds", "How long ago came what was committed last; 0 while nothing waits",
             standing.waiting_s()),
        ):
            yield GaugeMetricFamily(name, text, value)

    def _sources(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("symbiosis_source_up", "1 while the source is connected", labels=_OF_SOURCE)
        connects = CounterMetricFamily(
            "symbiosis_source_connects", "Times that the source was connected", labels=_OF_SOURCE)
        faults = CounterMetricFamily(
            "symbiosis_source_faults", "Times that the source ended by a fault, and began anew", labels=_OF_SOURCE)
        refused = GaugeMetricFamily(
            "symbiosis_meters_refused", "Meters that the server or broker refuses to give", labels=_OF_SOURCE)
        gaps = GaugeMetricFamily("symbiosis_gaps_open", "Gaps that have no end yet", labels=_OF_SOURCE)
        open_gaps = self._standing.coverage.open_gaps()
        for status in list(self._standing.statuses.values()):
            up.add_metric([status.source], status.state is State.RECEIVING)
            connects.add_metric([status.source], status.connects)
            faults.add_metric([status.source], status.faults)
            refused.add_metric([status.source], len(status.refused))
            gaps.add_metric([status.source], open_gaps[status.source])
        yield from (up, connects, faults, refused, gaps)

    def _completeness(self) -> Iterator[Metric]:
        complete = GaugeMetricFamily(
            "symbiosis_source_complete_timestamp_seconds", "Up to when nothing of the source is missing",
            labels=_OF_SOURCE)
        lag = GaugeMetricFamily("symbiosis_source_lag_seconds", "Run time since then", labels=_OF_SOURCE)
        silent = GaugeMetricFamily("symbiosis_silent_meters", "Meters that are overdue", labels=_OF_SOURCE)
        offset = GaugeMetricFamily(
            "symbiosis_clock_offset_seconds", "What the device's clock is ahead, less the shortest way of its readings",
            labels=_OF_SOURCE)
        spread = GaugeMetricFamily(
            "symbiosis_clock_spread_seconds", "What readings take beyond the shortest, on average", labels=_OF_SOURCE)
        now_us = self._standing.now_us()
        for mark in self._standing.marks:
            if mark.complete_us is not None:
                complete.add_metric([mark.source], mark.complete_us / MICROS)
                lag.add_metric([mark.source], (now_us - mark.complete_us) / MICROS)
            silent.add_metric([mark.source], mark.silent)
            if mark.offset_s == mark.offset_s:          # NaN: nothing came of late
                offset.add_metric([mark.source], mark.offset_s)
                spread.add_metric([mark.source], mark.spread_s)
        yield from (complete, lag, silent, offset, spread)


def _size(path: Path | None) -> int:
    """Return the size of a SQLite file and the log beside it [bytes]; 0 where there is none."""
    if path is None:
        return 0
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
