"""The order of one edge node's messages: `seq` runs from 0 to 255 and around.

    offer ──► in turn: it, and what was held behind it
              late or repeated: it, if it is DATA
              ahead: held, until what is missing comes, or `give_up`

Pure: the clock is passed in. What the messages mean is in `host`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

QUALITY = b"Quality"
SEQUENCE = 256                      # seq runs from 0 to 255
LATE_WITHIN = 16                    # so many behind is a late or repeated message; more is taken for a gap
REORDER_S = 2.0                     # wall; what is missing for longer will not come
MOST_HELD = 128                     # messages of a node that wait for a missing one


class Message(NamedTuple):
    """A decoded message of a node or device.

    Attributes
    ----------
    kind
        ``NBIRTH``, ``DDATA``, ...
    device
        Empty for the node itself.
    payload
        Its fields (`wire.Payload`).
    received_us
        Its arrival on the run's clock [us].
    topic, raw
        As they came, for what cannot be read.
    """

    kind: str
    device: str
    payload: Any
    received_us: int
    topic: str = ""
    raw: bytes = b""

    @property
    def tells_quality(self) -> bool:
        """Whether any of its metrics may have a property `Quality`."""
        return QUALITY in self.raw


class Order:
    """What is expected next from a node, and what waits for it.

    Attributes
    ----------
    expected
        The next seq; None: no BIRTH yet.
    held
        Messages that are ahead, by seq.
    give_up_at
        When what is missing will not be waited for any longer [monotonic s].
    """

    def __init__(self) -> None:
        self.expected: int | None = None
        self.held: dict[int, Message] = {}
        self.give_up_at = math.inf

    @property
    def is_full(self) -> bool:
        """Whether no more can be held."""
        return len(self.held) >= MOST_HELD

    def offer(self, message: Message, now: float) -> Iterator[Message]:
        """Yield what is to be applied now that this message has come; each before the next is looked for."""
        if not message.payload.HasField("seq"):
            yield message
            return
        assert self.expected is not None
        seq = int(message.payload.seq) % SEQUENCE
        ahead = (seq - self.expected) % SEQUENCE
        if ahead == 0:
            self.expected = (seq + 1) % SEQUENCE
            yield message
            yield from self.release()
        elif ahead >= SEQUENCE - LATE_WITHIN:
            if message.kind.endswith("DATA"):       # late or repeated: a reading by its own time all the same
                yield message
        else:
            self.held[seq] = message
            self.give_up_at = min(self.give_up_at, now + REORDER_S)

    def release(self) -> Iterator[Message]:
        """Yield what was held and is in turn."""
        while self.expected is not None and (message := self.held.pop(self.expected, None)) is not None:
            self.expected = (self.expected + 1) % SEQUENCE
            yield message
        if not self.held:
            self.give_up_at = math.inf

    def skip(self) -> Iterator[Message]:
        """Yield what was held in its order, over whatever is missing between."""
        while self.held and (expected := self.expected) is not None:
            self.expected = min(self.held, key=lambda seq: (seq - expected) % SEQUENCE)
            yield from self.release()

    def withhold(self, timestamp_ms: int) -> dict[int, Message]:
        """Take out and return what is held and is not older than a birth: it belongs to the life that begins."""
        overtook = {seq: held for seq, held in self.held.items() if held.payload.timestamp >= timestamp_ms}
        self.held = {seq: held for seq, held in self.held.items() if seq not in overtook}
        return overtook

    def begin(self, seq: int, overtook: dict[int, Message], now: float) -> None:
        """Begin a life with the seq of its birth; `overtook` came before it."""
        self.expected = (seq + 1) % SEQUENCE
        self.held = overtook
        self.give_up_at = now + REORDER_S if overtook else math.inf

    def end(self) -> None:
        """End a life."""
        self.expected, self.held, self.give_up_at = None, {}, math.inf
