"""How long to wait before the next try: exponential, capped, jittered; each thing that can be away has its own."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

FIRST_S = 0.25
LONGEST_S = 4.0         # a server that is back is tried again within this time, so that data flow within 5 s
JITTER = 0.25           # share of the delay that is drawn, so that many clients do not come back in step


@dataclass
class Backoff:
    """Delays that double from `first_s` to `longest_s`, each shortened at random by up to `JITTER` of itself.

    Parameters
    ----------
    first_s, longest_s
        First delay and cap [s].
    rng
        Where the jitter is drawn.
    """

    first_s: float = FIRST_S
    longest_s: float = LONGEST_S
    rng: random.Random = field(default_factory=random.Random)
    tries: int = 0

    def next(self) -> float:
        """Return the delay [s] before the next try, and count the try."""
        delay = min(self.longest_s, self.first_s * 2.0 ** min(self.tries, 30))
        self.tries += 1
        return delay * (1.0 - JITTER * self.rng.random())

    def reset(self) -> None:
        """Begin again at the first delay: the thing was there."""
        self.tries = 0
