"""The search for several gross errors in one window: serial compensation.

With other errors taken out, more may be alike than before: of three meters in a loop, any two explain what two of them
do. What could stand in the place of an error, the others taken, is named with it (`Search.alternatives`).

Here: `Search`, which takes out the likeliest error, computes all statistics anew, and goes on. Not here: what can be
wrong (hypotheses.py), windows and the shape of the answer (gross.py).

Where bounds say on both sides what a true value may be, the reading of a meter that is taken out gives way to that:
the middle m of the bounds, with the variance v = width^2 / 12 of what is anywhere between them. Its bias y - m then
has a prior of precision p = 1 / v, and with s the score and g the information left (p = 0 without bounds):

    size        b = (s + p (y - m)) / (g + p)
    evidence    log E = (g + p) b^2 / 2 - p (y - m)^2 / 2 - log(g + p) / 2 - log(width)

the last term the density of what a biased meter may read. Several errors that no balance could size without the
bounds do not run away, and what a compensation leaves open does not cross a bound by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from processing.balance import screening
from processing.balance.hypotheses import SPENT, Hypotheses
from processing.balance.inputs import Bools, Floats, Ints

ALIKE = 1e-6
"""Explanations whose likelihoods differ by less of themselves are the same; the first of them is taken."""

Members = list[tuple[int, float]]
"""Hypotheses that no balance can tell apart, each with its size where that of the one taken is one."""


@dataclass(frozen=True)
class Rules:
    """What `identify_gross_errors` was asked.

    Parameters
    ----------
    alpha
        Probability that a clean window raises any alarm.
    kinds
        Of "bias", "leak".
    never_suspect
        bool, shape (n_streams,), or None.
    at_most
        Errors named in one window at most; None: as many as the balances can tell.
    bounds
        (low, high), each shape (n_streams,), or None.
    threshold
        What |z| must exceed; None: what keeps `alpha`.
    """

    alpha: float = 0.05
    kinds: tuple[str, ...] = ("bias", "leak")
    never_suspect: Bools | None = None
    at_most: int | None = None
    bounds: tuple[Floats, Floats] | None = None
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """What was taken out of one window: hypotheses, their sizes and stds, the reconciled values without them."""

    errors: list[int]
    sizes: Floats
    spreads: Floats
    reconciled: Floats


@dataclass(frozen=True, eq=False)
class Direction:
    """One error's direction, orthogonal to those taken before.

    Parameters
    ----------
    response
        What it adds to each score, shape (n_hypotheses,).
    spends
        What it takes of each hypothesis' information.
    relief
        What taking it out adds to the reconciled values, shape (n_streams,).
    length
        Root of what is known of its size, bounds included: of the unit error in the metric of L.
    """

    response: Floats
    spends: Floats
    relief: Floats
    length: float


class Search:
    """Serial compensation for windows of one pattern; what belongs to a hypothesis is kept between windows."""

    def __init__(self, errors: Hypotheses, rules: Rules, draws: int = 0) -> None:
        self.errors = errors
        self.limit = errors.threshold(rules.alpha, draws) if rules.threshold is None else rules.threshold
        self.bounds = rules.bounds
        self.most = min(errors.projection.degrees_of_freedom, rules.at_most or errors.count)
        self.per_std = errors.per_std
        # zero where another of its group stands for it: it never comes out as a candidate
        self.leads = np.zeros(errors.count)
        self.leads[errors.leaders] = 1.0
        self.spent = SPENT * errors.information
        self.width, self.middle = self._between()
        self.firmness = np.zeros(errors.count) if self.width is None else 12.0 / np.square(self.width)
        self._raw: dict[int, tuple[Floats, Floats]] = {}
        self._first: dict[int, Direction] = {}
        self._members: dict[int, Members] = {}
        self._slack = self.limit * np.nan_to_num(errors.projection.std) if self.bounds is not None else np.zeros(0)

    def run(self, scores: Floats, reconciled: Floats, measured: Floats) -> Taken:
        """Take errors out of one window until none is above the limit."""
        information, x = self.errors.information, reconciled
        score, pull = scores * self.leads, self._pull(measured)
        taken: list[int] = []
        basis: list[Direction] = []
        parts: list[float] = []
        while len(taken) < self.most:
            for h in self._candidates(score, information, pull, taken):
                direction = self._orthogonal(h, basis)
                step = (score[h] + pull[h]) / math.sqrt(information[h] + self.firmness[h])
                if self._inside(x, step, direction.relief):
                    break
            else:
                break
            taken.append(h)
            basis.append(direction)
            parts.append(step)
            x, score = x + step * direction.relief, (score - step * direction.response) * self.leads
            information = information - direction.spends
        triangle = np.array([[direction.response[h] for h in taken] for direction in basis])
        triangle = triangle.reshape(len(taken), len(taken))
        np.fill_diagonal(triangle, [direction.length for direction in basis])
        sizes, spreads = _sizes(triangle, np.array(parts))
        return Taken(taken, sizes, spreads, x)

    def direction(self, h: int) -> Direction:
        """Return the direction of h with no error taken before."""
        return self._orthogonal(h, [])

    def first_step(self, h: int, scores: Floats, chosen: Ints) -> tuple[Floats, Bools]:
        """Return how much of h some windows show, and whether more is above the limit once it is taken out.

        scores has shape (n_windows, n_hypotheses); chosen, numbers of windows, and both answers (n_chosen,).
        """
        direction, information = self.direction(h), self.errors.information
        steps: Floats = scores[chosen, h] / math.sqrt(information[h])
        if self.most == 1:
            return steps, np.zeros(len(chosen), dtype=np.bool_)
        left = information - direction.spends
        bar = np.where((left > self.spent) & (self.leads > 0), self.limit**2 * left, np.inf)
        bar[h] = np.inf
        return steps, screening.shows_more(scores, chosen, steps, direction.response, bar)

    def alternatives(self, taken: list[int]) -> list[Members]:
        """Return for each error what could stand in its place; with bounds on all, likelihood tells them apart."""
        if len(taken) < 2 or self.width is not None:
            return [self.members(h) for h in taken]
        return [self._in_place_of(h, [other for other in taken if other != h]) for h in taken]

    def _in_place_of(self, chosen: int, others: list[int]) -> Members:
        """Return what is like `chosen` once `others` are taken out, itself among them."""
        basis: list[Direction] = []
        left = self.errors.information
        for h in others:
            basis.append(self._orthogonal(h, basis))
            left = left - basis[-1].spends
        own = self._orthogonal(chosen, basis)
        alike = (left > self.spent) & (own.spends >= (1.0 - ALIKE) * left)
        alike[others] = False
        return [(h, float(own.response[chosen] / own.response[h])) for h in np.flatnonzero(alike).tolist()]

    def members(self, chosen: int) -> Members:
        """Return the hypotheses of one group, each with its size where that of `chosen` is one."""
        if chosen not in self._members:
            errors = self.errors
            group = np.flatnonzero(errors.group == errors.group[chosen])
            share = np.sign(self.direction(chosen).response[group]) * self.per_std[group] / self.per_std[chosen]
            self._members[chosen] = list(zip(group.tolist(), share.tolist(), strict=True))
        return self._members[chosen]

    def _candidates(self, score: Floats, information: Floats, pull: Floats, taken: list[int]) -> list[int]:
        """Return the hypotheses above the limit, the likeliest first; it alone without bounds, which refuse none."""
        above = np.flatnonzero(score * score > self.limit**2 * information)
        above = above[information[above] > self.spent[above]]
        above = above[[h not in taken for h in above.tolist()]] if taken else above
        if not len(above):
            return []
        evidence = self._evidence(score, information, pull, above)
        if self.bounds is None:
            return [int(above[np.argmax(evidence >= (1.0 - ALIKE) * evidence.max())])]
        first = np.argsort(-evidence, kind="stable")
        falls = -np.diff(evidence[first]) > ALIKE * abs(evidence[first[:-1]])
        rank = np.append(0, np.cumsum(falls))[: len(first)]     # what differs by rounding alone has one rank
        order: list[int] = above[first[np.lexsort((above[first], rank))]].tolist()
        return order

    def _evidence(self, score: Floats, information: Floats, pull: Floats, which: Ints) -> Floats:
        """Return log E of some hypotheses but for a constant: see above."""
        known = information[which] + self.firmness[which]
        evidence: Floats = 0.5 * np.square(score[which] + pull[which]) / known
        if self.width is not None:
            evidence -= 0.5 * (np.square(pull[which]) / self.firmness[which] + np.log(known))
            evidence -= np.log(self.width[which])
        return evidence

    def _pull(self, measured: Floats) -> Floats:
        """Return p (y - m), shape (n_hypotheses,): what the bounds alone say of each bias; 0 without bounds."""
        if self.middle is None:
            return np.zeros(self.errors.count)
        pull: Floats = self.firmness * (measured[self.errors.streams] - self.middle)
        return pull

    def _orthogonal(self, h: int, basis: list[Direction]) -> Direction:
        """Return the direction of h less what the errors taken before account for (Gram-Schmidt in the metric of L)."""
        if h not in self._raw:
            self._raw[h] = self.errors.effects(h)
            self._first[h] = self._unit(h, *self._raw[h])
        if not basis:
            return self._first[h]
        response, relief = self._raw[h]
        for before in basis:
            share = before.response[h]
            relief = relief - share * before.relief
            response = response - share * before.response
        return self._unit(h, response, relief)

    def _unit(self, h: int, response: Floats, relief: Floats) -> Direction:
        """Return the direction scaled so that the window shows it with std one."""
        length = math.sqrt(response[h] + self.firmness[h])
        unit = response / length
        return Direction(unit, unit**2, relief / length, length)

    def _inside(self, x: Floats, step: float, relief: Floats) -> bool:
        """Whether one more step moves no reconciled value out of its bounds, or further out.

        Noise does not count: a line that stands still is below zero in half of all windows.
        """
        if self.bounds is None:
            return True
        moved = x + step * relief
        low, high = self.bounds
        return not (((moved < low - self._slack) & (moved < x)) | ((moved > high + self._slack) & (moved > x))).any()

    def _between(self) -> tuple[Floats | None, Floats | None]:
        """Return the width and the middle of each bias' bounds, shape (n_hypotheses,); None unless all are known."""
        if self.bounds is None or len(self.errors.nodes):
            return None, None
        low, high = (bound[self.errors.streams] for bound in self.bounds)
        known = np.isfinite(low) & np.isfinite(high) & (high > low)
        return (high - low, 0.5 * (low + high)) if known.all() else (None, None)


def _sizes(triangle: Floats, parts: Floats) -> tuple[Floats, Floats]:
    """Return the sizes of errors and their std from their orthogonal parts: rows of `triangle` are the basis."""
    if len(parts) == 1:
        return parts / triangle[0], 1.0 / triangle[0]
    inverse = np.linalg.inv(np.triu(triangle))
    return inverse @ parts, np.sqrt((inverse**2).sum(axis=1))
