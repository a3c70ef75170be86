"""Checks of the section `brokers`, and of the meters that name one."""

from __future__ import annotations

from collections.abc import Iterator

from park.brokers import MqttBroker, address_of, shown
from park.draft import Draft, Item
from park.errors import Fault, InputError
from park.wording import show

MAX_TEXT = 65_535           # bytes; MQTT 3.1.1 and 5, section 1.5
OF_VERSION_5 = ("session_expiry_s", "receive_maximum")


def check_for_wrong_broker_urls(draft: Draft) -> Iterator[Fault]:
    """Find a URL that leads to no broker."""
    for item in _sound(draft, "url"):
        try:
            address_of(item.entry.url)
        except InputError:
            yield item.key_fault(
                ("url",), f"must be mqtt://host:port or mqtts://host:port, got {show(shown(item.entry.url))}",
                "such as mqtts://broker.plant:8883")


def check_for_broker_urls_with_more_than_the_address(draft: Draft) -> Iterator[Fault]:
    """Find a URL that says who we are: park.yaml is stored and shown, so a password must not stand in it."""
    for item in _sound(draft, "url"):
        if "@" in item.entry.url:
            yield item.key_fault(
                ("url",), f"must hold no user or password, got them before {show(shown(item.entry.url))}",
                "write user: NAME and password: {env: PLANT_PASSWORD}")
        elif "?" in item.entry.url:
            yield item.key_fault(
                ("url",), f"must be the address alone, got {show(item.entry.url)}", "client_id has a key of its own")


def check_for_wrong_broker_texts(draft: Draft) -> Iterator[Fault]:
    """Find a client id or user that MQTT cannot carry, or a group that cannot be part of a topic."""
    for item in draft.brokers:
        for key in ("client_id", "user", "shared_group"):
            text = getattr(item.entry, key) if item.sound(key) else None
            if text is None:
                continue
            if not 0 < len(text.encode()) <= MAX_TEXT or "\0" in text:
                yield item.key_fault((key,), f"must have 1 to {MAX_TEXT} bytes, got {show(text)}", "leave the key out")
            elif key == "shared_group" and any(sign in text for sign in "/+#"):
                yield item.key_fault(
                    (key,), f"must be a name without /, + and #, got {show(text)}",
                    "it is one level of $share/GROUP/TOPIC")


def check_for_broker_settings_of_version_5(draft: Draft) -> Iterator[Fault]:
    """Find what only MQTT 5 can say to a broker."""
    for item in _sound(draft, "version"):
        if item.entry.version == "5":
            continue
        for key in OF_VERSION_5:
            if item.sound(key) and getattr(item.entry, key) is not None:
                yield item.key_fault((key,), "needs MQTT 5", "write version: 5, if the broker speaks it")


def check_for_broker_passwords_without_user(draft: Draft) -> Iterator[Fault]:
    """Find a password without a user, which MQTT 3.1.1 cannot send."""
    for item in _sound(draft, "password", "user"):
        if item.entry.password is not None and item.entry.user is None:
            yield item.key_fault(("password",), "needs a user", "write user: NAME beside it")


def check_for_tls_without_mqtts(draft: Draft) -> Iterator[Fault]:
    """Find settings of TLS for a connection without it."""
    for item in _sound(draft, "url", "tls"):
        if item.entry.tls is not None and item.entry.url.startswith("mqtt://"):
            yield item.key_fault(
                ("tls",), f"needs an mqtts URL, got {show(shown(item.entry.url))}",
                "write mqtts://, whose port is 8883, or leave tls out")


def check_for_halves_of_a_certificate(draft: Draft) -> Iterator[Fault]:
    """Find a certificate of ours without its key, a key without its certificate, a password of no key."""
    for item in _sound(draft, "tls"):
        tls = item.entry.tls
        if tls is None:
            continue
        if (tls.cert_file is None) != (tls.key_file is None):
            missing = "key_file" if tls.key_file is None else "cert_file"
            yield item.key_fault(("tls",), f"lacks {missing}", "mutual TLS needs our certificate and its key")
        elif tls.key_password is not None and tls.key_file is None:
            yield item.key_fault(("tls", "key_password"), "needs a key_file", "it opens our key")


def check_for_brokers_that_are_the_same(draft: Draft) -> Iterator[Fault]:
    """Find two entries that would throw each other out: one client id at one address."""
    first: dict[tuple[str, str], Item[MqttBroker]] = {}
    for item in _sound(draft, "url", "client_id"):
        if item.entry.client_id is None:
            continue
        earlier = first.setdefault((item.entry.url, item.entry.client_id), item)
        if earlier is not item:
            yield item.key_fault(
                ("client_id",), f"is that of {earlier.subject} too, at the same broker",
                "a broker has one session for one client id: give each its own, or make them one entry")


def check_for_unknown_brokers(draft: Draft) -> Iterator[Fault]:
    """Find a meter that names a broker which is not there."""
    if "brokers" in draft.wrong_sections:
        return
    for item in draft.meters:
        source = item.entry.source
        for protocol in ("mqtt", "sparkplug"):
            named = getattr(source, protocol)
            if named is None or not item.sound("source") or named.broker is None or named.broker in draft.broker:
                continue
            hint = draft.speller.did_you_mean(named.broker, list(draft.broker), of="brokers") or (
                f"known are {', '.join(draft.broker)}" if draft.broker else
                f"such as brokers: [{{id: {named.broker}, url: mqtt://broker.plant}}]")
            yield item.key_fault(
                ("source", protocol, "broker"), f"must be the id of a broker, got {show(named.broker)}", hint)


def _sound(draft: Draft, *keys: str) -> Iterator[Item[MqttBroker]]:
    """Yield the brokers whose `keys` have no fault yet."""
    for item in draft.brokers:
        if item.sound(*keys):
            yield item
