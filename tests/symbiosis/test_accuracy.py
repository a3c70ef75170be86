"""Errors against the truth, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from symbiosis.accuracy import Accuracy, InjectedFault, read_faults, sharing_a_balance, touched
from tests.symbiosis.parks import small_park

PARK = small_park()
SECOND = 1_000_000


def rows(*entries):
    return pd.DataFrame(entries, columns=["value", "best_measured", "reconciled", "std"])


def test_errors_are_sums_over_sums_and_the_ratio_is_a_mean_square():
    found = Accuracy.of(rows((10.0, 11.0, 10.5, 0.5), (20.0, 18.0, 20.2, 0.1)))
    assert found.rows == 2
    assert found.error_best_meter == pytest.approx(3.0 / 30.0)
    assert found.error_reconciled == pytest.approx(0.7 / 30.0)
    assert found.rms_over_predicted == pytest.approx(math.sqrt((1.0 + 4.0) / 2))


def test_a_stream_without_meter_counts_for_the_prediction_alone():
    found = Accuracy.of(rows((10.0, 10.0, 10.0, 1.0), (5.0, np.nan, 7.0, 1.0), (5.0, 5.0, np.nan, np.nan)))
    assert found.rows == 1
    assert found.error_reconciled == 0.0
    assert found.rms_over_predicted == pytest.approx(math.sqrt(4.0 / 2))


def test_without_rows_there_is_no_figure():
    assert Accuracy.of(rows()) == Accuracy(0, None, None, None)


def test_a_fault_touches_the_streams_of_its_nodes_but_not_those_beyond():
    fault = InjectedFault("f", "bias", "a.F", 0, None, ("a.F",), ("S1",), (), ())
    assert sharing_a_balance(fault, PARK) == {"S0", "S1", "S2"}


def test_what_a_fault_touched_lasts_until_the_window_after_its_end():
    fault = InjectedFault("f", "bias", "a.F", 25 * SECOND, 35 * SECOND, ("a.F",), ("S1",), ("a.n", "b.n"), ())
    windows = pd.DataFrame({"window_us": [n * 10 * SECOND for n in range(7)], "stream": "S2"})
    assert touched(windows, [fault], PARK).tolist() == [False, False, True, True, True, False, False]
    assert not touched(windows.assign(stream="S3"), [fault], PARK).any()
    endless = InjectedFault("f", "bias", "a.F", 25 * SECOND, None, ("a.F",), ("S1",), (), ())
    assert touched(windows, [endless], PARK).tolist() == [False, False, True, True, True, True, True]


def test_faults_are_read_with_the_events_that_answer_them(tmp_path):
    path = tmp_path / "faults.csv"
    path.write_text(
        "fault,kind,subject,started_at,ended_at,meters,streams,nodes,answers\n"
        "b1,bias,a.F,2026-01-01T00:00:00Z,2026-01-01T00:01:00.5Z,a.F,S1,a.n b.n,meter_bias:a.F volume_mismatch:X1\n"
        "d1,dropout,a.F,2026-01-01T00:02:00Z,,a.F,S1,a.n,meter_silent:a.F\n"
    )
    bias, dropout = read_faults(path)
    assert bias.nodes == ("a.n", "b.n")
    assert bias.end_us - bias.start_us == 60_500_000
    assert bias.answers == (("meter_bias", "a.F"), ("volume_mismatch", "X1"))
    assert dropout.end_us is None
