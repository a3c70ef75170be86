"""Which notifications of a subscription came, which of them are durable, and what the server may let go.

Pure bookkeeping of sequence numbers (OPC 10000-4, 7.25): they start at 1, go up by one a notification, and 0 is left
out when they wrap. A server keeps a notification for being asked for again until its number is acknowledged, or until
its queue for that is full. Who asks is `opcua.publishing`.
"""

from __future__ import annotations

from collections.abc import Iterable

LAST = 0xFFFFFFFF
MOST_MISSING = 10_000       # asked for again one by one; asyncua's server keeps 5,000, node-opcua's 100


def following(number: int) -> int:
    """Return the sequence number after this one."""
    return number % LAST + 1


class Receipts:
    """What came of one subscription.

    Parameters
    ----------
    next
        Number of the next notification; None: whatever comes is the first.

    Attributes
    ----------
    next
        As above.
    durable_to
        Number of the latest notification whose readings are durable, with those of all before it; 0: none.
    """

    def __init__(self, next: int | None = None) -> None:
        self.next = next
        self.durable_to = 0
        self._to_acknowledge: list[int] = []

    def missing_before(self, number: int) -> list[int]:
        """Return the numbers that should have come before this one, at most the latest `MOST_MISSING` of them."""
        count = self._ahead(number)
        first = max(0, count - MOST_MISSING)
        return [self._after_next(steps) for steps in range(first, count)]

    def is_expected(self, number: int) -> bool:
        """Whether this is the next number, or any may be."""
        return self.next is None or self.next == number

    def skip_to(self, number: int) -> None:
        """Expect this number next: those before it will not come."""
        self.next = number

    def came(self, number: int) -> None:
        """Note that this notification is ours."""
        self.next = following(number)

    def durable(self, number: int) -> None:
        """Note that the readings of this notification are durable; notifications become so in their order."""
        self.durable_to = number
        self._to_acknowledge.append(number)

    def take(self) -> list[int]:
        """Return the numbers to acknowledge; they count as acknowledged unless they are given back."""
        numbers, self._to_acknowledge = self._to_acknowledge, []
        return numbers

    def give_back(self, numbers: Iterable[int]) -> None:
        """Take back numbers of which it is not known whether the server heard; a second time does no harm."""
        self._to_acknowledge[:0] = numbers

    def _ahead(self, number: int) -> int:
        """Return how many notifications are between the last one and this; 0 for a number that came already."""
        if self.next is None or number == 0:
            return 0
        count = (number - self.next) % LAST
        return count if count < LAST // 2 else 0

    def _after_next(self, steps: int) -> int:
        assert self.next is not None
        return (self.next - 1 + steps) % LAST + 1
