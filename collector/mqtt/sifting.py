"""The PUBLISHes of a connection, taken out of its stream before paho sees it: many at each look at the socket.

    socket ──► recv, 64 KiB ──► PUBLISH at QoS 0 and 1 ──► on_publishes, all of one look at once
                                everything else ─────────► paho, which reads it as from any socket

paho asks the socket three times for each packet and waits for it once, which costs more than all that becomes of a
reading here. Connecting, keep-alive, subscriptions and whatever is not well-formed stay paho's. `SiftingClient` is the
way in; what is a session and what is acknowledged is in `link`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTProtocolVersion

LOOK_BYTES = 1 << 16            # at most taken from the socket at once
_PUBLISH = 0x30                 # MQTT 3.3.1: type and flags of the first byte
_TYPE, _QOS, _RETAIN = 0xF0, 0x06, 0x01
_ONE, _TWO = 0x02, 0x04         # of `_QOS`
_LONGEST_LENGTH = 4             # bytes of a remaining length (MQTT 1.5.5)
_PUBACK = b"\x40\x02"          # MQTT 3.4, 3.7: type, length of the packet id behind it; in version 5 that is success
_PUBCOMP = b"\x70\x02"
NOT_UTF8 = "(a topic that is not UTF-8)"


class Publish(NamedTuple):
    """A message as it came; `receipt` is the packet that acknowledges it, empty at QoS 0."""

    topic: str
    payload: bytes
    receipt: bytes
    retained: bool


class SiftingClient(paho.Client):
    """A paho client whose messages go to `on_publishes`, in paho's thread, and are to be acknowledged by hand.

    Those at QoS 2, which nobody here subscribes, paho reads; at malformed ones it ends the connection.
    """

    on_publishes: Callable[[Sequence[Publish]], None] | None = None

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self.on_message = self._take_read

    def _create_socket(self) -> Any:
        """Return the connection's socket, sifted."""
        return SiftedSocket(super()._create_socket(), self._take, self._protocol == MQTTProtocolVersion.MQTTv5)

    def _take(self, found: Sequence[Publish]) -> None:
        """Hand messages on; for the keep-alive, the broker was heard."""
        self._last_bytes_received = time.monotonic()
        if self.on_publishes is not None:
            self.on_publishes(found)

    def _take_read(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        """Hand on a message that paho has read."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = NOT_UTF8
        receipt = (_PUBACK if message.qos == 1 else _PUBCOMP) + message.mid.to_bytes(2)
        self._take([Publish(topic, bytes(message.payload), receipt if message.qos else b"", message.retain)])


class SiftedSocket:
    """A socket as paho uses it, without the PUBLISHes.

    Parameters
    ----------
    sock
        The connected socket; it is closed with this one.
    on_publishes
        Called by whoever reads, with the messages of one look at the socket, in order, before what else came with them.
    has_properties
        Whether PUBLISHes have properties (MQTT 5); they are passed over.
    """

    def __init__(self, sock: Any, on_publishes: Callable[[Sequence[Publish]], None], has_properties: bool) -> None:
        self._sock = sock
        self._on_publishes = on_publishes
        self._has_properties = has_properties
        self._for_paho = bytearray()
        self._begun = bytearray()           # a packet whose end has not come
        self._whole_at = 0                  # bytes of it that make it whole, as far as that is known
        self.setblocking = sock.setblocking
        self.send = sock.send
        self.close = sock.close
        self.shutdown = sock.shutdown
        self.fileno = sock.fileno

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes of what is paho's; none at the end of the stream.

        Raises
        ------
        BlockingIOError, OSError
            If there is nothing now; what the socket raises.
        """
        if not self._for_paho:
            data = self._sock.recv(LOOK_BYTES)
            if not data:
                return b""
            self._look(data)
            if not self._for_paho:
                raise BlockingIOError
        taken = bytes(self._for_paho[:size])
        del self._for_paho[:size]
        return taken

    def pending(self) -> int:
        """Return how many bytes can be had without waiting for the network."""
        return len(self._for_paho) + (self._sock.pending() if hasattr(self._sock, "pending") else 0)

    def _look(self, data: bytes) -> None:
        """Take in bytes of the stream."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._whole_at:
                return
            data = bytes(self._begun)
            self._begun.clear()
        found: list[Publish] = []
        begun_at, self._whole_at = self._sift(data, found)
        if begun_at < len(data):
            self._begun += data[begun_at:]
        if found:
            self._on_publishes(found)

    def _sift(self, data: bytes, found: list[Publish]) -> tuple[int, int]:
        """Sort whole packets; return where one begins that is not whole, and how long it will be, as far as known."""
        at, end = 0, len(data)
        while at + 1 < end:
            body, length = at + 2, data[at + 1]
            if length & 0x80:
                body, length = _length(data, at + 1)
                if body == 0 and end - at > _LONGEST_LENGTH:    # none is so long: paho ends the connection
                    self._for_paho += data[at:]
                    return end, 0
                if body == 0:
                    break
            if body + length > end:
                return at, body + length - at
            publish = self._publish(data, at, body, body + length) if data[at] & _TYPE == _PUBLISH else None
            if publish is None:
                self._for_paho += data[at : body + length]
            else:
                found.append(publish)
            at = body + length
        return at, 0

    def _publish(self, data: bytes, at: int, body: int, end: int) -> Publish | None:
        """Return the PUBLISH that begins at `at` and whose fields are from `body` to `end`; None: it is paho's."""
        flags = data[at]
        topic_at = body + 2
        after = topic_at + (data[body] << 8 | data[body + 1]) if topic_at <= end else end + 1
        payload_at = after + 2 if flags & _ONE else after
        if flags & _TWO or after == topic_at or payload_at > end:
            return None
        receipt = _PUBACK + data[after:payload_at] if flags & _ONE else b""
        if self._has_properties:
            payload_at = _after_properties(data, payload_at)
            if not after < payload_at <= end:
                return None
        try:
            topic = data[topic_at:after].decode()
        except UnicodeDecodeError:
            topic = NOT_UTF8
        return Publish(topic, data[payload_at:end], receipt, flags & _RETAIN == _RETAIN)


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Return where a length of variable size ends, and the length; (0, 0) if it does not end in the bytes or at all."""
    length = 0
    for place, byte in enumerate(data[at : at + _LONGEST_LENGTH]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return at + place + 1, length
    return 0, 0


def _after_properties(data: bytes, at: int) -> int:
    """Return where the properties that begin at `at` end; 0 if their length does not."""
    after, length = _length(data, at)
    return after + length if after else 0
