"""What is on its way: belts that bring mass later, pipes that bring temperature and composition later.

Here: `History`, a ring of past steps, and `Lag`, how long each stream takes, in steps. Between two steps lie
straight lines, so what arrives over time is what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class History:
    """The last steps of some quantities over all streams.

    Parameters
    ----------
    depth
        How many steps it holds.
    start
        Each quantity at the first step, shape (n_streams,); it is taken to have been so before.
    """

    def __init__(self, depth: int, start: Mapping[str, FloatArray]) -> None:
        self._rows = {name: np.tile(values, (depth, 1)) for name, values in start.items()}
        self._depth, self._last = depth, 0

    def push(self, values: Mapping[str, FloatArray]) -> None:
        """Add a step."""
        self._last = (self._last + 1) % self._depth
        for name, row in values.items():
            self._rows[name][self._last] = row

    def back(self, name: str, streams: IntArray, steps: IntArray) -> FloatArray:
        """Return what some streams had a number of steps ago, shape of both; 1 is the last that was pushed."""
        ago = np.minimum(steps, self._depth)
        values: FloatArray = self._rows[name][(self._last + 1 - ago) % self._depth, streams]
        return values

    def column(self, name: str, stream: int) -> FloatArray:
        """Return one stream's values, the last that was pushed first, shape (depth,)."""
        values: FloatArray = self._rows[name][(self._last - np.arange(self._depth)) % self._depth, stream]
        return values


class Lag:
    """How many steps each stream takes, shape (n_streams,), not whole as a rule.

    Attributes
    ----------
    now
        Share of what arrives that is sent in this step, shape (n_streams,); 1 where nothing is delayed.
    """

    def __init__(self, steps: FloatArray) -> None:
        self._count = len(steps)
        self._delayed = np.flatnonzero(steps > 0.0)
        self._whole = np.floor(steps[self._delayed]).astype(np.intp)
        self._share = steps[self._delayed] - self._whole
        self.now: FloatArray = np.ones(self._count)
        self.now[self._delayed] = np.where(self._whole == 0, 1.0 - self._share, 0.0)

    def past(self, history: History, name: str) -> FloatArray:
        """Return what arrives now of what was sent in earlier steps, shape (n_streams,)."""
        arrives = np.zeros(self._count)
        if len(self._delayed):
            near = np.where(self._whole == 0, 0.0, history.back(name, self._delayed, np.maximum(self._whole, 1)))
            far = history.back(name, self._delayed, self._whole + 1)
            arrives[self._delayed] = (1.0 - self._share) * near + self._share * far
        return arrives


def pipe_steps(history: History, stream: int, passed: float, content: float) -> float:
    """Return how many steps ago what leaves a full pipe now entered it.

    Parameters
    ----------
    history
        Holds under "passed" the mass that had passed the pipe's inlet before each step [kg].
    stream
        Its column.
    passed
        The same until now [kg].
    content
        What the pipe holds [kg].
    """
    before = history.column("passed", stream)[::-1]
    return float(np.interp(passed - content, np.append(before, passed), np.arange(len(before), -1.0, -1.0)))
