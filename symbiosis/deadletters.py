"""The command `symbiosis deadletters`: what came and was no reading, and reading it again after a fix.

What a dead letter is, and how it is read again, is in `collector.dead_letters`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from symbiosis.options import add_database

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE = 0
ROWS = 100
_EXAMPLE = """examples:
  symbiosis deadletters list --rows 20
  symbiosis deadletters replay park.yaml --meter refinery.FT201
"""
# The newest, as the view gives them; rows is a whole number and all a condition of ours.
_LIST = "select * from dead_letter_list {where} order by dead_letter desc limit {rows}"


def add_command(commands: Subparsers) -> None:
    """Add `symbiosis deadletters` with its own commands."""
    letters = commands.add_parser(
        "deadletters",
        help="what came and was no reading: list, replay",
        description="Shows what the collector could not read, and reads it again after a fix.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = letters.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    listing = _add_action(actions, "list", "prints dead letters as CSV, newest first", "list --rows 20")
    listing.add_argument("--rows", type=_count, default=ROWS, metavar="N", help=f"how many (default {ROWS})")
    listing.add_argument("--all", action="store_true", help="those that were replayed too")
    listing.set_defaults(work=_list)
    replay = _add_action(
        actions, "replay", "reads dead letters again with the park as it is now, and stores their readings, each once",
        "replay park.yaml --reason 'nothing at the path of the value'")
    replay.add_argument("park", type=Path, metavar="PARK", help="park.yaml, mended")
    replay.add_argument("--source", metavar="NAME", help="those of one source alone, such as mqtt")
    replay.add_argument("--meter", metavar="ID", help="those of one meter alone")
    replay.add_argument("--reason", metavar="TEXT", help="those with this reason alone")
    replay.set_defaults(work=_replay)


def _add_action(actions: Subparsers, name: str, does: str, example: str) -> argparse.ArgumentParser:
    action = actions.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + ".",
        epilog=f"example: symbiosis deadletters {example}",
    )
    add_database(action)
    return action


def _list(options: argparse.Namespace) -> int:
    from park.store.location import open_database
    from symbiosis.database import print_query
    from symbiosis.datafolder import default_data_folder

    where = "" if options.all else "where replayed_at is null"
    with open_database(options.dsn, options.data or default_data_folder()) as dsn:
        print_query(dsn, _LIST.format(where=where, rows=options.rows), sys.stdout)
    return DONE


def _replay(options: argparse.Namespace) -> int:
    from collector.dead_letters import Replay
    from collector.register import register_of
    from park.load import load_park
    from park.store.dead_letters import Which
    from park.store.location import open_database
    from symbiosis.datafolder import default_data_folder

    replay = Replay(register_of(load_park(options.park)))
    with open_database(options.dsn, options.data or default_data_folder()) as dsn:
        replayed = replay.run(dsn, Which(options.source, options.meter, options.reason))
    sys.stderr.writelines(f"{line}\n" for line in replayed.lines())
    return DONE


def _count(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)
