"""Checks of the section `servers`, and of what OPC UA meters ask of their server."""

from __future__ import annotations

from collections.abc import Iterator

from park.checks.sources import is_endpoint
from park.draft import Draft, Item, Path
from park.entry import Entry
from park.errors import Fault
from park.servers import Deadband, OpcuaServer
from park.wording import number, show

_OPCUA: Path = ("source", "opcua")


def check_for_wrong_server_endpoints(draft: Draft) -> Iterator[Fault]:
    """Find an endpoint that is no opc.tcp URL, or says who we are: park.yaml is stored and shown."""
    for item in _sound(draft, "endpoint"):
        address = item.entry.endpoint.rpartition("@")[2]
        if "@" in item.entry.endpoint:
            yield item.key_fault(
                ("endpoint",), f"must hold no user or password, got them before {show(address)}",
                "write user: NAME and password: {env: PLANT_PASSWORD}")
        elif not is_endpoint(item.entry.endpoint):
            yield item.key_fault(
                ("endpoint",), f"must be an opc.tcp URL, got {show(item.entry.endpoint)}",
                "such as opc.tcp://127.0.0.1:4840")


def check_for_servers_that_are_the_same(draft: Draft) -> Iterator[Fault]:
    """Find two entries for one endpoint."""
    first: dict[str, Item[OpcuaServer]] = {}
    for item in _sound(draft, "endpoint"):
        earlier = first.setdefault(item.entry.endpoint, item)
        if earlier is not item:
            yield item.key_fault(
                ("endpoint",), f"is that of {earlier.subject} too, at {earlier.file}:{earlier.line(('endpoint',))}",
                "make them one entry")


def check_for_servers_without_meters(draft: Draft) -> Iterator[Fault]:
    """Find settings for a server that no meter names: a slip in its endpoint would leave a server without security."""
    if "meters" in draft.wrong_sections:
        return
    used = {item.entry.source.opcua.endpoint: None for item in draft.meters
            if item.sound("source") and item.entry.source.opcua is not None}
    for item in _sound(draft, "endpoint"):
        if item.entry.endpoint not in used and is_endpoint(item.entry.endpoint) and "@" not in item.entry.endpoint:
            hint = draft.speller.did_you_mean(item.entry.endpoint, list(used), of="endpoints")
            yield item.key_fault(
                ("endpoint",), f"must be the endpoint of a meter, got {show(item.entry.endpoint)}",
                hint or "write it as the meters do, or leave the entry out")


def check_for_security_that_is_half(draft: Draft) -> Iterator[Fault]:
    """Find a mode without a policy, and a policy whose mode takes it back."""
    for item in _sound(draft, "security_policy", "security_mode"):
        policy, mode = item.entry.security_policy, item.entry.security_mode
        if policy == "None" and mode not in (None, "None"):
            yield item.key_fault(
                ("security_mode",), f"needs a security_policy, got {show(mode)} without one",
                "such as security_policy: Basic256Sha256")
        elif policy != "None" and mode == "None":
            yield item.key_fault(
                ("security_mode",), f"must be Sign or SignAndEncrypt with security_policy {policy}, got 'None'",
                "leave it out: it is SignAndEncrypt then")


def check_for_users_that_are_half(draft: Draft) -> Iterator[Fault]:
    """Find a user without password, a password without user, half a certificate, and two ways to say who we are."""
    for item in _sound(draft, "user", "password", "user_cert_file", "user_key_file", "user_key_password"):
        server = item.entry
        if server.password is not None and server.user is None:
            yield item.key_fault(("password",), "needs a user", "write user: NAME beside it")
        elif server.user is not None and server.password is None:
            yield item.key_fault(("user",), "needs a password", "such as password: {env: PLANT_PASSWORD}")
        if (server.user_cert_file is None) != (server.user_key_file is None):
            there, missing = ("user_cert_file", "user_key_file")[:: 1 if server.user_key_file is None else -1]
            yield item.key_fault((there,), f"needs a {missing}", "a user's certificate works with its key alone")
        elif server.user_cert_file is not None and server.user is not None:
            yield item.key_fault(
                ("user_cert_file",), "and user exclude each other", "a server takes one of the two for who we are")
        elif server.user_key_password is not None and server.user_key_file is None:
            yield item.key_fault(("user_key_password",), "needs a user_key_file", "it opens that key")


def check_for_server_deadbands(draft: Draft) -> Iterator[Fault]:
    """Find a deadband that is neither absolute nor in percent, or both."""
    for item in _sound(draft, "deadband"):
        yield from _wrong_deadband(item, ("deadband",), item.entry.deadband)


def check_for_meter_deadbands(draft: Draft) -> Iterator[Fault]:
    """Find a deadband that is not one, or stands at a meter whose every reading is waited for."""
    for item in draft.meters:
        opcua = item.entry.source.opcua
        if not item.sound("source") or opcua is None or opcua.deadband is None:
            continue
        yield from _wrong_deadband(item, (*_OPCUA, "deadband"), opcua.deadband)
        if item.sound("sampling") and item.entry.sampling == "periodic":
            yield item.key_fault(
                (*_OPCUA, "deadband"), "needs sampling on_change: of a periodic meter every reading is waited for",
                "write sampling: on_change, or leave the deadband out")


def check_for_sampling_that_passes_readings_over(draft: Draft) -> Iterator[Fault]:
    """Find a sampling interval longer than that in which the readings of a periodic meter come."""
    for item in draft.meters:
        opcua = item.entry.source.opcua
        if not item.sound("source", "interval_s", "sampling") or opcua is None or item.entry.sampling != "periodic":
            continue
        asked_ms, interval_ms = opcua.sampling_interval_ms, 1000.0 * item.entry.interval_s
        if asked_ms is not None and asked_ms > interval_ms:
            yield item.key_fault(
                (*_OPCUA, "sampling_interval_ms"),
                f"must not be above the interval_s of {number(item.entry.interval_s)} s, got {number(asked_ms)}",
                "the server would pass readings over; half the interval is the default")


def _wrong_deadband(item: Item[Entry], path: Path, deadband: Deadband | None) -> Iterator[Fault]:
    if deadband is not None and (deadband.absolute is None) == (deadband.percent is None):
        yield item.key_fault(path, "must be absolute or percent", "such as {absolute: 0.5} or {percent: 1}")


def _sound(draft: Draft, *keys: str) -> Iterator[Item[OpcuaServer]]:
    """Yield the servers whose `keys` have no fault yet."""
    for item in draft.servers:
        if item.sound(*keys):
            yield item
