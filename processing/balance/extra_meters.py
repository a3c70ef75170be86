"""What one more meter would bring, for every place that it could have, without solving any network anew.

A meter of std s on stream j whose value the balances tell with variance P_jj changes the covariance P of the reconciled
values by one rank (Sherman & Morrison 1950; for reconciliation Kretsovalis & Mah 1987):

    P' = P - p p' / (P_jj + s^2),   p the column j of P

and adds one balance: the new reading against what the others make of stream j, g_j y with g_ji = P_ji / V_ii. So meters
that nothing checked become redundant where g_ji is not zero, and two meters i and k that no balance told apart (their
columns of the reduced balances being c_ik times each other) come apart where g_ji is not c_ik g_jk.

On a stream that the balances do not tell it adds no balance. It takes one direction from the null space of the
unmeasured columns of A, and makes those streams observable whose rows of that null space are multiples of its own.

Here: that. Not here: the classes and std themselves (classify.py, projection.py). The main path: `weigh`.

References: Kretsovalis, Mah (1987), Chem. Eng. Sci. 42, 2115. Sherman, Morrison (1950), Ann. Math. Stat. 21, 124.
Narasimhan, Jordache (2000), Data Reconciliation and Gross Error Detection, ch. 10. Madron (1992), ch. 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from processing.balance.hypotheses import Hypotheses
from processing.balance.inputs import Bools, Floats, Ints
from processing.balance.network import Network
from processing.balance.projection import Projection

TOGETHER = 64
"""Columns of the covariance taken at a time: few enough for the memory of a large network."""

NOTHING = 1e-7
"""A correlation below this is none: rounding leaves about 1e-12 of it, meters that matter at all far more."""

ALONG = 1e-7
"""Two rows of the null space whose angle differs by less than this, in two random views, are multiples [rad]."""


@dataclass(frozen=True)
class ExtraMeter:
    """What a meter on one stream would bring.

    Parameters
    ----------
    stream
        Where it would be.
    made_observable
        Streams that could then be computed or read, and now cannot, the stream itself included.
    newly_redundant
        Meters that would then be checked by others, and now are not, the new one included.
    groups_resolved
        Groups of meters that no balance tells apart, of which some could then be told apart.
    sharper
        Mean, over the streams that count and are known before and after, of log(std before / std after).
    drop
        1 - std after / std before of the stream itself; 1 where nothing told it before.
    """

    stream: int
    made_observable: tuple[int, ...]
    newly_redundant: int
    groups_resolved: int
    sharper: float
    drop: float

    @property
    def newly_observable(self) -> int:
        """Number of streams made observable."""
        return len(self.made_observable)

    @property
    def rank(self) -> tuple[float, ...]:
        """What the meters are put in order by, least first: what becomes known, checked, told apart, then sharper."""
        return (
            -self.newly_observable, -self.newly_redundant, -self.groups_resolved, -round(self.sharper, 9), self.stream,
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """Where a meter may be added, and what is counted of what it brings.

    Parameters
    ----------
    network
        The network.
    projection
        Its factors with the meters that there are.
    hypotheses
        The biases that can show now.
    std
        Of the meter that would be added, shape (n_streams,) [unit of the stream]; NaN where none may be.
    counted
        Streams whose observability and std count, bool, shape (n_streams,).
    checked
        Meters whose redundancy counts, bool, shape (n_streams,).
    """

    network: Network
    projection: Projection
    hypotheses: Hypotheses
    std: Floats
    counted: Bools
    checked: Bools

    @cached_property
    def variance(self) -> Floats:
        """Variance of the reconciled values, shape (n_streams,); NaN where unobservable."""
        return np.asarray(self.projection.std**2)

    @cached_property
    def known(self) -> Ints:
        """Streams whose std counts."""
        return np.flatnonzero(self.counted & (np.nan_to_num(self.variance) > self.least))

    @cached_property
    def least(self) -> float:
        """A variance up to this is rounding's: what must stand still is known for certain."""
        prior = self.projection.prior_variance
        return float(NOTHING**2 * np.min(prior, where=prior > 0.0, initial=np.inf))

    @cached_property
    def unchecked(self) -> Ints:
        """Meters that nothing checks now."""
        seen = self.projection
        return np.flatnonzero(
            self.checked & seen.measured & ~seen.redundant & (np.nan_to_num(seen.prior_variance) > 0.0)
        )

    @cached_property
    def ties(self) -> _Ties:
        """The groups of meters that no balance tells apart."""
        return _Ties.of(self.projection, self.hypotheses)


