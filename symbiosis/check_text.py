"""What `symbiosis check` prints for people, from what it found.

Here: lines of text, from the same data that `--json` prints. Not here: the finding (`symbiosis.check`), how columns
are aligned and lines broken (`symbiosis.columns`). The main path enters at `as_text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from symbiosis.columns import listed, sentence, table

STATUSES = ("redundant", "nonredundant", "observable", "unobservable")
NOTHING = 1e-9  # [kg/s, kW] what rounding leaves of a flow that stands still
NUMBERS = frozenset({"expected", "std", "u95 %", "adjust", "detect", "smallest bias", "%"})
PLACES = 6  # as many places stand in one line

Found = Mapping[str, Any]


def as_text(found: Found, width: int | None = None) -> Iterator[str]:
    """Yield the lines of the plain form, of at most `width` cells where that can be."""
    counts = ", ".join(_count(number, kind) for kind, number in found["counts"].items())
    sources = ", ".join(f"{number} by {name}" for name, number in sorted(found["protocols"].items()))
    yield from sentence(f"{found['park']}: {counts}" + (f" ({sources})" if sources else ""), width)
    yield ""
    yield from _stream_table(found, width)
    yield ""
    statuses = ", ".join(f"{found['statuses'][name]} {name}" for name in STATUSES)
    yield from sentence(f"streams: {statuses} (balances of {found['balances']})", width)
    if found["absent_streams"]:
        yield from listed("not in force now", found["absent_streams"], width)
    yield from _meters(found, width)
    yield from _ties(found["tied_meters"], width)
    yield from _extra_meters(found["extra_meters"], width)
    if found["exchanges"]:
        yield ""
        yield from _exchange_table(found["exchanges"], width)
    if found["advice"]:
        yield ""
        yield "advice:"
        for advice in found["advice"]:
            yield from sentence(f"{advice['subject']}: {advice['message']}", width, 2)
    yield ""
    yield "no faults"


def _stream_table(found: Found, width: int | None) -> Iterator[str]:
    """Yield a line a flow; heat flows that nobody can tell only where energy is settled."""
    settled = {
        stream for exchange in found["exchanges"] if exchange["settles"] == "energy" for stream in exchange["streams"]
    }
    with_mass = {row["stream"] for row in found["streams"] if row["quantity"] == "mass_flow"}
    head = ("stream", "side", "quantity", "status", "expected", "std", "unit", "u95 %", "meters")
    rows = [
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
        for row in found["streams"]
        if row["quantity"] == "mass_flow"
        or row["status"] != "unobservable"
        or row["stream"] in settled
        or row["stream"] not in with_mass
    ]
    yield from table([head, *rows], NUMBERS, width)


def _meters(found: Found, width: int | None) -> Iterator[str]:
    """Yield a line a meter that is in a balance, and the names of the others."""
    inside = [row for row in found["meters"] if row["detectability"] is not None]
    outside = [row["meter"] for row in found["meters"] if row["detectability"] is None]
    if inside:
        yield ""
        head = ("meter", "adjust", "detect", "smallest bias", "unit", "%")
        rows = [
            (
                row["meter"],
                f"{row['adjustability']:.2f}",
                f"{row['detectability']:.2f}",
                "never" if row["smallest_bias"] is None else _number(row["smallest_bias"]),
                "" if row["smallest_bias"] is None else row["unit"],
                "" if row["smallest_bias_percent"] is None else f"{row['smallest_bias_percent']:.3g}",
            )
            for row in inside
        ]
        yield from table([head, *rows], NUMBERS, width)
        yield ""
        yield from sentence(_how_seen(found["detection"]), width)
    if outside:
        yield from listed("in no balance", outside, width)
    if found["unchecked_meters"]:
        yield from listed("nothing checks, so that a bias stays unseen", found["unchecked_meters"], width)


def _how_seen(detection: Mapping[str, Any]) -> str:
    """Say what the columns of the meters mean."""
    limit = detection["threshold"]
    alarm = "" if limit is None else f" (largest test above {limit:.2f})"
    return (
        f"one window shows a meter's smallest bias with probability {detection['power']:g}, where any alarm of a "
        f"window without errors has probability {detection['false_alarms']:g}{alarm}. adjust: 1 - std reconciled / std "
        "of the meter. detect: std of its adjustment / std of the meter"
    )


def _ties(groups: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield the meters that cannot be told apart."""
    if groups:
        yield ""
        yield "no balance tells these apart: if one is wrong, all of its line are suspect"
        for group in groups:
            yield from sentence(", ".join(group), width, 2)


def _extra_meters(proposals: Sequence[Mapping[str, Any]], width: int | None) -> Iterator[str]:
    """Yield where one more meter would help most."""
    if proposals:
        yield ""
        yield "one more meter would help most here:"
        for proposal in proposals:
            yield from sentence(_proposal(proposal), width, 2)


def _proposal(proposal: Mapping[str, Any]) -> str:
    """Say what one more meter would bring."""
    told, checked, split = proposal["made_observable"], proposal["newly_checked"], proposal["groups_resolved"]
    gains = []
    if told:
        others = [_place(place) for place in told if _place(place) != _place(proposal)]
        more = f" and {len(others) - PLACES} more" if len(others) > PLACES else ""
        also = f", and with it {', '.join(others[:PLACES])}{more}" if others else ""
        gains.append(f"tells what nothing tells now{also}")
    if checked:
        gains.append(f"{_count(checked, 'meters')} newly checked, itself included")
    if split:
        gains.append(f"{_count(split, 'groups')} told apart")
    if not told:
        own, every = proposal["drop_percent"], proposal["sharper_percent"]
        gains.append(f"u95 falls by {own:.0f} % there, by {every:.1f} % in the mean of all")
    sure = "" if proposal["u95_percent"] is None else f" with u95 {proposal['u95_percent']:.2g} %"
    return f"{_place(proposal)}{sure}: {'; '.join(gains)}"


def _place(place: Mapping[str, Any]) -> str:
    side = "" if place["side"] == "sender" else " at the receiver"
    return f"{place['quantity']} of {place['stream']}{side}"


def _exchange_table(exchanges: Sequence[Mapping[str, Any]], width: int | None) -> Iterator[str]:
    head = ("exchange", "kind", "from", "to", "settles", "metered", "streams")
    rows = [
        (
            row["exchange"],
            row["kind"],
            row["from"] or "-",
            row["to"] or "-",
            f"{row['settles']} in {row['unit']}",
            "both ends" if len(row["metered"]) > 1 else " ".join(row["metered"]) or "-",
            " ".join(
                f"{'' if sign == 1 else '-' if sign == -1 else f'{sign:g} '}{stream}"
                for stream, sign in row["streams"].items()
            )
            or "-",
        )
        for row in exchanges
    ]
    yield from table([head, *rows], NUMBERS, width)


def _count(number: int, kind: str) -> str:
    return f"{number} {kind.removesuffix('s') if number == 1 else kind}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{0.0 if abs(value) < NOTHING else value:.4g}"


def _percent(u95: float | None, expected: float | None) -> str:
    if u95 is None or expected is None or u95 > abs(expected):
        return "-"  # more than all of it: a percentage would tell nothing
    return f"{100.0 * u95 / abs(expected):.2g}" if expected else "0"
