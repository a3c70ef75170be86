"""The command `symbiosis dashboards`: Grafana's boards and alert rules as files, or into a running Grafana.

What they are is in `dashboards`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from park.errors import InputError
from symbiosis.options import dsn, folder

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE = 0
_EXAMPLE = """examples:
  symbiosis dashboards build park.yaml --out deploy/grafana
  symbiosis dashboards deploy park.yaml --url https://grafana.plant --token TOKEN
"""


def add_command(commands: Subparsers) -> None:
    """Add `symbiosis dashboards` with its own commands."""
    boards = commands.add_parser(
        "dashboards",
        help="Grafana boards and alert rules: build, deploy",
        description="Builds Grafana's boards, alert rules and data source.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = boards.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    build = _add_action(actions, "build", "writes provisioning files", "build park.yaml --out deploy/grafana")
    build.add_argument("--out", type=folder, default=Path("grafana"), metavar="DIR",
                       help="where to (default ./grafana)")
    build.set_defaults(work=_build)
    deploy = _add_action(
        actions,
        "deploy",
        "pushes what is its own to a running Grafana, and says what changed",
        "deploy park.yaml --url https://grafana.plant",
    )
    deploy.add_argument("--url", required=True, metavar="URL", help="the Grafana")
    deploy.add_argument(
        "--token",
        default=os.environ.get("SYMBIOSIS_GRAFANA_TOKEN"),
        metavar="TOKEN",
        help="of a service account (default $SYMBIOSIS_GRAFANA_TOKEN, which no process list shows)",
    )
    deploy.add_argument(
        "--reader-dsn",
        type=dsn,
        default=os.environ.get("SYMBIOSIS_READER_DSN"),
        metavar="DSN",
        help="the database as Grafana reaches it, with the login of a member of symbiosis_reader "
        "(default $SYMBIOSIS_READER_DSN; without it the data source stays as it is)",
    )
    deploy.add_argument("--webhook", metavar="URL", help="where alerts go (without it they go where they went)")
    deploy.add_argument("--force", action="store_true", help="write also what looks the same, such as a new password")
    deploy.set_defaults(work=_deploy)


def _add_action(actions: Subparsers, name: str, does: str, example: str) -> argparse.ArgumentParser:
    action = actions.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + ".", epilog=f"example: symbiosis dashboards {example}"
    )
    action.add_argument("park", type=Path, metavar="PARK", help="park.yaml: its name, time zone and currency")
    action.add_argument("--runbooks", default="docs/runbooks", metavar="URL",
                        help="where people reach docs/runbooks/, for the links of alerts")
    return action


def _build(options: argparse.Namespace) -> int:
    from dashboards.files import build
    from park.load import load_park

    changed = build(load_park(options.park), options.out, options.runbooks)
    sys.stderr.write("".join(f"wrote {options.out / path}\n" for path in changed) or "nothing to change\n")
    return DONE


def _deploy(options: argparse.Namespace) -> int:
    from dashboards.deploy import Grafana, deploy
    from park.load import load_park

    if not options.token:
        raise InputError("token: there is none (hint: --token or SYMBIOSIS_GRAFANA_TOKEN)")
    grafana = Grafana(
        options.url, options.token, options.reader_dsn, options.webhook, options.force, options.runbooks)
    report = deploy(load_park(options.park), grafana)
    sys.stdout.writelines(f"{done}: {what}\n" for what, done in report.lines)
    return DONE
