"""The command `symbiosis replay`: the processing chain over recorded data, no database needed.

What it does is in `processing.replay`; here are its options and its progress bar.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from park.errors import InputError
from symbiosis.options import folder, positive

if TYPE_CHECKING:
    from processing.replay import OnProgress

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE = 0
_EXAMPLE = """examples:
  symbiosis replay park.yaml january.csv february.parquet --out results
  symbiosis replay park.yaml readings.csv --out results --window 300
"""


def add_command(commands: Subparsers) -> None:
    """Add `symbiosis replay`."""
    command = commands.add_parser(
        "replay",
        help="runs the processing chain over recorded data, without a database",
        description="Runs the processing chain over recorded data: rows of time, meter, value (in the meter's unit) "
        "and quality, in CSV or Parquet, in any order. Writes reconciled.csv, nodes.csv, meters.csv, events.csv and "
        "statements.csv.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("park", type=Path, metavar="PARK", help="park.yaml")
    command.add_argument("data", type=Path, nargs="+", metavar="DATA", help=".csv, .csv.gz or .parquet")
    command.add_argument("--out", type=folder, required=True, metavar="DIR", help="folder for the results")
    command.add_argument("--window", type=positive, metavar="S", help="window in seconds (default: the park's)")
    command.set_defaults(work=_replay)


def _replay(options: argparse.Namespace) -> int:
    from park.load import load_park
    from processing.replay import replay

    park = load_park(options.park)
    for path in options.data:
        if not path.is_file():
            raise InputError(f"there is no file {str(path)!r}" if not path.exists() else f"{str(path)!r} is no file")
    with ExitStack() as stack:
        done = replay(park, options.data, options.out, window_s=options.window, on_progress=_progress(stack))
    unknown = f", {done.unknown} of meters that the park has not" if done.unknown else ""
    print(f"{done.readings} readings{unknown}; {done.windows} windows, {done.events} events in {options.out}",  # noqa: T201
          file=sys.stderr)
    return DONE


def _progress(stack: ExitStack) -> OnProgress | None:
    """Return what draws a progress bar on stderr; None without a terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import Progress

    bar = stack.enter_context(Progress(console=Console(stderr=True)))
    tasks = {what: bar.add_task(what, total=None) for what in ("reading", "windows")}
    return lambda what, number, of: bar.update(tasks[what], completed=number, total=of)
