"""Which brokers a park's meters are at, who we are to them, and how they prove who they are.

`brokers_of` is the way in: everything that can be wrong with settings, secrets and certificates is found here, before
any connection is made. The connection is in `link`.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from park.brokers import MqttBroker, Tls, Version, address_of
from park.errors import InputError
from park.model import Meter, Park

KEEP_ALIVE_S = 10               # a broker that is gone without a word is noticed within twice this
RECEIVE_MAXIMUM = 1_000         # messages that a broker of version 5 sends ahead of their acknowledgement
NEVER = 0xFFFFFFFF              # MQTT 5, 3.1.2.11.2: the session does not expire, as in 3.1.1
_WORDS = {"mqtt": "MQTT", "sparkplug": "Sparkplug"}


class _Socket(ssl.SSLSocket):
    """One that a failed handshake closes: paho leaves it to its finaliser."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True)
class Broker:
    """Where the broker is, and who we are to it.

    Attributes
    ----------
    client_id
        Fixed over restarts: the broker keeps the session under it.
    tls
        How it is connected to; None: without TLS.
    entry
        The entry of park.yaml that all this comes from; None: from a URL. Two brokers of one entry are the same.
    """

    host: str
    port: int
    client_id: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    version: Version = "3.1.1"
    keep_alive_s: int = KEEP_ALIVE_S
    session_expiry_s: int = NEVER
    receive_maximum: int = RECEIVE_MAXIMUM
    shared_group: str | None = None
    entry: MqttBroker | None = None

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


def broker_of(url: str, park_name: str) -> Broker:
    """Return the broker of ``mqtt[s]://[user[:password]@]host[:port][?client_id=ID]``.

    Without a client id in the URL it follows from the park's name, so that it is the same on any machine.

    Raises
    ------
    InputError
        If the URL is malformed; the text holds no password.
    """
    address = address_of(url)
    return Broker(
        address.host, address.port, address.client_id or default_client_id(park_name), address.user, address.password,
        context(Tls(), f"broker {address.host}") if address.tls else None)


def configured(entry: MqttBroker, park_name: str) -> Broker:
    """Return the broker of an entry, with its secrets read and its certificates loaded.

    Raises
    ------
    InputError
        If a secret or a certificate is not there, or none.
    """
    address = address_of(entry.url)
    client_id = entry.client_id or default_client_id(f"{park_name}/{entry.id}")
    if entry.shared_group is not None:          # collectors that share the messages share this file, not the session
        client_id = f"{client_id}-{socket.gethostname()}"
    return Broker(
        address.host, address.port, client_id, entry.user,
        None if entry.password is None else entry.password.read(f"{entry.name}: password"),
        context(entry.tls or Tls(), entry.name) if address.tls else None, entry.version, entry.keepalive_s,
        entry.session_expiry_s or NEVER, entry.receive_maximum or RECEIVE_MAXIMUM, entry.shared_group, entry)


def context(tls: Tls, name: str) -> ssl.SSLContext:
    """Return how TLS is spoken: at least 1.2, the broker's certificate checked, ours shown if there is one.

    Raises
    ------
    InputError
        If a file cannot be read, or holds no certificate or key.
    """
    try:
        made = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: tls.ca_file: cannot read {tls.ca_file!r}: {_reason(error)}") from None
    made.sslsocket_class = _Socket
    made.check_hostname = tls.check_name
    if tls.cert_file is not None:
        password = None if tls.key_password is None else tls.key_password.read(f"{name}: tls.key_password")
        try:
            # without a password openssl would ask for one at the terminal
            made.load_cert_chain(tls.cert_file, tls.key_file, password=password or "")
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: tls: cannot use {tls.cert_file!r} with {tls.key_file!r}: "
                             f"{_reason(error)}") from None
    return made


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return "no certificate or key in PEM, or they do not belong together, or the key's password is wrong"
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


def brokers_of(park: Park, given: str | None = None) -> Mapping[str, Broker]:
    """Return the broker of each source of a park that is at one, by the source's name.

    Parameters
    ----------
    park
        The park.
    given
        The URL of the broker of meters that name none; without one it is the only entry of the park.

    Raises
    ------
    InputError
        If there is no broker for a meter, a setting is wrong, or two would throw each other out.
    """
    entries = {entry.id: entry for entry in park.brokers}
    made: dict[str, Broker] = {}
    for meter in park.meters:
        name = meter.source.name
        if meter.source.opcua is not None or name in made:
            continue
        entry = _entry_of(meter, entries, given)
        made[name] = broker_of(given or "", park.park.name) if entry is None else configured(entry, park.park.name)
    _check_apart(made)
    return made


def _entry_of(meter: Meter, entries: Mapping[str, MqttBroker], given: str | None) -> MqttBroker | None:
    """Return the entry that a meter's readings come from; None: from the broker that is given."""
    source = meter.source.mqtt or meter.source.sparkplug
    assert source is not None
    if source.broker is not None:
        return entries[source.broker]
    if given:
        return None
    if len(entries) == 1:
        return next(iter(entries.values()))
    protocol = _WORDS["mqtt" if meter.source.mqtt is not None else "sparkplug"]
    if not entries:
        raise InputError(f"the park has {protocol} meters, but no broker is given (hint: --broker mqtt://host:port)")
    raise InputError(f"meter {meter.id!r} names none of the brokers {', '.join(entries)} "
                     "(hint: name one in its source, or give --broker for those that name none)")


def _check_apart(brokers: Mapping[str, Broker]) -> None:
    """Refuse two sources of one protocol that would take each other's session."""
    seen: dict[tuple[str, str, int, str], str] = {}
    for name, broker in brokers.items():
        key = name.partition(":")[0], broker.host, broker.port, broker.client_id
        if key in seen:
            raise InputError(
                f"sources {seen[key]} and {name} are at {broker} under one client id, {broker.client_id}: they would "
                "throw each other out (hint: name the broker at every meter, or at none)")
        seen[key] = name


def default_client_id(park_name: str) -> str:
    """Return the client id of a park's collector."""
    return f"symbiosis-collector-{hashlib.sha256(park_name.encode()).hexdigest()[:12]}"
