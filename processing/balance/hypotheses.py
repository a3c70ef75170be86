"""What may be wrong: a bias of a meter, a leak of a node; how each would show, and how large chance alone gets.

Here: the signatures of the hypotheses, the groups of them that no balance can tell apart, and the threshold that
keeps the promise of `alpha`. Not here: the search for several errors (gross.py). The main path: `Hypotheses`.

Notation: r = A y - b the raw imbalance, L the generalised inverse of its covariance, a_h the imbalance that one unit
of error h causes. Errors known in size apart, the generalised likelihood ratio of h (Narasimhan & Mah 1987) is
T_h = z_h^2 with z_h = a_h' L r / sqrt(a_h' L a_h), standard normal where there is no error; the error's estimate is
a_h' L r / a_h' L a_h. For one bias and independent meters z_h is the measurement test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from processing.balance.inputs import Bools, Floats, Ints
from processing.balance.projection import Projection, Screening

KINDS = ("bias", "leak")

SIDE_BY_SIDE = 8
"""From this many windows on it is faster to score them side by side."""

SPENT = 1e-9
"""What is left of a signature after others were taken out, as a share; below it nothing is left but rounding."""

DRAWS = (500, 8_000)
"""Fewest and most windows simulated for a threshold: the alarm rate comes out within about 1 % of itself. With the
fewest, which is what a threshold for one window alone is worth, within about 2 % (std over seeds, five networks)."""

DRAWN_VALUES = 500_000
"""Statistics simulated for a threshold, about; large networks have few correlated pairs and need fewer windows."""

RATE_CLOSE = 1e-3
"""The simulated alarm rate is met to this share of itself."""

SEED = 20250101
"""Seed of the simulated windows: the same network has the same threshold everywhere."""


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """The errors that one pattern of meters can show.

    Parameters
    ----------
    projection
        The pattern.
    streams
        Meters that may be biased, shape (n_biases,): redundant, of positive std, not excluded.
    nodes
        Nodes that may leak, shape (n_leaks,).
    """

    projection: Projection
    streams: Ints
    nodes: Ints

    @property
    def count(self) -> int:
        """Number of hypotheses; biases first, then leaks."""
        return len(self.streams) + len(self.nodes)

    def scores(self, residual: Floats) -> Floats:
        """Return a_h' L r, shape (n_windows, n_hypotheses), for r of shape (n_windows, n_nodes)."""
        return self._over_hypotheses(self.projection.multipliers(residual))

    def screen(self, values: Floats, rhs: Floats | None) -> tuple[Floats, Floats]:
        """Return the scores of windows and the largest |z| of each, shape (n_windows,), from y and b."""
        if self._screening is not None and len(values) >= SIDE_BY_SIDE:
            return self._screening(values, rhs)
        scores = np.ascontiguousarray(self.scores(self.projection.residual(values, rhs)))
        z = scores * self.per_std
        return scores, np.maximum(z.max(axis=1), -z.min(axis=1))

    @cached_property
    def _screening(self) -> Screening | None:
        """What scores many windows at once."""
        return self.projection.screening(self.streams, self.nodes, self.per_std)

    @cached_property
    def per_std(self) -> Floats:
        """What makes z of a score, shape (n_hypotheses,)."""
        scale: Floats = 1.0 / np.sqrt(self.information)
        return scale

    @cached_property
    def information(self) -> Floats:
        """a_h' L a_h, shape (n_hypotheses,): one over the variance of the estimate of h."""
        both: Floats = np.concatenate([self.projection.bias_information[self.streams], self._leak_information])
        return both

    def effects(self, hypothesis: int) -> tuple[Floats, Floats]:
        """Return what one unit of error h does.

        Returns
        -------
        response
            a_g' L a_h for all g, shape (n_hypotheses,).
        relief
            How the reconciled values change with it taken out, shape (n_streams,): V A' L a_h, less the unit itself.
        """
        multipliers = self.projection.multipliers(self.imbalance_of(hypothesis)[None])
        biases = self.projection.over_streams(multipliers)
        response: Floats = self._of(biases, multipliers)[0]
        if not self.projection.adjusts_apart:
            return response, self.relief(hypothesis)
        relief: Floats = self.projection.prior_variance * biases[0]
        if hypothesis < len(self.streams):
            relief[self.streams[hypothesis]] -= 1.0
        return response, relief

    def imbalance_of(self, hypothesis: int) -> Floats:
        """Return a_h, shape (n_nodes,): the imbalance that one unit of the error causes."""
        if hypothesis < len(self.streams):
            return self.projection.column(int(self.streams[hypothesis]))
        unit = np.zeros(self.projection.n_nodes)
        unit[self.nodes[hypothesis - len(self.streams)]] = 1.0
        return unit

    def relief(self, hypothesis: int) -> Floats:
        """Return how the reconciled values change with one unit of the error taken out, shape (n_streams,)."""
        values, rhs = np.zeros((1, self.projection.n_streams)), None
        if hypothesis < len(self.streams):
            values[0, self.streams[hypothesis]] = -1.0
        else:
            rhs = self.imbalance_of(hypothesis)[None]
        change: Floats = self.projection.solve(values, rhs)[0]
        return change

    def name(self, hypothesis: int) -> tuple[str, int]:
        """Return ("stream", j) or ("node", i)."""
        biases = len(self.streams)
        if hypothesis < biases:
            return "stream", int(self.streams[hypothesis])
        return "node", int(self.nodes[hypothesis - biases])

    @cached_property
    def group(self) -> Ints:
        """Number of the group of each hypothesis, shape (n_hypotheses,): same number, same signature but for size."""
        return self.projection.alike(self.streams, self.nodes)

    @cached_property
    def leaders(self) -> Ints:
        """One hypothesis a group, shape (n_groups,): the meter of largest std, else the first node.

        The same imbalance is a smaller error, in its own std, for the meter of larger std: the likelier culprit.
        """
        spread = np.concatenate([self.projection.prior_variance[self.streams], np.full(len(self.nodes), -1.0)])
        order = np.lexsort((np.arange(self.count), -spread, self.group))
        first = np.unique(self.group[order], return_index=True)[1]
        return order[first]

    def classes(self, tied: Iterable[Sequence[int]] = ()) -> list[list[tuple[str, int]]]:
        """Return the groups of more than one hypothesis, as lists of ("stream", j) and ("node", i).

        `tied` joins groups that other errors, taken out, have made alike.
        """
        group = self.group.copy()
        for some in tied:
            group[np.isin(group, group[list(some)])] = group[list(some)].min()
        members: dict[int, list[int]] = {}
        for hypothesis, number in enumerate(group.tolist()):
            members.setdefault(number, []).append(hypothesis)
        return [[self.name(h) for h in group] for group in members.values() if len(group) > 1]

    def threshold(self, alpha: float, draws: int = 0) -> float:
        """Return c with P(max_h |z_h| > c) = alpha in a window without errors.

        Notes
        -----
        The z_h are correlated; treating them as independent (Sidak) promises fewer alarms than asked and finds less.
        P(union) = sum_h P(|z_h| > c) E[1 / N | |z_h| > c], N the number of hypotheses above c: a draw a hypothesis
        in turn, moved along its own signature to where |z_h| > c (Naiman & Priebe 2001). Every draw counts, so that
        a few thousand give what plain simulation needs a million for. `draws` 0: as many as `draws_for` says.
        """
        if (alpha, draws) not in self._thresholds:
            self._thresholds[alpha, draws] = self._simulate(alpha, draws or draws_for(len(self.leaders)))
        return self._thresholds[alpha, draws]

    def _simulate(self, alpha: float, draws: int) -> float:
        """Solve P(union) = alpha for c with `draws` windows."""
        from scipy.special import ndtr, ndtri

        q = len(self.leaders)
        if q == 0 or alpha <= 0.0:
            return float("inf")
        rng = np.random.default_rng(SEED)
        at = np.arange(draws)
        which = at * q // draws  # each hypothesis in turn; where there are more of them, some from all over the network
        share, sign = rng.random(draws), rng.choice((-1.0, 1.0), draws)
        scale = np.sqrt(self.information[self.leaders])
        start = self._over_hypotheses(self.projection.draw_multipliers(rng, draws))[:, self.leaders] / scale
        taken, place = np.unique(which, return_inverse=True)
        along = self._responses(self.leaders[taken])[:, self.leaders]
        along /= scale * scale[taken, None]
        # what does not change with c: each draw less its part along its own hypothesis
        along = along[place].astype(np.float32)
        start = (start - start[at, which][:, None] * along).astype(np.float32)

        def alarms(c: float) -> float:
            goal = (sign * -ndtri(share * ndtr(-c))).astype(np.float32)
            above = abs(start + goal[:, None] * along) > c
            above[at, which] = True
            return float(2.0 * ndtr(-c) * q * (1.0 / above.sum(axis=1)).mean())

        return _falling_root(lambda c: np.log(alarms(c) / alpha), -ndtri(alpha / 2), -ndtri(alpha / (2 * q)) + 1e-6)

    def _responses(self, chosen: Ints) -> Floats:
        """Return a_g' L a_h for some h and all g, shape (k, n_hypotheses)."""
        return self.scores(np.stack([self.imbalance_of(int(h)) for h in chosen]))

    @cached_property
    def _thresholds(self) -> dict[tuple[float, int], float]:
        """Thresholds simulated so far."""
        return {}

    def _over_hypotheses(self, multipliers: Floats) -> Floats:
        """Return a_h' multipliers, shape (n_windows, n_hypotheses)."""
        return self._of(self.projection.over_streams(multipliers), multipliers)

    def _of(self, biases: Floats, multipliers: Floats) -> Floats:
        """Return scores from A' multipliers, of all streams, and multipliers, of all nodes."""
        if len(self.streams) < biases.shape[1]:
            biases = biases[:, self.streams]
        return np.concatenate([biases, multipliers[:, self.nodes]], axis=1) if len(self.nodes) else biases

    @cached_property
    def _leak_information(self) -> Floats:
        """L_ii of the nodes that may leak."""
        return self.projection.leak_information[self.nodes] if len(self.nodes) else np.zeros(0)


