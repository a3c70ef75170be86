"""Detection power beside the published figures: python -m benchmarks.detection_power [--runs N].

Six tables: alarms of clean windows; one error a window on the networks of the literature (Valle et al. 2018); several
biases on Serth & Heenan's network by serial elimination within bounds, and on the others, for which nothing is
published; one bias over the mean of N windows, and over time by the watch. The standard error of a share of 2,500 runs
is at most 0.010, of TER 0.009.
How errors are drawn and counted is in tests/reference/power.py.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from processing.balance import MeterWatch, WatchRules, identify_gross_errors, prepare
from tests.reference import cases
from tests.reference.power import ALPHA, AVERAGING, SEVERAL, bias_power, leak_power, several_biases

KINDS = (("bias",), ("leak",), ("bias", "leak"))
"""Hypotheses asked for in the table of clean windows."""


def print_clean(runs: int) -> None:
    """Print how many clean windows raise any alarm, every published network."""
    windows = 8 * runs
    print(f"Share of {windows} clean windows with an alarm, by alpha and hypotheses")
    print(" " * 5 + "".join(f"{alpha:.2f} {'+'.join(kinds):12}" for alpha in (0.01, ALPHA) for kinds in KINDS))
    for name, case in cases.linear_networks().items():
        network = prepare(case["incidence"], case["std"])
        clean = case["std"] * np.random.default_rng(7).standard_normal((windows, case["n_streams"]))
        shares = []
        for alpha in (0.01, ALPHA):
            for kinds in KINDS:
                found = identify_gross_errors(network, clean, alpha=alpha, hypotheses=kinds)
                shares.append((found.suspects.any(axis=1) | found.leaks.any(axis=1)).mean())
        print(f"{name:5}" + "".join(f"{share:.4f}{'':11}" for share in shares))


def print_one_error(runs: int) -> None:
    """Print one error a window, every published network."""
    print(f"\nOne error a window, {runs} runs a stream or node, {ALPHA:.2f} alarms a clean run: ours / published")
    heads = [("bias 2-7 std", 16), ("class", 8), ("bias 5-9 std", 16), ("class", 8)]
    heads += [("global", 16), ("leak nodal", 16), ("leak GLR", 16)]
    print(" " * 5 + "".join(f"{head:>{width}}" for head, width in heads))
    for name, case in cases.linear_networks().items():
        printed = case["published"]
        small, large, leak = bias_power(case, 2, 7, runs), bias_power(case, 5, 9, runs), leak_power(case, runs)
        cells = [
            (small["alone"], printed["op_bias_2_7"]),
            (small["class"],),
            (large["alone"], printed["op_bias_5_9"]),
            (large["class"],),
            (small["global"], printed["power_global_test"]),
            (leak["nodal"], printed["op_leak_nodal"]),
            (leak["glr"], printed["op_leak_glr"]),
        ]
        print(f"{name:5}" + "".join(_cell(*cell) for cell in cells))


def _cell(ours: float, *published: float | None) -> str:
    """Format one figure, or two side by side."""
    if not published:
        return f"{ours:8.3f}"
    other = "-" if published[0] is None else f"{published[0]:.3f}"
    return f"{ours:9.3f} /{other:>5}"


def print_several(runs: int) -> None:
    """Print several biases on Serth & Heenan's network."""
    case = cases.linear_networks()["P15"]
    print(f"\nSeveral biases, Serth & Heenan's network, serial elimination, {runs} runs: ours / published")
    for bounded in (True, False):
        print("within bounds (0, twice the flow)" if bounded else "without bounds (ours)")
        for number in range(1, 8):
            ours = several_biases(case, number, runs, bounded=bounded)
            print(
                f"  {number}  "
                + "   ".join(
                    f"{key} {ours[key]:6.3f}" + (f" / {SEVERAL[key][number - 1]:.3f}" if bounded else "")
                    for key in ours
                )
            )


def print_several_elsewhere(runs: int) -> None:
    """Print several biases on the other networks, with what the bounds bring."""
    print(f"\nSeveral biases on the other networks, {runs} runs: within bounds (0, twice the flow) / without")
    heads = "".join(f"{f'{key}, {number} biases':>17}" for number in (2, 4) for key in ("OP", "sel", "OPF", "TER"))
    print(f"{'':5}{'clean alarms':>15}{heads}")
    for name, case in cases.linear_networks().items():
        if name == "P15":
            continue
        cells = []
        for number in (0, 2, 4):
            inside, free = (several_biases(case, number, runs, bounded=bounded) for bounded in (True, False))
            cells += [f"{inside[key]:.3f} /{free[key]:6.3f}" for key in inside]
        print(f"{name:5}{cells[0]:>15}" + "".join(f"{cell:>17}" for cell in cells[1:]))


def print_averaging(runs: int) -> None:
    """Print the gain of time on Serth & Heenan's network."""
    case = cases.linear_networks()["P15"]
    print("\nOne bias of 2 to 7 std, mean of N windows, Serth & Heenan's network: ours / published")
    for windows, published in AVERAGING.items():
        print(f"  N = {windows:3}  {bias_power(case, 2, 7, runs, windows)['alone']:.3f} / {published:.3f}")


def print_watch() -> None:
    """Print the delay of the sequential test on Serth & Heenan's network, and how often it is wrong."""
    case = cases.linear_networks()["P15"]
    rules = WatchRules(baseline_windows=60)
    print("\nA change of one meter over time, Serth & Heenan's network, 36 % of the variance random: the watch")
    print(f"  one false finding in {rules.windows_between_alarms:.0f} windows is allowed")
    for size in (0.0, 1.0, 2.0, 4.0):
        delays, missed, wrong = watch_delays(case, size, rules, changes=40)
        mean = np.mean(delays) if delays else np.nan
        print(f"  change of {size:.0f} std: after {mean:5.1f} windows; of 40 {missed} not in 200, {wrong} falsely")


def watch_delays(case: dict[str, Any], size: float, rules: WatchRules, changes: int) -> tuple[list[int], int, int]:
    """Return windows until a change that can show was found, how many were not found, and findings before any."""
    rng = np.random.default_rng(5)
    network = prepare(case["incidence"], case["std"])
    sees = network.projection(np.ones(network.n_streams, dtype=bool)).bias_information * case["std"] ** 2
    random, stays = 0.6 * case["std"], 0.8 * case["std"]
    delays, missed, wrong = [], 0, 0
    for stream in rng.choice(np.flatnonzero(sees > 0.25), changes):
        watch, offset = MeterWatch(network.n_streams, rules), stays * rng.standard_normal(network.n_streams)
        for k in range(rules.baseline_windows + 300):
            measured = case["true"] + offset + random * rng.standard_normal(network.n_streams)
            changed = k >= rules.baseline_windows + 100
            measured[stream] += size * case["std"][stream] * changed
            found = any(
                finding.kind == "changed" for finding in watch.update(network.reconcile(measured), random, stays)
            )
            if found and (size == 0.0 or not changed):
                wrong += 1
                break
            if found:
                delays.append(k - rules.baseline_windows - 99)
                break
        else:
            missed += 1
    return delays, missed, wrong


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=2500)
    runs = parser.parse_args().runs
    print_clean(runs)
    print_one_error(runs)
    print_several(runs)
    print_several_elsewhere(runs)
    print_averaging(runs)
    print_watch()


if __name__ == "__main__":
    main()
