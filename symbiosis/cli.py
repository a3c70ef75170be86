"""The command line: what each command takes, and which function does its work.

Nothing heavy is imported here: a command imports what it needs when it runs, so that `--help` answers at once.
Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 130 interrupted.
The main path enters at `main`; a new command is one function `_add_...` with its options and example.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from park.errors import InputError, SymbiosisError
from symbiosis.options import address, dsn, folder, instant, positive, speed

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return WRONG_INPUT
    prepare_numerics()
    return _guarded(lambda: int(options.work(options)))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="symbiosis",
        description="See, trust and settle what the companies of an industrial park exchange.",
        epilog="example: symbiosis demo --duration 90 --speed 20",
    )
    parser.add_argument("--version", action="version", version=f"symbiosis {version('symbiosis')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add in (_add_demo, _add_check, _add_simulate, _add_collect, _add_process, _add_run, _add_dashboards, _add_db,
                _add_deadletters, _add_discover, _add_replay):
        add(commands)
    return parser


def prepare_numerics() -> None:
    """Set up numpy and numba for this process and its children; must come before they are imported."""
    # Matrices of a park are small. Threads over them cost more than they bring, and beside other busy processes they
    # wait for each other: a window of the Kalundborg park took 5 s instead of 0.25 s.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _place_numba_cache()


def _place_numba_cache() -> None:
    """Keep compiled kernels in the user's cache where the installed package cannot be written to."""
    if "NUMBA_CACHE_DIR" in os.environ or os.access(Path(__file__).parents[1] / "processing", os.W_OK):
        return
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "symbiosis" / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"symbiosis-numba-{os.getuid()}"     # kept: compiling takes longest
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _guarded(work: Callable[[], int]) -> int:
    """Run a command and turn errors raised on purpose into messages and exit codes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # ends as Ctrl-C does, before and after a run too
    try:
        return work()
    except InputError as error:
        print(error, file=sys.stderr)       # noqa: T201
        return WRONG_INPUT
    except SymbiosisError as error:
        print(f"symbiosis: {error}", file=sys.stderr)       # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:                 # the reader of stdout has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:                # a disk that is full, a file that nobody may read
        print(f"symbiosis: {_what_the_system_says(error)}", file=sys.stderr)        # noqa: T201
        return FAILED


def _what_the_system_says(error: OSError) -> str:
    """Return an error of the operating system in a line."""
    place = f"{error.filename}: " if error.filename is not None else ""
    return f"{place}{error.strerror or error}"


def _command(commands: Subparsers, name: str, does: str, example: str) -> argparse.ArgumentParser:
    """Add a command with its help and an example."""
    return commands.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + ".", epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_demo(commands: Subparsers) -> None:
    command = _command(
        commands, "demo", "runs the whole system on this machine, with the Kalundborg simulator",
        "symbiosis demo --duration 90 --speed 20 --report report.json",
    )
    command.add_argument("--duration", type=positive, metavar="S",
                         help="wall seconds from the moment that every subscription is armed; without it, until Ctrl-C")
    _add_clock(command)
    command.add_argument("--seed", type=int, default=1, metavar="N", help="same start and seed, same run (default 1)")
    _add_data(command)
    command.add_argument("--fresh", action="store_true", help="forget what the data folder holds from earlier runs")
    _add_headless(command)
    command.add_argument("--report", type=Path, metavar="FILE",
                         help="after the run, compare what was sent with what was stored and reconciled (JSON)")
    command.set_defaults(work=_demo)


def _demo(options: argparse.Namespace) -> int:
    from symbiosis.demo import DemoOptions, demo

    return demo(DemoOptions(
        duration_s=options.duration, speed=options.speed, start=options.start, seed=options.seed, data=options.data,
        fresh=options.fresh, headless=options.headless, report=options.report,
    ))


def _add_check(commands: Subparsers) -> None:
    command = _command(
        commands, "check",
        "validates a park; says what is redundant, observable, unobservable, and the std to expect of every stream",
        "symbiosis check park.yaml --json",
    )
    _add_park(command)
    command.add_argument("--json", action="store_true", help="the same as JSON")
    command.set_defaults(work=_check)


def _check(options: argparse.Namespace) -> int:
    from symbiosis.check import check

    return check(options.park, as_json=options.json)


def _add_simulate(commands: Subparsers) -> None:
    command = _command(
        commands, "simulate", "serves a park's meters over real OPC UA and MQTT, with faults from a scenario",
        "symbiosis simulate park.yaml --scenario scenario.yaml --broker mqtt://127.0.0.1:1883",
    )
    _add_park(command)
    command.add_argument("--scenario", type=Path, metavar="FILE",
                         help="loads, compositions and faults (default: nominal operation, no faults)")
    _add_broker(command)
    _add_clock(command)
    command.add_argument("--seed", type=int, default=1, metavar="N", help="same start and seed, same run (default 1)")
    command.add_argument("--out", type=folder, default=Path(), metavar="DIR",
                         help="folder for sent.csv, truth.csv and faults.csv (default: here)")
    _add_supervision(command)
    command.set_defaults(work=_service("simulate"))


def _add_collect(commands: Subparsers) -> None:
    command = _command(
        commands, "collect", "reads a park's meters into the store",
        "symbiosis collect park.yaml --dsn postgresql:///park --broker mqtt://127.0.0.1:1883",
    )
    _add_park(command)
    _add_store(command)
    _add_broker(command)
    command.add_argument(
        "--spool", type=folder, metavar="DIR",
        help="where readings wait while the database is away (default: spool in --data or beside --run)")
    command.add_argument("--spool-mb", type=positive, default=2048.0, metavar="N",
                         help="size that it may have (default 2048); then the sources are held back")
    _add_metrics(command, "Prometheus metrics, /healthz and /readyz there (default: none)")
    _add_supervision(command)
    command.set_defaults(work=_service("collect"))


def _add_process(commands: Subparsers) -> None:
    command = _command(
        commands, "process", "reconciles each window of a park's readings and tells what deviates",
        "symbiosis process park.yaml --dsn postgresql:///park",
    )
    _add_park(command)
    _add_store(command)
    _add_metrics(command, "Prometheus metrics, /healthz and /readyz there (default: none)")
    _add_supervision(command)
    command.set_defaults(work=_service("process"))


def _service(name: str) -> Callable[[argparse.Namespace], int]:
    def work(options: argparse.Namespace) -> int:
        from symbiosis.services import start

        return start(name, options)

    return work


def _add_run(commands: Subparsers) -> None:
    command = _command(
        commands, "run", "runs the services for a real park on this machine",
        "symbiosis run park.yaml --data /srv/park --broker mqtt://broker.plant:1883",
    )
    _add_park(command)
    _add_store(command)
    _add_broker(command)
    _add_headless(command)
    _add_metrics(command, "metrics and health of the collector there, of processing at the next port "
                          "(default: free ports of 127.0.0.1, which run.json names)")
    command.set_defaults(work=_run)


def _run(options: argparse.Namespace) -> int:
    from symbiosis.run import RunOptions, run

    return run(RunOptions(
        park=options.park, dsn=options.dsn, data=options.data, broker=options.broker, headless=options.headless,
        metrics=options.metrics or ("127.0.0.1", 0),
    ))


def _add_dashboards(commands: Subparsers) -> None:
    from symbiosis.boards import add_command

    add_command(commands)


def _add_db(commands: Subparsers) -> None:
    from symbiosis.database import add_command

    add_command(commands)


def _add_deadletters(commands: Subparsers) -> None:
    from symbiosis.deadletters import add_command

    add_command(commands)


def _add_replay(commands: Subparsers) -> None:
    from symbiosis.replay import add_command

    add_command(commands)


def _add_discover(commands: Subparsers) -> None:
    from symbiosis.discover import add_command

    add_command(commands)


def _add_park(command: argparse.ArgumentParser) -> None:
    command.add_argument("park", type=Path, metavar="PARK", help="park.yaml")


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=folder, metavar="DIR",
                         help="data folder; default the user's, or a temporary one where the clock is not real time")


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dsn", type=dsn, default=os.environ.get("SYMBIOSIS_DSN") or None, metavar="DSN",
                         help="PostgreSQL to use (default $SYMBIOSIS_DSN; without it the embedded one in --data)")
    command.add_argument("--data", type=folder, metavar="DIR", help="data folder (default: the user's)")


def _add_broker(command: argparse.ArgumentParser) -> None:
    command.add_argument("--broker", default=os.environ.get("SYMBIOSIS_BROKER") or None, metavar="URL",
                         help="MQTT broker of meters that name none (default $SYMBIOSIS_BROKER, else the park's only "
                              "broker, else mqtt://127.0.0.1:1883)")


def _add_clock(command: argparse.ArgumentParser) -> None:
    command.add_argument("--speed", type=speed, default=1.0, metavar="N",
                         help="simulated seconds a wall second (default 1)")
    command.add_argument("--start", type=instant, metavar="ISO",
                         help="where the run's clock starts (default: now, or so far back that it reaches now)")


def _add_metrics(command: argparse.ArgumentParser, does: str) -> None:
    command.add_argument("--metrics", type=address, metavar="HOST:PORT", help=does)


def _add_headless(command: argparse.ArgumentParser) -> None:
    command.add_argument("--headless", action="store_true", help="plain lines instead of the live view")


def _add_supervision(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", type=Path, metavar="FILE",
                         help="run.json of a run under way: clock, endpoints, broker and database come from it")
    command.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