def hypotheses_of(projection: Projection, kinds: Sequence[str], never_suspect: Bools | None) -> Hypotheses:
    """List what can be wrong, of "bias" and "leak", and would show; kept with the pattern, thresholds included."""
    key = ("hypotheses", tuple(kinds), None if never_suspect is None else never_suspect.tobytes())
    if key not in projection.kept:
        projection.kept[key] = _list_hypotheses(projection, kinds, never_suspect)
    found: Hypotheses = projection.kept[key]
    return found


def _list_hypotheses(projection: Projection, kinds: Sequence[str], never_suspect: Bools | None) -> Hypotheses:
    """List the hypotheses of one pattern."""
    streams, nodes = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if "bias" in kinds:
        may = projection.redundant & (np.nan_to_num(projection.prior_variance) > 0.0)
        streams = np.flatnonzero(may if never_suspect is None else may & ~never_suspect)
    if "leak" in kinds:
        nodes = np.flatnonzero(projection.leak_information > 0.0)
    return Hypotheses(projection, streams, nodes)


def draws_for(groups: int) -> int:
    """Return how many windows to simulate for so many groups of hypotheses."""
    return int(np.clip(DRAWN_VALUES // max(groups, 1), *DRAWS))


def _falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses zero: regula falsi in the square, in which log tails are straight."""
    at_low, at_high = function(low), function(high)
    if at_low <= 0.0 or at_high >= 0.0:
        return low if at_low <= 0.0 else high
    for _ in range(40):
        share = at_low / (at_low - at_high)
        middle = float(np.sqrt(low**2 + np.clip(share, 0.02, 0.98) * (high**2 - low**2)))
        value = function(middle)
        if abs(value) < RATE_CLOSE or high - low < 1e-4:
            return middle
        if value > 0.0:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
    return 0.5 * (low + high)
