"""Whether a node lives: when it is asked for its BIRTH, and until when it may answer.

    the connection was away, the collector starts,      ┌── it speaks ──────► it lives
    a DEATH that may be of another life ────► asked ────┤
                                                        └── ANSWER_S ───────► it is dead since the doubt began

A broker says at once that a node is gone, but only to those who are connected, and only while it lives itself. So what
was heard of a node before says nothing once either was away. Pure: the clock is passed in; what follows is in `host`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ANSWER_S = 5.0              # wall; a node that lives has answered a request for its BIRTH by then
REBIRTH_S = 10.0            # wall; between two requests to one node, doubled while it does not answer
REBIRTH_LONGEST_S = 600.0


@dataclass
class Doubt:
    """What is not known of one node.

    Attributes
    ----------
    since_us
        From when on nobody knows whether it lives [us]; None: no doubt.
    due_at
        When it is to be asked [monotonic s].
    until
        When it should have answered [monotonic s].
    ask_at, ask_after_s
        From when on a rebirth may be requested, and how long then not again [monotonic s, s].
    """

    since_us: int | None = None
    due_at: float = math.inf
    until: float = math.inf
    ask_at: float = -math.inf
    ask_after_s: float = REBIRTH_S

    def begin(self, since_us: int) -> None:
        """Doubt from an instant on, unless that began before."""
        if self.since_us is None:
            self.since_us = since_us

    def ask_from(self, now: float) -> None:
        """Have it asked from now on, but not sooner after the last request than nodes are asked at all."""
        self.ask_after_s = REBIRTH_S
        self.due_at = max(now, min(self.ask_at, now + REBIRTH_S))

    def may_ask(self, now: float) -> bool:
        """Return whether to request a rebirth now, and count that as done."""
        if now < self.ask_at:
            return False
        self.asked(now)
        return True

    def asked(self, now: float) -> None:
        """Note that it was asked; a node in doubt has some time to answer."""
        self.due_at = math.inf
        self.ask_at = now + self.ask_after_s
        self.ask_after_s = min(2.0 * self.ask_after_s, REBIRTH_LONGEST_S)
        if self.since_us is not None:
            self.until = now + ANSWER_S

    def end(self) -> None:
        """Note that it lives, or is dead."""
        self.since_us, self.until = None, math.inf

    def pause(self) -> None:
        """Note that it can neither be asked nor answer: the connection is lost."""
        self.due_at = self.until = math.inf

    def born(self) -> None:
        """Note that its BIRTH came."""
        self.due_at, self.ask_after_s = math.inf, REBIRTH_S
