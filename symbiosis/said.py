"""What a service that is run by hand says of itself, in words: one line for each state that it comes to.

Here: the words. Not here: the states, which the services tell (`simulators.serve`, `collector.agent`,
`processing.cycle`), and when they are logged (`symbiosis.service`). The main path enters at `in_words`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Detail = Mapping[str, object]

PROTOCOLS = {"opcua": "OPC UA", "mqtt": "MQTT", "sparkplug": "Sparkplug"}


def in_words(state: str, detail: Detail) -> str:
    """Return the line for a state; of one without words the state and what is known of it."""
    words = _WORDS.get(state)
    return words(detail) if words is not None else " ".join([state, *(f"{key}={v}" for key, v in detail.items())])


def _serving(detail: Detail) -> str:
    endpoints = detail.get("endpoints")
    at = sorted(set(endpoints.values())) if isinstance(endpoints, Mapping) else []
    return f"serving {_meters(detail)}" + (f"; OPC UA at {', '.join(at)}" if at else "")


def _armed(detail: Detail) -> str:
    if "sent" in detail:        # of simulators: the plant was played up to here, now it counts
        return "readings count from now on, and the schedule of faults begins"
    return f"every subscription is in force: {_meters(detail)}"


def _drained(detail: Detail) -> str:
    if any(detail.values()):
        return "stopped, before everything was delivered"
    return "stopped, and everything that was sent is delivered"


def _waiting(detail: Detail) -> str:
    away = detail.get("for", "the database")        # processing waits for nothing else
    return f"waiting for {', '.join(map(str, away)) if isinstance(away, Mapping) else away}"


def _not_collected(detail: Detail) -> str:
    if not detail.get("count"):
        return "no meter is refused any more"
    some = detail.get("meters")
    why = "; ".join(f"{meter}: {reason}" for meter, reason in some.items()) if isinstance(some, Mapping) else ""
    return f"meters that are refused: {detail['count']} ({why})"


def _meters(detail: Detail) -> str:
    """Return how many meters there are by protocol."""
    counts = [f"{detail[key]} over {name}" for key, name in PROTOCOLS.items() if detail.get(key)]
    return f"meters: {', '.join(counts) or 'none'}"


_WORDS: Mapping[str, Callable[[Detail], str]] = {
    "serving": _serving,
    "armed": _armed,
    "on_time": lambda _: "on the run clock again",
    "drained": _drained,
    "connecting": lambda detail: f"connecting: {detail.get('receiving')} of {detail.get('of')} sources receive",
    "waiting": _waiting,
    "collecting": lambda _: "collecting",
    "not_collected": _not_collected,
    "ready": lambda detail: f"ready: {detail.get('streams')} streams, {detail.get('meters')} meters",
    "processing": lambda _: "processing",
    "window": lambda detail: f"the first window is stored: {detail.get('readings')} readings, "
                             f"{detail.get('reconciled')} flows reconciled",
    "metrics": lambda detail: f"metrics and health at {detail.get('url')}",
}
