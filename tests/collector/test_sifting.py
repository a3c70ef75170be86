"""What is taken out of a broker's stream before paho sees it, held against what paho itself reads."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

import pytest
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from collector.mqtt.sifting import LOOK_BYTES, NOT_UTF8, Publish, SiftedSocket

PINGRESP = b"\xd0\x00"
SUBACK = b"\x90\x03\x00\x07\x01"


class Wire:
    """A socket that gives pieces, and after them an end or nothing."""

    def __init__(self, pieces: Sequence[bytes], *, ends: bool = False) -> None:
        self._pieces = list(pieces)
        self._ends = ends
        self.closed = False

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            if self._ends:
                return b""
            raise BlockingIOError
        piece = self._pieces.pop(0)
        assert len(piece) <= size
        return piece

    def close(self) -> None:
        self.closed = True

    setblocking = send = shutdown = fileno = close


def packet(head: int, body: bytes) -> bytes:
    """A packet with its length."""
    length, encoded = len(body), bytearray()
    while True:
        encoded.append(length % 128 | (0x80 if length >= 128 else 0))
        length //= 128
        if not length:
            return bytes([head]) + bytes(encoded) + body


def publish(topic: bytes, payload: bytes, mid: int = 0, flags: int = 0x02, properties: bytes = b"") -> bytes:
    """A PUBLISH at QoS 1, unless the flags say otherwise."""
    number = struct.pack("!H", mid) if flags & 0x06 else b""
    return packet(0x30 | flags, struct.pack("!H", len(topic)) + topic + number + properties + payload)


def sifted(pieces: Sequence[bytes], *, version_5: bool = False) -> tuple[list[Publish], bytes]:
    """Return the messages in what these pieces hold, and what is left to paho, which reads it byte by byte."""
    found: list[Publish] = []
    sock = SiftedSocket(Wire(pieces), found.extend, version_5)
    left = b""
    for _ in range(sum(map(len, pieces)) + 1):
        try:
            left += sock.recv(1)
        except BlockingIOError:
            continue
    assert sock.pending() == 0
    return found, left


def cut(stream: bytes, dice: random.Random) -> Iterator[bytes]:
    """Yield the stream in pieces of any size."""
    while stream:
        size = dice.choice([1, 2, 3, dice.randrange(1, 200), LOOK_BYTES])
        yield stream[:size]
        stream = stream[size:]


def test_messages_are_taken_out_and_all_else_is_left_in_its_order() -> None:
    stream = (SUBACK + publish(b"a/b", b"1.5", 258) + PINGRESP + publish(b"c", b"", flags=0x00)
              + publish(b"d", b"x", 7, flags=0x0B))
    found, left = sifted([stream])
    assert found == [Publish("a/b", b"1.5", b"\x40\x02\x01\x02", False), Publish("c", b"", b"", False),
                     Publish("d", b"x", b"\x40\x02\x00\x07", True)]
    assert left == SUBACK + PINGRESP


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_messages_of_every_length_of_length_are_whole(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    stream = publish(b"t", payload, 1) + PINGRESP + publish(b"u", b"2", 2)
    found, left = sifted(list(cut(stream, random.Random(5))))
    assert [message.payload for message in found] == [payload, b"2"]
    assert left == PINGRESP


def test_messages_are_the_same_however_the_stream_is_cut() -> None:
    dice = random.Random(7)
    stream, sent, others = b"", [], b""
    for number in range(1, 2_000):
        if dice.random() < 0.1:
            stream += (other := dice.choice([PINGRESP, SUBACK, publish(b"q2", b"x", 9, flags=0x04)]))
            others += other
            continue
        topic, payload = f"plant/{number % 9}", dice.randbytes(dice.choice([0, 5, 90, 400]))
        sent.append((topic, payload, number))
        stream += publish(topic.encode(), payload, number)
    for _ in range(5):
        found, left = sifted(list(cut(stream, dice)))
        assert [(m.topic, m.payload, int.from_bytes(m.receipt[2:])) for m in found] == sent
        assert left == others


def test_properties_of_version_5_are_passed_over() -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("name", "value" * 60)]      # a length of two bytes
    properties.MessageExpiryInterval = 5
    some = [publish(b"t", b"1", 3, properties=properties.pack()), publish(b"t", b"2", 4, properties=b"\x00")]
    found, left = sifted([b"".join(some)], version_5=True)
    assert [(message.payload, message.receipt[2:]) for message in found] == [(b"1", b"\0\3"), (b"2", b"\0\4")]
    assert left == b""


@pytest.mark.parametrize("stream", [
    packet(0x32, b""), packet(0x32, b"\x00"), packet(0x32, b"\x00\x01"), packet(0x32, b"\x00\x01t"),
    packet(0x32, b"\x00\x01t\x00"), packet(0x32, b"\x00\xfft\x00\x01"), publish(b"", b"1", 1),
    publish(b"t", b"1", 1, flags=0x06), b"\x32\xff\xff\xff\xff\x01" + b"x" * 9])
def test_what_is_malformed_is_left_to_paho(stream: bytes) -> None:
    found, left = sifted([stream])
    assert found == []
    assert left == stream


@pytest.mark.parametrize("properties", [b"", b"\x05", b"\x80", b"\xff\xff\xff\xff\x01"])
def test_malformed_properties_are_left_to_paho(properties: bytes) -> None:
    stream = packet(0x32, b"\x00\x01t\x00\x01" + properties)
    assert sifted([stream], version_5=True) == ([], stream)


def test_a_topic_that_is_not_utf8_is_named_so() -> None:
    [message], _ = sifted([publish(b"\xff\xfe", b"1", 1)])
    assert (message.topic, message.receipt) == (NOT_UTF8, b"\x40\x02\x00\x01")


def test_what_is_taken_is_what_paho_reads() -> None:
    dice, taken = random.Random(11), 0
    for _ in range(3_000):
        whole = bytearray(publish(b"t/x", b"payload", 5, dice.randrange(16)))
        for _ in range(dice.randrange(3)):
            whole[dice.randrange(2, len(whole))] = dice.choice([0, 1, 2, 3, 9, 0x7F, 0x80, 0xFF])
        found, left = sifted([bytes(whole)])
        if not found:
            assert left == whole
            continue
        taken += 1
        theirs = decode_publish(whole[0], bytes(whole[2:]), MQTTProtocolVersion.MQTTv311)
        assert found[0].payload == theirs.payload
        assert found[0].topic in (theirs.topic.decode(errors="replace"), NOT_UTF8)
        assert found[0].receipt == (b"\x40\x02" + theirs.mid.to_bytes(2) if theirs.qos else b"")
        assert found[0].retained == theirs.retain
    assert taken > 500


def test_bytes_of_dice_break_nothing_and_none_is_lost() -> None:
    dice = random.Random(3)
    for _ in range(500):
        stream = dice.randbytes(dice.randrange(60))
        found: list[Publish] = []
        sock = SiftedSocket(Wire(list(cut(stream, dice)), ends=True), found.extend, dice.random() < 0.5)
        left = b""
        for _ in range(200):
            try:
                if not (byte := sock.recv(1)):
                    break
                left += byte
            except BlockingIOError:
                continue
        else:
            pytest.fail("the end of the stream is not seen")
        assert len(left) <= len(stream)


def test_the_end_is_the_end_and_closing_closes_the_socket() -> None:
    wire = Wire([PINGRESP], ends=True)
    sock = SiftedSocket(wire, lambda _: None, has_properties=False)
    assert (sock.recv(9), sock.recv(1), sock.recv(1)) == (PINGRESP, b"", b"")
    sock.close()
    assert wire.closed
