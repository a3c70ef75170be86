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
    from collections.abc import Iterator

    from processing.replay import OnProgress, Replayed

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE = 0
NAMED = 10
"""Unknown meters that are named."""

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
    for line in _told(done):
        print(line, file=sys.stderr)        # noqa: T201
    print(f"{done.read.rows} readings, {done.windows} windows, {done.events} events in {options.out}",  # noqa: T201
          file=sys.stderr)
    return DONE


def _told(done: Replayed) -> Iterator[str]:
    """Yield a line for each kind of windows and rows that no result comes from."""
    read = done.read
    if read.unknown:
        rows = sum(entry.rows for entry in read.unknown.values())
        yield f"{rows} rows are of meters that the park has not:"
        named = [*read.unknown.items()][:NAMED]
        yield from (f"  {meter}: {entry.rows}, first at {entry.first}" for meter, entry in named)
        if len(read.unknown) > NAMED:
            yield f"  and {len(read.unknown) - NAMED} more meters"
    if read.repeated:
        yield f"{read.repeated} rows repeat an earlier one"
    if read.contradicted:
        some = ", ".join(read.contradictions)
        yield f"{read.contradicted} rows contradict an earlier one of the same meter and time, which stays: {some}"
    if done.unsolved:
        yield (f"{done.unsolved} of {done.windows} windows have no reconciled values: their balances have no solution "
               "near what the meters say (too few meters, or not in the units of meters.csv or park.yaml?)")


def _progress(stack: ExitStack) -> OnProgress | None:
    """Return what draws a progress bar on stderr; None without a terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import Progress

    bar = stack.enter_context(Progress(console=Console(stderr=True)))
    tasks = {what: bar.add_task(what, total=None) for what in ("reading", "windows")}
    return lambda what, number, of: bar.update(tasks[what], completed=number, total=of)
