"""The run's clock: every service takes its time from here, never from the machine directly.

A real park runs on UTC. A demonstration may run faster than life: it starts in the past, goes `speed`
simulated seconds a wall second, and goes on at speed 1 when it has caught up with the present.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class RunClock:
    """Maps wall time to run time; both are seconds since 1970-01-01 UTC.

    Parameters
    ----------
    epoch
        Wall time at which the run began [s].
    start
        Run time at `epoch` [s]. Equal to `epoch` for a run that starts now.
    speed
        Simulated seconds a wall second, at least 1.

    Raises
    ------
    ValueError
        If `speed` is below 1.
    """

    epoch: float = 0.0
    start: float = 0.0
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not self.speed >= 1.0:
            raise ValueError(f"speed must be at least 1, got {self.speed}")

    def at(self, wall: float) -> float:
        """Return the run time [s] at the wall time `wall` [s]."""
        run_time = self.start + (wall - self.epoch) * self.speed
        return wall if self._past_caught_up(wall) else run_time

    def now(self) -> float:
        """Return the run time now [s]."""
        return self.at(time.time())

    def wall(self, run_time: float) -> float:
        """Return the wall time [s] at which the run time is `run_time` [s]; inverse of `at`."""
        if self._past_caught_up(run_time):
            return run_time
        return self.epoch + (run_time - self.start) / self.speed

    def wall_seconds_until(self, run_time: float) -> float:
        """Return how many wall seconds are left until `run_time` [s]; 0 if it has passed."""
        return max(0.0, self.wall(run_time) - time.time())

    def _past_caught_up(self, moment: float) -> bool:
        """Whether a fast run that began in the past has reached the present by `moment` [s]."""
        if self.speed == 1.0 or self.start >= self.epoch:
            return False
        return moment >= self.epoch + (self.epoch - self.start) / (self.speed - 1.0)


REAL_TIME = RunClock()
