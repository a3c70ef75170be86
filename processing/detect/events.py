"""What detectors tell: an event opened, an event closed; and how a condition becomes one.

Here: the two kinds of change, `Alarm` (delays on and off), severities. Not here: the conditions, one module each
beside this one, and the store's rows. The main path enters at `Alarm.updated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["low", "medium", "high", "critical"]
Scalar = float | int | str | bool | None
Evidence = Mapping[str, object]


@dataclass(frozen=True)
class Opened:
    """An event begins.

    Attributes
    ----------
    kind, subject, aspect
        What it is about; `aspect` is what of the subject where it can have several at once (a quality property).
    started_at_us
        When it began, not when it was found [us since 1970 UTC].
    severity
        How much it matters.
    value, limit
        What was found and what it was held against, in the unit of the message; None where there is no number.
    message
        One sentence in operators' words.
    evidence
        What the verdict rests on; numbers, texts and lists of them alone.
    """

    kind: str
    subject: str
    started_at_us: int
    severity: Severity
    message: str
    value: float | None = None
    limit: float | None = None
    aspect: str = ""
    evidence: Evidence = field(default_factory=dict)


@dataclass(frozen=True)
class Closed:
    """An event ends."""

    kind: str
    subject: str
    ended_at_us: int
    aspect: str = ""


Change = Opened | Closed


@dataclass(frozen=True)
class Alarm:
    """A condition with delays: it must last before it counts, and be over for as long before it ends.

    Attributes
    ----------
    is_open
        Whether the event is open.
    since_us
        Since when the condition has been against the state (true while closed, false while open); None: it is not.
    """

    is_open: bool = False
    since_us: int | None = None

    def updated(self, condition: bool | None, start_us: int, end_us: int, delays_us: tuple[int, int]) -> Alarm:
        """Return the alarm after a window; None as condition changes nothing.

        Parameters
        ----------
        condition
            Whether it holds in the window; None where nothing is known.
        start_us, end_us
            The window [us].
        delays_us
            How long the condition must hold, and be over, before it counts [us].

        Examples
        --------
        >>> first = Alarm().updated(True, 0, 20, (40, 40))
        >>> second = first.updated(True, 20, 40, (40, 40))
        >>> first.is_open, second.is_open, second.changed_at(first)
        (False, True, 0)
        """
        if condition is None:
            return self
        if condition == self.is_open:
            return Alarm(self.is_open)
        since = start_us if self.since_us is None else self.since_us
        delay = delays_us[1] if self.is_open else delays_us[0]
        if end_us - since >= delay:
            return Alarm(not self.is_open)
        return Alarm(self.is_open, since)

    def changed_at(self, before: Alarm, start_us: int = 0) -> int:
        """Return since when the state that `before` left had been untrue [us]; `start_us` where it began just now."""
        return start_us if before.since_us is None else before.since_us

    def as_json(self) -> list[object]:
        """Return the alarm for the store."""
        return [self.is_open, self.since_us]

    @classmethod
    def from_json(cls, stored: list[object]) -> Alarm:
        """Return the alarm that `as_json` wrote."""
        is_open, since = stored
        return cls(bool(is_open), since if isinstance(since, int) else None)
