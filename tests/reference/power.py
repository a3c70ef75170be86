"""Detection power as the literature counts it, by simulation; what benchmarks/detection_power.py prints.

Counting as published: an error counts as found where its statistic alone is the largest and above the threshold, so
that a meter tied with another is always missed; `class` counts its whole group as found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from processing.balance import find_gross_errors, prepare
from processing.balance.hypotheses import Hypotheses, hypotheses_of
from processing.balance.inputs import Floats, Ints
from processing.balance.statistics import global_test_limit

ALPHA = 0.10
"""Alarms a clean run, as published."""

SEVERAL = {
    "OP": (0.727, 0.677, 0.636, 0.616, 0.590, 0.550, 0.535),
    "sel": (0.843, 0.897, 0.871, 0.853, 0.836, 0.813, 0.795),
    "OPF": (0.648, 0.428, 0.235, 0.110, 0.040, 0.017, 0.008),
    "TER": (0.55, 0.52, 0.48, 0.42, 0.40, 0.35, 0.31),
}
"""Serial elimination with bounds on Serth & Heenan's network, 1 to 7 biases, as published."""

AVERAGING = {1: 0.363, 4: 0.580, 16: 0.696, 60: 0.775, 240: 0.837}
"""Mean overall power there for one bias, over the mean of N windows, as published."""


def errors_of(case: dict[str, Any], kind: str) -> Hypotheses:
    """Return the hypotheses of a published network with all its meters."""
    network = prepare(case["incidence"], case["std"])
    return hypotheses_of(network.projection(np.ones(network.n_streams, dtype=bool)), [kind], None)


def found_shares(z: Floats, true: Ints, group: Ints, limit: float) -> tuple[float, float]:
    """Return the shares of runs found alone, and found with their group, of |z| of shape (n_runs, n_hypotheses)."""
    largest = z.max(axis=1)
    at_top = z >= largest[:, None] * (1 - 1e-9)
    alarm = largest > limit
    mine = at_top[np.arange(len(z)), true]
    alone = mine & (at_top.sum(axis=1) == 1)
    with_group = (at_top & (group[None, :] == group[true][:, None])).any(axis=1)
    return float((alone & alarm).mean()), float((with_group & alarm).mean())


def bias_power(case: dict[str, Any], low: float, high: float, runs: int, windows: int = 1) -> dict[str, float]:
    """Return power for one bias of `low` to `high` std in each stream in turn, averaged over `windows`."""
    errors = errors_of(case, "bias")
    rng = np.random.default_rng(1)
    n = case["n_streams"]
    noise = rng.standard_normal((n, runs, n)) * case["std"] / np.sqrt(windows)
    size = rng.uniform(low, high, (n, runs)) * rng.choice((-1.0, 1.0), (n, runs))
    noise[np.arange(n), :, np.arange(n)] += size * case["std"][:, None]
    residual = noise.reshape(-1, n) @ case["incidence"].T.astype(float) * np.sqrt(windows)
    z = np.zeros((len(residual), n))
    z[:, errors.streams] = abs(errors.scores(residual)) / np.sqrt(errors.information)
    group = np.arange(n) + len(errors.streams)
    group[errors.streams] = errors.group
    alone, with_group = found_shares(z, np.repeat(np.arange(n), runs), group, errors.threshold(ALPHA))
    objective = errors.projection.objective(residual)
    globally = float((objective > global_test_limit(ALPHA, errors.projection.degrees_of_freedom)).mean())
    return {"alone": alone, "class": with_group, "global": globally}


def leak_power(case: dict[str, Any], runs: int) -> dict[str, float]:
    """Return power for one leak of 2 to 7 % of all flows at each node in turn, by the GLR and by the nodal test."""
    errors = errors_of(case, "leak")
    rng = np.random.default_rng(2)
    matrix, m = case["incidence"].astype(float), case["n_nodes"]
    residual = (rng.standard_normal((m, runs, case["n_streams"])) * case["std"]) @ matrix.T
    residual[np.arange(m), :, np.arange(m)] += (
        rng.uniform(0.02, 0.07, (m, runs)) * (abs(matrix) @ case["true"])[:, None]
    )
    flat, true, each = residual.reshape(-1, m), np.repeat(np.arange(m), runs), np.arange(m)
    glr = abs(errors.scores(flat)) / np.sqrt(errors.information)
    spread = np.sqrt(matrix**2 @ case["std"] ** 2)
    clean = abs((rng.standard_normal((100_000, case["n_streams"])) * case["std"]) @ matrix.T) / spread
    nodal_limit = float(np.quantile(clean.max(axis=1), 1 - ALPHA))
    return {
        "glr": found_shares(glr, true, each, errors.threshold(ALPHA))[0],
        "nodal": found_shares(abs(flat) / spread, true, each, nodal_limit)[0],
    }


def several_biases(case: dict[str, Any], number: int, runs: int, *, bounded: bool = True) -> dict[str, float]:
    """Return OP, sel, OPF, TER for `number` biases of 10 to 100 % of the flow, found by serial elimination.

    Without any bias: `alarms`, the share of runs in which anything is named.
    """
    matrix = case["incidence"].astype(float)
    network = prepare(matrix, 0.025 * case["true"])
    true = network.reconcile(case["true"]).reconciled  # the printed flows close to their digits only
    std, n = 0.025 * true, len(true)
    rng = np.random.default_rng(100 + number)
    measured = true + std * rng.standard_normal((runs, n))
    place = np.argsort(rng.random((runs, n)), axis=1)[:, :number]
    size = true[place] * rng.uniform(0.1, 1.0, (runs, number)) * rng.choice((-1.0, 1.0), (runs, number))
    rows = np.arange(runs)[:, None]
    measured[rows, place] += size
    biased = np.zeros((runs, n), dtype=bool)
    biased[rows, place] = True
    bounds = (np.zeros(n), 2.0 * true) if bounded else None
    found = find_gross_errors(prepare(matrix, std).reconcile(measured), alpha=ALPHA, hypotheses=["bias"], bounds=bounds)
    if not number:
        return {"alarms": float(found.suspects.any(axis=1).mean())}
    before = np.sqrt((((measured - true) / std) ** 2).sum(axis=1))
    after = np.sqrt((((found.reconciled - true) / std) ** 2).sum(axis=1))
    named = found.compensated  # one of each class: suspects are all that no balance can tell from it
    hits = (named & biased).sum()
    return {
        "OP": float(hits / biased.sum()),
        "sel": float(hits / max(named.sum(), 1)),
        "OPF": float((named == biased).all(axis=1).mean()),
        "TER": float((1.0 - after / before).mean()),
    }
