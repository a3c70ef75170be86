"""Detection power beside the published figures: python -m benchmarks.detection_power [--runs N].

Three tables: one error a window on the networks of the literature (Valle et al. 2018); several biases on Serth &
Heenan's network by serial elimination within bounds; one bias over the mean of N windows there.
How errors are drawn and counted is in tests/reference/power.py.
"""

from __future__ import annotations

import argparse

from tests.reference import cases
from tests.reference.power import ALPHA, AVERAGING, SEVERAL, bias_power, leak_power, several_biases


def print_one_error(runs: int) -> None:
    """Print one error a window, every published network."""
    print(f"One error a window, {runs} runs a stream or node, {ALPHA:.2f} alarms a clean run: ours / published")
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


def print_averaging(runs: int) -> None:
    """Print the gain of time on Serth & Heenan's network."""
    case = cases.linear_networks()["P15"]
    print("\nOne bias of 2 to 7 std, mean of N windows, Serth & Heenan's network: ours / published")
    for windows, published in AVERAGING.items():
        print(f"  N = {windows:3}  {bias_power(case, 2, 7, runs, windows)['alone']:.3f} / {published:.3f}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=2500)
    runs = parser.parse_args().runs
    print_one_error(runs)
    print_several(runs)
    print_averaging(runs)


if __name__ == "__main__":
    main()
