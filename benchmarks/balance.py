"""Speed of reconciliation beside other ways to do it: python -m benchmarks.balance [--quick].

All figures of one table are measured in turn in one run, each the best of several rounds; read the ratios, not the
microseconds. On one thread processor time is counted, which others at work on the machine lengthen least; on two the
time that passes, which wants a quiet machine. OSQP and Clarabel take part where they are installed. One table alone:
--only growth.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from processing.balance import (
    Network,
    identify_gross_errors,
    prepare,
    prepare_bilinear,
    reconcile,
    reconcile_nonlinear,
)
from tests.balance.networks import plant
from tests.reference import cases

Task = Callable[[], Any]


def blas_threads(number: int) -> None:
    """Set the threads of every OpenBLAS loaded: numpy has one, scipy another."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line}
    for path in paths:
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads"):
            if hasattr(library, name):
                getattr(library, name)(number)
                break


def race(
    tasks: Mapping[str, Task], rounds: int, least: float = 0.0, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the best time of each task [s], measured in turn; short tasks are repeated to fill `least` seconds."""
    best = {}
    repeats = {}
    for name, task in tasks.items():
        task()
        start = clock()
        task()
        repeats[name] = max(1, int(least / max(clock() - start, 1e-9)))
        best[name] = np.inf
    for _ in range(rounds):
        for name, task in tasks.items():
            start = clock()
            for _ in range(repeats[name]):
                task()
            best[name] = min(best[name], (clock() - start) / repeats[name])
    return best


def show(title: str, times: dict[str, float], per: float, ours: str, unit: str = "us a window") -> None:
    """Print times and how many times longer than ours each took."""
    print(f"\n{title}")
    for name, seconds in times.items():
        print(f"  {name:38} {seconds / per * 1e6:12.3f} {unit}   {seconds / times[ours]:8.2f} x ours")


def random_network(n_nodes: int, n_streams: int, seed: int = 0) -> Any:
    """Return a network that joins places at random, as no plant does: the worst case for fill."""
    rng = np.random.default_rng(seed)
    start = np.concatenate([np.arange(n_nodes), rng.integers(0, n_nodes, n_streams - n_nodes)])
    end = rng.integers(0, n_nodes, n_streams)
    inside = (end != start) & (rng.random(n_streams) > 0.15)
    rows, columns = np.concatenate([start, end[inside]]), np.concatenate([np.arange(n_streams), np.flatnonzero(inside)])
    values = np.concatenate([-np.ones(n_streams), np.ones(int(inside.sum()))])
    return sp.csr_array((values, (rows, columns)), shape=(n_nodes, n_streams))


def scipy_factor(matrix: Any, std: Any, windows: Any) -> Task:
    """Return reconciliation by SciPy's stored sparse factor, all windows at once, in its favourite layout."""
    spread = sp.diags_array(std**2)
    keep = np.flatnonzero(np.asarray(abs(matrix).sum(axis=1)) > 0)
    rows = matrix[keep].tocsr()
    s = (rows @ spread @ rows.T).tocsc()
    factor = splu(s + 1e-12 * sp.eye_array(s.shape[0], format="csc") * s.diagonal().max(), permc_spec="MMD_AT_PLUS_A")
    back = (spread @ rows.T).tocsr()
    values = np.ascontiguousarray(windows.T)
    return lambda: values - back @ factor.solve(rows @ values)


def scipy_in_turn(matrix: Any, std: Any, windows: Any) -> Task:
    """Return the same, one window after the other, as a live system has them."""
    one = scipy_factor(matrix, std, windows[:1])

    def task() -> None:
        for _ in range(len(windows)):
            one()

    return task


def osqp_warm(matrix: Any, std: Any, windows: Any) -> Task | None:
    """Return one window after the other by OSQP with a warm start, or None."""
    try:
        import osqp
    except ImportError:
        return None
    solver = osqp.OSQP()
    zero = np.zeros(matrix.shape[0])
    weight = 1.0 / std**2
    solver.setup(
        sp.csc_matrix(sp.diags_array(weight)), -weight * windows[0], sp.csc_matrix(matrix.toarray()), zero, zero,
        verbose=False, eps_abs=1e-6, eps_rel=1e-6, polishing=False,
    )  # fmt: skip
    at = [0]

    def task() -> None:
        at[0] = (at[0] + 1) % len(windows)
        solver.update(q=-weight * windows[at[0]])
        solver.solve()

    return task


def clarabel_each(matrix: Any, std: Any, windows: Any) -> Task | None:
    """Return one window by Clarabel, or None."""
    try:
        import clarabel
    except ImportError:
        return None
    weight = 1.0 / std**2
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    square, rows, zero = (
        sp.csc_matrix(sp.diags_array(weight)),
        sp.csc_matrix(matrix.toarray()),
        np.zeros(matrix.shape[0]),
    )

    def task() -> None:
        cones = [clarabel.ZeroConeT(matrix.shape[0])]
        clarabel.DefaultSolver(square, -weight * windows[0], rows, zero, cones, settings).solve()

    return task


def thousand_streams(rounds: int, n_windows: int) -> None:
    """1,000 streams, 500 nodes: against what else there is, on one thread and on two."""
    for kind, matrix in (("a plant", plant(500, 1000)), ("joined at random", random_network(500, 1000))):
        rng = np.random.default_rng(0)
        std, windows = rng.uniform(0.5, 2.0, 1000), rng.uniform(5.0, 50.0, (n_windows, 1000))
        network = prepare(matrix, std)
        gain = network.reconcile(np.eye(1000)).reconciled.copy()
        for threads in (1, 2):
            blas_threads(threads)
            clock = time.process_time if threads == 1 else time.perf_counter
            times = race(many_windows(network, matrix, windows, gain, threads), rounds, clock=clock)
            show(
                f"1,000 streams ({kind}), 500 nodes, {n_windows} windows, {threads} thread(s)", times, n_windows, "ours"
            )
        blas_threads(1)
        np.testing.assert_allclose(network.reconcile(windows).reconciled, windows @ gain, rtol=1e-7, atol=1e-7)
        times = race(one_window(network, matrix, windows, gain), rounds, 0.02)
        show(f"1,000 streams ({kind}), one window at a time", times, 1, "ours, public function")


def many_windows(network: Network, matrix: Any, windows: Any, gain: Any, threads: int) -> dict[str, Task]:
    """Return the ways to reconcile many windows at once."""
    product, memory = np.empty_like(windows), np.empty_like(windows)
    return {
        "ours": lambda: network.reconcile(windows, threads=threads, out=memory),
        "ours, into new memory": lambda: network.reconcile(windows, threads=threads),
        "BLAS, stored dense projection": lambda: np.dot(windows, gain, out=product),
        "SciPy, stored sparse factor, at once": scipy_factor(matrix, network.std, windows),
        "SciPy, stored sparse factor, in turn": scipy_in_turn(matrix, network.std, windows),
        "copying the data once": lambda: np.copyto(product, windows),
    }


def one_window(network: Network, matrix: Any, windows: Any, gain: Any) -> dict[str, Task]:
    """Return the ways to reconcile one window."""
    one = windows[0].copy()
    tasks: dict[str, Task | None] = {
        "ours, public function": lambda: network.reconcile(one),
        "BLAS, stored dense projection": lambda: one @ gain,
        "SciPy, stored sparse factor": scipy_factor(matrix, network.std, windows[:1]),
        "OSQP, warm": osqp_warm(matrix, network.std, windows),
        "Clarabel": clarabel_each(matrix, network.std, windows),
    }
    return {name: task for name, task in tasks.items() if task}


def growth(rounds: int, sizes: tuple[int, ...]) -> None:
    """Print how the cost of a window grows with the number of streams, at the same number of values altogether."""
    print("\nCost a window by number of streams (a plant, 1 thread, 6.4 million values each)")
    tasks, windows_of = {}, {}
    for n in sizes:
        rng = np.random.default_rng(0)
        count = 6_400_000 // n
        matrix, windows = along_the_plant(plant(n // 2, n)), rng.uniform(5.0, 50.0, (count, n))
        start = time.perf_counter()
        network = prepare(matrix, rng.uniform(0.5, 2.0, n))
        network.reconcile(windows[:1])
        print(f"  {n:7} streams: made ready in {time.perf_counter() - start:.2f} s")
        memory = np.empty_like(windows)
        tasks[str(n)] = lambda network=network, windows=windows, memory=memory: network.reconcile(windows, out=memory)
        windows_of[str(n)] = count
    for name, seconds in race(tasks, rounds).items():
        each = seconds / windows_of[name]
        print(f"  {name:>7} streams: {each * 1e6:10.1f} us a window, {each / int(name) * 1e9:6.2f} ns a stream")


def along_the_plant(matrix: Any) -> Any:
    """Return the same network with its streams numbered along the nodes, as plants list them."""
    columns = matrix.tocsc()
    first = columns.indices[np.minimum(columns.indptr[:-1], len(columns.indices) - 1)]
    return columns[:, np.argsort(first, kind="stable")].tocsr()


def small_network(rounds: int) -> None:
    """28 streams, 11 nodes (Serth & Heenan), with a network made ready."""
    case = cases.linear_networks()["P15"]
    matrix, std = sp.csr_array(case["incidence"].astype(float)), case["std"]
    rng = np.random.default_rng(0)
    windows = case["true"] + std * rng.standard_normal((10_000, 28))
    network = prepare(matrix, std)
    gain = network.reconcile(np.eye(28)).reconciled.copy()
    network.reconcile(windows[0])
    times = race(one_window(network, matrix, windows, gain), rounds, 0.02)
    show("28 streams, 11 nodes, one window", times, 1, "ours, public function")
    batch = {
        "ours, public function": lambda: network.reconcile(windows),
        "BLAS, stored dense projection": lambda: windows @ gain,
    }
    show("28 streams, 11 nodes, 10,000 windows", race(batch, rounds), 10_000, "ours, public function")


def gross_errors(rounds: int) -> None:
    """1,000 streams: identification beside reconciliation."""
    rng = np.random.default_rng(0)
    matrix = plant(500, 1000)
    std = rng.uniform(0.5, 2.0, 1000)
    network = prepare(matrix, std)
    true = network.reconcile(rng.uniform(50.0, 90.0, 1000)).reconciled
    clean = true + std * rng.standard_normal((600, 1000))
    biased = clean.copy()
    biased[:, 300] += 40.0
    found = identify_gross_errors(network, biased, hypotheses=("bias",))
    print(f"\nGross errors: {found.suspects[:, 300].mean():.0%} of biased windows name the biased meter")
    batch = {
        "reconcile, 600 windows": lambda: network.reconcile(clean),
        "identify biases, clean windows": lambda: identify_gross_errors(network, clean, hypotheses=("bias",)),
        "identify biases, all windows biased": lambda: identify_gross_errors(network, biased, hypotheses=("bias",)),
        "identify biases and leaks, biased": lambda: identify_gross_errors(network, biased),
    }
    show("1,000 streams, network made ready", race(batch, rounds), 600, "reconcile, 600 windows")
    single = {
        "reconcile": lambda: reconcile(matrix, clean[0], std),
        "identify biases": lambda: identify_gross_errors(matrix, clean[0], std, hypotheses=("bias",)),
        "identify biases and leaks": lambda: identify_gross_errors(matrix, clean[0], std),
    }
    show("1,000 streams, one window, nothing made ready", race(single, rounds), 1, "reconcile", "us")


def nonlinear(rounds: int) -> None:
    """200 streams with 3 components; a park's 300 variables under 120 constraints."""
    rng = np.random.default_rng(0)
    matrix = plant(100, 200, outside=0.3)
    flow, carried = rng.uniform(5.0, 50.0, 200), rng.uniform(0.1, 0.5, (200, 3))
    sides = {"rhs": matrix @ flow, "carried_rhs": matrix @ (flow[:, None] * carried)}
    std = 0.02 * flow, 0.02 * carried
    flows = flow + std[0] * rng.standard_normal((64, 200))
    properties = carried + std[1] * rng.standard_normal((64, 200, 3))
    network = prepare_bilinear(matrix, 3)
    print(f"\nBilinear: converged in {network.reconcile(flows, properties, *std, **sides).iterations.mean():.1f} steps")
    times = race(
        {
            "one window": lambda: network.reconcile(flows[0], properties[0], *std, **sides),
            "64 windows": lambda: network.reconcile(flows, properties, *std, **sides),
        },
        rounds,
    )
    print(f"  one window {times['one window'] * 1e3:.2f} ms, 64 windows {times['64 windows'] / 64 * 1e3:.2f} ms each")
    products = [(j, 100 + j, 200 + j) for j in range(60)]
    mass = plant(60, 100, 1).toarray()

    def g(x: Any) -> Any:
        return np.r_[mass @ x[:100], [x[i] * x[j] - x[k] for i, j, k in products]]

    def jacobian(x: Any) -> Any:
        full = np.zeros((120, 300))
        full[:60, :100] = mass
        for row, (i, j, k) in enumerate(products, 60):
            full[row, i], full[row, j], full[row, k] = x[j], x[i], -1.0
        return full

    true = np.r_[rng.uniform(5.0, 9.0, 100), rng.uniform(1.0, 2.0, 100), rng.uniform(5.0, 18.0, 100)]
    true[200:260] = true[:60] * true[100:160]
    offset = g(true)
    measured = true * (1.0 + 0.02 * rng.standard_normal(300))
    result = reconcile_nonlinear(lambda x: g(x) - offset, jacobian, measured, 0.02 * true)
    times = race(
        {"general": lambda: reconcile_nonlinear(lambda x: g(x) - offset, jacobian, measured, 0.02 * true).std}, rounds
    )
    print(
        f"  general solver, 300 variables, 120 constraints, {result.iterations} steps, with std: "
        f"{times['general'] * 1e3:.2f} ms"
    )


def first_window() -> None:
    """Print how long a fresh process takes to its first reconciled window, with kernels compiled before and not."""
    script = (
        "import time; t = time.perf_counter()\nimport numpy as np\n"
        "from processing.balance import prepare\nfrom tests.balance.networks import plant\n"
        "n = {n}\nmatrix = plant(n // 2, n) if n > 100 else plant(11, 28)\n"
        "prepare(matrix, 1.0).reconcile(np.ones(matrix.shape[1]))\nprint(time.perf_counter() - t)"
    )
    print("\nFirst window of a fresh process, imports included")
    for n in (28, 1000):
        warm = min(seconds_of(script.format(n=n)) for _ in range(3))
        with tempfile.TemporaryDirectory() as empty:
            cold = seconds_of(script.format(n=n), NUMBA_CACHE_DIR=empty)
        print(f"  {n:5} streams: {warm:.2f} s; {cold:.2f} s where nothing was compiled before")


def seconds_of(script: str, **environment: str) -> float:
    """Run a script in a process of its own and return the number it prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=os.environ | environment)
    return float(done.stdout)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing above 10,000 streams")
    sizes = (1_000, 10_000, 30_000, 100_000)
    parser.add_argument("--only", choices=("small", "large", "errors", "nonlinear", "growth", "first"))
    given = parser.parse_args()
    rounds = 3 if given.quick else 7
    tables: dict[str, Task] = {
        "small": lambda: small_network(rounds),
        "large": lambda: thousand_streams(rounds, 3600),
        "errors": lambda: gross_errors(rounds),
        "nonlinear": lambda: nonlinear(rounds),
        "growth": lambda: growth(rounds, sizes[:2] if given.quick else sizes),
        "first": first_window,
    }
    blas_threads(1)
    for name, table in tables.items():
        if given.only in (None, name):
            table()


if __name__ == "__main__":
    main()
