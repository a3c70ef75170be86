"""`symbiosis check`: what a park consists of, what its meters can tell, and what is odd about it.

    load_park ──► Park ──► design_point.expect ──► streams, meters, further meters ──┐
                      └──► advice ───────────────────────────────────────────────────┴──► text or JSON

A park with faults gets no further than `load_park`. Here: putting together. Not here: how std are computed
(`processing.design_point`) and meters weighed (`processing.metering`), what is a fault (`park.checks`), the text
(`symbiosis.check_text`). The way in is `check`.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from park.errors import ParkError
from park.load import load_park
from park.model import Exchange, Meter, Park
from symbiosis.advice import ENDS, FLOWS, advice, is_metered, protocol
from symbiosis.check_text import STATUSES, as_text
from symbiosis.columns import width_of_output
from symbiosis.view import Advice, View

if TYPE_CHECKING:
    from processing.metering import Metering, Proposal

U95_PER_STD = 1.96  # VDI 2048
APART = 0.2  # share of a nominal flow beyond which the others' nominal flows do not go with it


def check(path: Path, *, as_json: bool) -> int:
    """Print what `symbiosis check` says of the park at `path`; return the exit code.

    Raises
    ------
    ParkError
        If the park has faults; with `as_json` they have been printed as data too.
    """
    try:
        park = load_park(path)
    except ParkError as error:
        if as_json:
            _print_json({"faults": [fault.__dict__ for fault in error.faults]})
        raise
    found = findings(park, datetime.now(UTC))
    if as_json:
        _print_json(found)
    else:
        sys.stdout.write("\n".join(as_text(found, width_of_output())) + "\n")
    return 0


def findings(park: Park, now: datetime) -> dict[str, Any]:
    """Return all that is to be said of a checked park with the meters in force at `now`, ready for JSON."""
    from processing.design_point import expect

    expected = expect(park, now)
    view = View(park)
    in_force = [meter for meter in park.meters if meter.is_in_force(now)]
    seen = _flow_meters(park, in_force)
    streams = [
        {
            "stream": row.stream,
            "name": park.stream[row.stream].name,
            "side": row.side,
            "quantity": row.quantity,
            "unit": row.unit,
            "status": row.status,
            "expected": row.reconciled,
            "std": row.std,
            "u95": None if row.std is None else U95_PER_STD * row.std,
            "meters": seen.get((row.stream, row.side if park.stream[row.stream].two_sided else None), []),
        }
        for row in expected.flows
    ]
    return {
        "park": park.park.name,
        "counts": {
            kind: len(getattr(park, kind)) for kind in ("participants", "nodes", "streams", "meters", "exchanges")
        },
        "protocols": dict(Counter(protocol(meter) for meter in park.meters)),
        "balances": "mass" if expected.mass_only else "mass, energy and components",
        "statuses": _status_counts(park, streams),
        "absent_streams": list(expected.absent),
        "streams": streams,
        "unchecked_meters": [
            meter.id for meter in in_force if meter.quantity in FLOWS and meter.id not in expected.checked
        ],
        **_metering(expected.metering),
        "exchanges": [_exchange(view, exchange) for exchange in park.exchanges],
        "advice": [{"subject": a.subject, "message": a.message} for a in (*advice(view), *_on_nominal(park, streams))],
    }


def _metering(metering: Metering) -> dict[str, Any]:
    """Return what is to be said of meters, and of one more."""
    limit = metering.threshold
    return {
        "detection": {
            "false_alarms": metering.false_alarms,
            "power": metering.power,
            "threshold": limit if math.isfinite(limit) else None,
        },
        "meters": [asdict(worth) for worth in metering.meters],
        "tied_meters": [list(group) for group in metering.groups],
        "extra_meters": [_proposal(proposal) for proposal in metering.proposals],
    }


def _proposal(proposal: Proposal) -> dict[str, Any]:
    """Return what one more meter would bring."""
    found = asdict(proposal)
    return {**found.pop("place"), **found, "made_observable": list(found["made_observable"])}


def _on_nominal(park: Park, streams: Iterable[dict[str, Any]]) -> Iterator[Advice]:
    """Yield advice on streams that cannot flow as their nominal value says beside those of the others."""
    for row in streams:
        nominal = park.stream[row["stream"]].nominal_si
        own = (row["quantity"] == "mass_flow") == park.stream[row["stream"]].carries_mass
        if (
            nominal
            and own
            and row["side"] == "sender"
            and row["expected"] is not None
            and abs(row["expected"] - nominal) > APART * abs(nominal)
        ):
            yield Advice(
                f"stream {row['stream']!r}",
                f"nominal is {nominal:.4g} {row['unit']}, but the balances with the "
                f"other nominal flows leave {row['expected']:.4g}",
            )


def _exchange(view: View, exchange: Exchange) -> dict[str, Any]:
    """Return what is to be said of an exchange."""
    park = view.park
    sender, receiver = park.parties(exchange) if exchange.signed_streams else (None, None)
    return {
        "exchange": exchange.id,
        "name": exchange.name,
        "kind": str(exchange.kind),
        "from": sender,
        "to": receiver,
        "settles": exchange.settles,
        "unit": exchange.unit,
        "streams": dict(exchange.signed_streams),
        "metered": [side for side in ENDS if exchange.signed_streams and is_metered(view, exchange, side)],
    }


def _status_counts(park: Park, streams: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Count streams by the status of their own flow: mass, or energy of what is energy alone; at the sender."""
    own = Counter(
        row["status"]
        for row in streams
        if row["side"] == "sender" and (row["quantity"] == "mass_flow") == park.stream[row["stream"]].carries_mass
    )
    return {name: own[name] for name in STATUSES}


def _flow_meters(park: Park, meters: Iterable[Meter]) -> dict[tuple[str, str | None], list[str]]:
    """Return the flow meters that see each stream at each end, and, with None for the end, at either."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for meter in meters:
        for stream, end in park.meter_ends(meter).items() if meter.quantity in FLOWS else ():
            for place in (end, None):
                found.setdefault((stream, place), []).append(meter.id)
    return found


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
