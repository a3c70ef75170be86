"""Readings of flows and of what they carry, checked and put side by side as the iteration takes them.

Here: shapes, right-hand sides, bounds, and where a search starts. Not here: the iteration (bilinear.py, quadratic.py).
Variables are the flows, then the properties stream by stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from processing.balance import inputs
from processing.balance.errors import BalanceError
from processing.balance.inputs import Bools, Floats


@dataclass(eq=False)
class Case:
    """Windows as the iteration takes them: by variable, shape (n_windows, n_variables).

    `held` tells the windows that were moved to a bound, shape (n_windows,).
    """

    given: Floats
    std: Floats
    z: Floats
    rhs: Floats
    report: Floats
    held: Bools
    single: bool


@dataclass(frozen=True)
class Sizes:
    """How many of everything a bilinear network has.

    Parameters
    ----------
    n_streams, n_properties
        Streams, and properties that each carries.
    n_nodes, n_carried
        Balances of flows, and of flow times each property.
    n_whole
        Streams whose properties add up to one: the last constraints.
    n_rows
        Constraints altogether.
    """

    n_streams: int
    n_properties: int
    n_nodes: int
    n_carried: int
    n_whole: int
    n_rows: int

    def case(
        self, flow: Any, carried: Any, flow_std: Any, carried_std: Any, rhs: Any, carried_rhs: Any, start: Any
    ) -> Case:
        """Check what was given and put variables side by side."""
        n, k = self.n_streams, self.n_properties
        flows, properties = inputs.as_floats(flow, "flow"), inputs.as_floats(carried, "carried")
        single = flows.ndim == 1
        if flows.shape[-1] != n or properties.shape != (*flows.shape, k):
            raise BalanceError(
                f"flow and carried must have shapes ({n},) and ({n}, {k}), or both with windows first, "
                f"got {flows.shape} and {properties.shape}"
            )
        given = self._joined(flows, properties).reshape(-1, n * (k + 1))
        flow_spread = _spread(flow_std, flows.shape, "flow_std")
        spreads = [flow_spread, _spread(carried_std, properties.shape, "carried_std")]
        std = np.ascontiguousarray(np.broadcast_to(np.concatenate(spreads, axis=-1), given.shape))
        self._refuse(np.isinf(given), given, "must be finite, or NaN where unmeasured,")
        self._refuse(std < 0.0, std, "must not have a negative std,")
        z = np.where(np.isnan(given), self.guess(given), given)
        if start is not None:
            begin = self._start(start, flows.shape)
            z = np.where(np.isnan(begin), z, begin)
            z = np.where(np.isnan(given) | ~np.isfinite(std), z, given)
        right = self.rhs(rhs, carried_rhs, len(given))
        report, held = np.zeros((len(given), 3)), np.zeros(len(given), dtype=np.bool_)
        return Case(given, std, np.ascontiguousarray(z), right, report, held, single)

    def _start(self, start: Any, shape: tuple[int, ...]) -> Floats:
        """Return where the search is asked to start, shape (n_windows or 1, n_variables); NaN where nothing is."""
        if not isinstance(start, list | tuple) or len(start) != 2:
            raise BalanceError(f"start must be (flow, carried), got {start!r:.80}")
        flow, carried = (inputs.as_floats(part, "start") for part in start)
        if flow.shape not in (shape, shape[-1:]) or carried.shape != (*flow.shape, self.n_properties):
            raise BalanceError(f"start must have the shapes of flow and carried, got {flow.shape} and {carried.shape}")
        return self._joined(flow, carried).reshape(-1, self.n_streams * (self.n_properties + 1))

    def _joined(self, flow: Floats, carried: Floats) -> Floats:
        """Return flows and properties side by side, shape (..., n_variables)."""
        joined: Floats = np.concatenate([flow, carried.reshape(*flow.shape[:-1], -1)], axis=-1)
        return joined

    def _refuse(self, bad: Bools, values: Floats, why: str) -> None:
        """Refuse values by variable, shape (n_windows, n_variables), where any is bad."""
        if bad.any():
            window, variable = (int(i) for i in np.argwhere(bad)[0])
            stream, what = variable, "flow"
            if variable >= self.n_streams:
                stream, number = divmod(variable - self.n_streams, self.n_properties)
                what = f"property {number}"
            value = values[window, variable]
            raise BalanceError(f"window {window}: {what} of stream {stream} {why} got {value}")

    def guess(self, given: Floats) -> Floats:
        """Return where unmeasured variables start: the mean of those measured, of flows or of the same property."""
        n, k = self.n_streams, self.n_properties
        measured, value = ~np.isnan(given), np.nan_to_num(given)
        guess = np.empty_like(given)
        for part in [slice(0, n), *[slice(n + i, n * (k + 1), k) for i in range(k)]]:
            number = np.maximum(measured[:, part].sum(axis=1), 1)
            mean = value[:, part].sum(axis=1) / number
            guess[:, part] = np.where(mean == 0.0, 1.0, mean)[:, None]
        return guess

    def rhs(self, rhs: Any, carried_rhs: Any, n_windows: int) -> Floats:
        """Return right-hand sides by constraint, shape (n_windows, n_rows)."""
        full = np.zeros((n_windows, self.n_rows))
        m, q = self.n_nodes, self.n_carried
        full[:, self.n_rows - self.n_whole :] = 1.0
        if rhs is not None:
            full[:, :m] = inputs.fitted(rhs, "rhs", (n_windows, m))
        if carried_rhs is not None:
            shape = (n_windows, q, self.n_properties)
            full[:, m : m + q * self.n_properties] = inputs.fitted(carried_rhs, "carried_rhs", shape).reshape(
                n_windows, -1
            )
        return full

    def bounds(self, bounds: Any) -> tuple[Floats, Floats] | None:
        """Return bounds by variable."""
        if bounds is None:
            return None
        pairs = (bounds, *bounds) if isinstance(bounds, list | tuple) else (bounds,)
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise BalanceError(f"bounds must be ((low, high) of flows, (low, high) of properties), got {bounds!r:.80}")
        sides = [self._joined(self._side(bounds[0][side], ()), self._side(bounds[1][side], (self.n_properties,)))
                 for side in (0, 1)]
        return inputs.checked_bounds(sides, self.n_streams * (self.n_properties + 1))

    def _side(self, side: Any, more: tuple[int, ...]) -> Floats:
        """Return one side of the bounds of flows or properties, shape (n_streams, *more)."""
        values, shape = inputs.as_floats(side, "bounds"), (self.n_streams, *more)
        try:
            return np.broadcast_to(values, shape)
        except ValueError:
            raise BalanceError(f"bounds must be a number or have shape {shape}, got {values.shape}") from None


def _spread(std: Any, shape: tuple[int, ...], name: str) -> Floats:
    """Return std of one window's shape or all windows', flat over properties; shape (n_windows or 1, n)."""
    values = inputs.as_floats(std, name)
    one = shape if len(shape) == (1 if name == "flow_std" else 2) else shape[1:]
    if values.shape not in ((), one, shape):
        raise BalanceError(
            f"{name} must have shape {one}" + (f" or {shape}" if one != shape else "") + f", got {values.shape}"
        )
    width = int(np.prod(one))
    return np.broadcast_to(values, one).reshape(1, width) if values.shape in ((), one) else values.reshape(-1, width)
