"""The command `symbiosis discover`: what a server or broker offers, as rows for meters.csv.

How it is found is in `collector.opcua.browse` and `collector.mqtt.listen`, what the rows are in `collector.discovery`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from park.errors import InputError, ParkError

if TYPE_CHECKING:
    from collector.discovery import Offer
    from park.servers import OpcuaServer

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE, FAILED = 0, 1
DEPTH, SECONDS = 8, 10.0        # held against the collector's by a test: --help imports nothing heavy
_EXAMPLE = """examples:
  symbiosis discover opc.tcp://plc.plant:4840 --filter FT > meters.csv
  symbiosis discover opc.tcp://plc.plant:4840 --depth 4 --filter 'Power/*/FT1??'
  symbiosis discover plc7 --park park.yaml --depth 4 > meters.csv
  symbiosis discover mqtt://broker.plant:1883 --seconds 60 --topic 'plant/#' > meters.csv
"""


def add_command(commands: Subparsers) -> None:
    """Add `symbiosis discover`."""
    command = commands.add_parser(
        "discover",
        help="lists the tags of an OPC UA server or an MQTT broker as rows for meters.csv",
        description="Lists the tags of an OPC UA server or an MQTT broker as rows for meters.csv. What a server cannot "
        "know is left empty, and named on stderr.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("url", metavar="URL", help="opc.tcp://host:port, or mqtt://[user:password@]host[:port], or mqtts://...")
    command.add_argument("--park", metavar="PARK",
                         help="(OPC UA) park file whose entry of `servers` says how the server is reached, with "
                         "security and user; URL is the entry's id or endpoint. The rest of the file may be unfinished")
    command.add_argument("--filter", default="", metavar="TEXT",
                         help="only what has this in its path or topic; with * or ? the whole of it must fit")
    command.add_argument("--depth", type=_whole, default=DEPTH, metavar="N",
                         help=f"(OPC UA) levels below the Objects folder (default {DEPTH})")
    command.add_argument("--seconds", type=_seconds, default=SECONDS, metavar="S",
                         help=f"(MQTT) how long to listen (default {SECONDS:g})")
    command.add_argument("--topic", action="append", metavar="FILTER",
                         help="(MQTT) topics to listen to, with + and #; may be given again (default #)")
    command.add_argument("--rebirth", action="store_true",
                         help="(MQTT) ask Sparkplug nodes whose data are heard what their metrics are")
    command.set_defaults(work=_discover)


def _discover(options: argparse.Namespace) -> int:
    from collector.discovery import as_csv, left_open

    server = None if options.park is None else _server_of(options.park, options.url)
    scheme = (options.url if server is None else server.endpoint).partition("://")[0]
    if scheme not in ("opc.tcp", "mqtt", "mqtts"):
        raise InputError("URL must begin with opc.tcp://, mqtt:// or mqtts://")
    offer, columns = _browse(options, server) if scheme == "opc.tcp" else _listen(options)
    for line in [*offer.remarks, f"{len(offer.found)} found", *left_open(offer)]:
        sys.stderr.write(f"{line}\n")
    if not offer.found:
        return FAILED
    sys.stdout.write(as_csv(offer, columns))
    return DONE


def _server_of(file: str, wanted: str) -> OpcuaServer:
    """Return the entry of a park file for a server; the rest may be unfinished, as are meters to be discovered."""
    from park.checks import find_faults
    from park.load import read_draft

    draft = read_draft(Path(file))
    item = next((item for item in draft.servers if wanted in (item.entry.id, item.entry.endpoint)), None)
    faults = [*draft.faults, *find_faults(draft)]
    if item is None:
        if not draft.servers and draft.faults:
            raise ParkError(draft.faults)
        raise InputError(f"{file}: no entry of servers has the id or endpoint {wanted!r}")
    if own := [fault for fault in faults if fault.subject == item.subject]:
        raise ParkError(own)
    return item.entry


def _browse(options: argparse.Namespace, server: OpcuaServer | None) -> tuple[Offer, tuple[str, ...]]:
    import asyncio

    from collector.opcua.browse import COLUMNS, browse
    from collector.opcua.client import quiet_library

    quiet_library()
    url = options.url if server is None else server.endpoint
    return asyncio.run(browse(url, depth=options.depth, pattern=options.filter, server=server)), COLUMNS


def _listen(options: argparse.Namespace) -> tuple[Offer, tuple[str, ...]]:
    from collector.mqtt.broker import broker_of
    from collector.mqtt.listen import columns_of, listen, place_of
    from collector.opcua.browse import fits

    offer = listen(broker_of(options.url, "discover"), seconds=options.seconds, topics=options.topic or ["#"],
                   asks_rebirth=options.rebirth)
    offer.found = [found for found in offer.found if fits(place_of(found), options.filter)]
    return offer, columns_of(offer)


def _whole(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


def _seconds(text: str) -> float:
    """Read seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1e6, got {text}")
    return value