@dataclass(frozen=True, eq=False)
class _Ties:
    """Tied meters, group after group: each with its group's first meter and how much larger its signature is."""

    member: Ints
    leader: Ints
    ratio: Floats
    first: Ints

    @classmethod
    def of(cls, projection: Projection, hypotheses: Hypotheses) -> _Ties:
        """List the groups."""
        groups = [[j for kind, j in group if kind == "stream"] for group in hypotheses.classes()]
        groups = [group for group in groups if len(group) > 1]
        member = np.array([j for group in groups for j in group], dtype=np.int64)
        leader = np.array([group[0] for group in groups for _ in group], dtype=np.int64)
        sizes = np.array([len(group) for group in groups], dtype=np.int64)
        ratio = np.ones(len(member))
        prior, information = projection.prior_variance, projection.bias_information
        heads = np.unique(leader)
        for start in range(0, len(heads), TOGETHER):
            some = heads[start : start + TOGETHER]
            columns = projection.covariance_of(some)
            at = np.flatnonzero(np.isin(leader, some) & (member != leader))
            i, k = member[at], leader[at]
            # P = V - V R' L R V: what two adjustments share tells R_i' L R_k, and R_i = c R_k
            ratio[at] = -columns[i, np.searchsorted(some, k)] / (prior[i] * prior[k] * information[k])
        return cls(member, leader, ratio, np.cumsum(sizes) - sizes)

    def resolved(self, columns: Floats, prior: Floats, own: Floats) -> Ints:
        """Return how many groups come apart, shape (k,), for columns of P (n_streams, k) of variance `own`."""
        if not len(self.member):
            return np.zeros(len(own), dtype=np.int64)
        weight = columns[self.member] / prior[self.member, None]
        leading = columns[self.leader] / prior[self.leader, None]
        off = abs(weight - self.ratio[:, None] * leading) * np.sqrt(prior[self.member, None])
        apart = off > NOTHING * np.sqrt(own)
        return np.asarray(np.logical_or.reduceat(apart, self.first, axis=0).sum(axis=0), dtype=np.int64)


def weigh(candidates: Candidates) -> list[ExtraMeter]:
    """Return what a meter would bring at each place, the one that helps most first.

    First by streams made observable, then by meters that become redundant, then by groups that come apart, then by how
    much sharper the rest becomes.
    """
    seen, possible = candidates.projection, np.isfinite(candidates.std)
    told = np.flatnonzero(possible & seen.observable)
    found = []
    for first in range(0, len(told), TOGETHER):
        found += _checking(candidates, told[first : first + TOGETHER])
    found += _telling(candidates, np.flatnonzero(possible & ~seen.observable))
    return sorted(found, key=lambda meter: meter.rank)


def _checking(candidates: Candidates, streams: Ints) -> list[ExtraMeter]:
    """Weigh meters on streams that are observable already."""
    seen = candidates.projection
    columns = seen.covariance_of(streams)
    own = columns[streams, np.arange(len(streams))]
    uncertain = own > candidates.least
    columns, own = columns * uncertain, own * uncertain
    total = np.maximum(own + candidates.std[streams] ** 2, np.finfo(float).tiny)
    known, bare = candidates.known, candidates.unchecked
    share = columns[known] ** 2 / (candidates.variance[known, None] * total)
    sharper = -0.5 * np.log1p(-np.minimum(share, 1.0 - np.finfo(float).eps))
    mean = sharper.mean(axis=0) if len(known) else np.zeros(len(streams))
    touched = abs(columns[bare]) > NOTHING * np.sqrt(candidates.variance[bare, None] * own)
    apart = candidates.ties.resolved(columns, seen.prior_variance, own)
    drop = 1.0 - np.sqrt(np.maximum(1.0 - own / total, 0.0))
    return [
        ExtraMeter(int(j), (), int(touched[:, k].sum()) + 1, int(apart[k]), float(mean[k]), float(drop[k]))
        for k, j in enumerate(streams)
    ]


def _telling(candidates: Candidates, streams: Ints) -> list[ExtraMeter]:
    """Weigh meters on streams that nothing tells."""
    if not len(streams):
        return []
    together = known_together(candidates.network, candidates.projection)
    counted = np.flatnonzero(candidates.counted & (together >= 0))
    members: dict[int, list[int]] = {}
    for j in counted.tolist():
        members.setdefault(int(together[j]), []).append(j)
    return [ExtraMeter(int(j), tuple(members.get(int(together[j]), ())), 0, 0, 0.0, 1.0) for j in streams]


def known_together(network: Network, projection: Projection) -> Ints:
    """Return a number for each unobservable stream: the same for those that a meter on any one makes known together.

    Returns
    -------
    ndarray
        Shape (n_streams,); -1 where observable.

    Notes
    -----
    Random vectors of the null space of the unmeasured columns: with the measured streams held at zero, what
    reconciliation makes of noise. Rows of the null space that are multiples of each other are so in every such vector.
    """
    free = np.flatnonzero(~projection.observable)
    number = np.full(projection.n_streams, -1, dtype=np.int64)
    if not len(free):
        return number
    held = Network(network.incidence, np.where(projection.measured, 0.0, 1.0), None, None)
    noise = np.random.default_rng(0).standard_normal((3, projection.n_streams))
    ways = held.reconcile(np.where(projection.measured, 0.0, noise)).reconciled[:, free]
    views = [_runs(np.arctan2(ways[k], ways[0]) % np.pi) for k in (1, 2)]
    number[free] = np.unique(np.stack(views), axis=1, return_inverse=True)[1].ravel()
    return number


def _runs(angle: Floats) -> Ints:
    """Return the number of the run of neighbours that each angle belongs to."""
    order = np.argsort(angle)
    run = np.empty(len(angle), dtype=np.int64)
    run[order] = np.concatenate([[0], np.cumsum(np.diff(angle[order]) > ALONG)])
    return run
