"""How MQTT brokers are reached: their URLs, and the entries of the section `brokers` of park.yaml.

Secrets never stand in park.yaml: an entry names the environment variable or file that holds them. Files are relative to
where the service runs. What must hold between the keys is checked in `park.checks.brokers`; the connection itself is
the collector's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BeforeValidator, Field

from park.entry import Entry, Flag
from park.errors import InputError
from park.secret import Secret

PORTS = {"mqtt": 1883, "mqtts": 8883}           # IANA: mqtt, secure-mqtt

Version = Literal["3.1.1", "5"]
Whole = Annotated[int, Field(strict=True, ge=1, le=0xFFFF)]
Expiry = Annotated[int, Field(strict=True, ge=1, le=0xFFFFFFFE)]       # MQTT 5, 3.1.2.11.2; one more is never


@dataclass(frozen=True)
class Address:
    """What a broker's URL says.

    Attributes
    ----------
    tls
        Whether the scheme is `mqtts`.
    user, password, client_id
        None where the URL has none.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str | None = None


def address_of(url: str) -> Address:
    """Return what ``mqtt[s]://[user[:password]@]host[:port][?client_id=ID]`` says.

    Raises
    ------
    InputError
        If the URL is malformed; the text holds no password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:                          # a port that is no number up to 65535, brackets that do not close
        raise _malformed(url) from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0 or parts.path not in ("", "/"):
        raise _malformed(url)
    asked = parse_qs(parts.query, keep_blank_values=True)
    if set(asked) - {"client_id"} or not all(asked.get("client_id", ["-"])):
        raise _malformed(url)
    user, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    return Address(
        parts.hostname, PORTS[parts.scheme] if port is None else port, parts.scheme == "mqtts", user, password,
        asked.get("client_id", [None])[0])


def shown(url: str) -> str:
    """Return a broker's URL without user and password."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else url.rpartition("@")[2]


def _malformed(url: str) -> InputError:
    return InputError(f"broker {shown(url)!r} must be mqtt://host:port or mqtts://host:port")


def _version(value: object) -> object:
    """Take the bare 5 of YAML for the version 5."""
    return "5" if value == 5 and not isinstance(value, bool) else value


class Tls(Entry):
    """How a broker proves who it is, and how we do (mutual TLS)."""

    ca_file: str | None = None                  # PEM; none: the authorities that the system trusts
    check_name: Flag = True                     # the certificate must be that of the host in the URL
    cert_file: str | None = None                # PEM: our certificate, and its key
    key_file: str | None = None
    key_password: Secret | None = None


class MqttBroker(Entry):
    """An MQTT broker."""

    id: str
    url: str
    version: Annotated[Version, BeforeValidator(_version)] = "3.1.1"
    client_id: str | None = None                # fixed over restarts: the broker keeps the session under it
    user: str | None = None
    password: Secret | None = None
    tls: Tls | None = None
    keepalive_s: Whole = 10                     # a broker that is gone without a word is noticed within twice this
    session_expiry_s: Expiry | None = None    # version 5 alone: so long the broker keeps what comes while we are away
    receive_maximum: Whole | None = None        # version 5 alone: messages that it sends ahead of their acknowledgement
    shared_group: str | None = None             # several collectors share the messages; never those of Sparkplug

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"broker {self.id!r}"
