"""`symbiosis check`: what a park consists of, what its meters can tell, and what is odd about it.

    load_park ──► Park ──► design_point.expect ──► classes and std of every stream ──┐
                      └──► advice ───────────────────────────────────────────────────┴──► text or JSON

A park with faults gets no further than `load_park`. Here: putting together and printing. Not here: how std are computed
(`processing.design_point`), what is a fault (`park.checks`). The way in is `check`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from park.errors import ParkError
from park.load import load_park
from park.model import Exchange, Meter, Park
from symbiosis.advice import ENDS, FLOWS, Advice, advice, is_metered, protocol

STATUSES = ("redundant", "nonredundant", "observable", "unobservable")
U95_PER_STD = 1.96  # VDI 2048
NOTHING = 1e-9  # [kg/s, kW] what rounding leaves of a flow that stands still
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
        sys.stdout.write("\n".join(as_text(found)) + "\n")
    return 0


def findings(park: Park, now: datetime) -> dict[str, Any]:
    """Return all that is to be said of a checked park with the meters in force at `now`, ready for JSON."""
    from processing.design_point import expect

    expected = expect(park, now)
    in_force = [meter for meter in park.meters if meter.is_in_force(now)]
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
            "meters": _meters_at(park, in_force, row.stream, row.side),
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
        "streams": streams,
        "unchecked_meters": [
            meter.id for meter in in_force if meter.quantity in FLOWS and meter.id not in expected.checked
        ],
        "exchanges": [_exchange(park, exchange) for exchange in park.exchanges],
        "advice": [{"subject": a.subject, "message": a.message} for a in (*advice(park), *_on_nominal(park, streams))],
    }


def as_text(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the plain form."""
    counts = ", ".join(_count(number, kind) for kind, number in found["counts"].items())
    sources = ", ".join(f"{number} by {name}" for name, number in sorted(found["protocols"].items()))
    yield f"{found['park']}: {counts}" + (f" ({sources})" if sources else "")
    yield ""
    yield from _stream_table(found["streams"], _energy_settled(found))
    yield ""
    statuses = ", ".join(f"{found['statuses'][name]} {name}" for name in STATUSES)
    yield f"streams: {statuses} (balances of {found['balances']})"
    if found["unchecked_meters"]:
        yield f"nothing checks, so that a bias stays unseen: {', '.join(found['unchecked_meters'])}"
    if found["exchanges"]:
        yield ""
        yield from _exchange_table(found["exchanges"])
    if found["advice"]:
        yield ""
        yield "advice:"
        yield from (f"  {a['subject']}: {a['message']}" for a in found["advice"])
    yield ""
    yield "no faults"


def _stream_table(streams: Sequence[dict[str, Any]], energy_settled: set[str]) -> Iterator[str]:
    """Yield a line a flow; heat flows that nobody can tell only where energy is settled."""
    shown = [
        row
        for row in streams
        if row["quantity"] == "mass_flow"
        or row["status"] != "unobservable"
        or row["stream"] in energy_settled
        or _only_energy(streams, row["stream"])
    ]
    head = ("stream", "side", "quantity", "status", "expected", "std", "unit", "u95 %", "meters")
    yield from _table(
        [
            head,
            *(
                (
                    row["stream"],
                    row["side"],
                    row["quantity"],
                    row["status"],
                    _number(row["expected"]),
                    _number(row["std"]),
                    row["unit"],
                    _percent(row["u95"], row["expected"]),
                    " ".join(row["meters"]),
                )
                for row in shown
            ),
        ]
    )


def _exchange_table(exchanges: Sequence[dict[str, Any]]) -> Iterator[str]:
    head = ("exchange", "kind", "from", "to", "settles", "streams", "metered")
    yield from _table(
        [
            head,
            *(
                (
                    row["exchange"],
                    row["kind"],
                    row["from"] or "-",
                    row["to"] or "-",
                    f"{row['settles']} in {row['unit']}",
                    " ".join(
                        f"{'' if sign == 1 else '-' if sign == -1 else f'{sign:g} '}{stream}"
                        for stream, sign in row["streams"].items()
                    )
                    or "-",
                    " and ".join(row["metered"]) or "-",
                )
                for row in exchanges
            ),
        ]
    )


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


def _exchange(park: Park, exchange: Exchange) -> dict[str, Any]:
    """Return what is to be said of an exchange."""
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
        "metered": [side for side in ENDS if exchange.signed_streams and is_metered(park, exchange, side)],
    }


def _status_counts(park: Park, streams: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Count streams by the status of their own flow: mass, or energy of what is energy alone; at the sender."""
    own = Counter(
        row["status"]
        for row in streams
        if row["side"] == "sender" and (row["quantity"] == "mass_flow") == park.stream[row["stream"]].carries_mass
    )
    return {name: own[name] for name in STATUSES}


def _meters_at(park: Park, meters: Iterable[Meter], stream: str, side: str) -> list[str]:
    """Return the flow meters that see a stream at one end; where nothing lies between, at either."""
    both = not park.stream[stream].two_sided
    return [
        meter.id
        for meter in meters
        if meter.quantity in FLOWS
        and (stream in meter.signed_streams if both else park.meter_ends(meter).get(stream) == side)
    ]


def _energy_settled(found: dict[str, Any]) -> set[str]:
    return {
        stream for exchange in found["exchanges"] if exchange["settles"] == "energy" for stream in exchange["streams"]
    }


def _only_energy(streams: Sequence[dict[str, Any]], stream: str) -> bool:
    return not any(row["stream"] == stream and row["quantity"] == "mass_flow" for row in streams)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows with their columns aligned: numbers to the right, the rest to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    numbers = {i for i, name in enumerate(rows[0]) if name in ("expected", "std", "u95 %")}
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _count(number: int, kind: str) -> str:
    return f"{number} {kind.removesuffix('s') if number == 1 else kind}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{0.0 if abs(value) < NOTHING else value:.4g}"


def _percent(u95: float | None, expected: float | None) -> str:
    if u95 is None or expected is None or u95 > abs(expected):
        return "-"  # more than all of it: a percentage would tell nothing
    return f"{100.0 * u95 / abs(expected):.2g}" if expected else "0"


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
