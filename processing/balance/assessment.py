"""What a network's meters can achieve, before any value is read.

Here: `assess`: the std to expect, how much each meter is checked, the smallest error that would show, what cannot be
told apart. Not here: the classes themselves (classify.py), what one more meter would bring (extra_meters.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.classify import Classes, classes_of
from processing.balance.errors import BalanceError
from processing.balance.extra_meters import Candidates, ExtraMeter, weigh
from processing.balance.hypotheses import KINDS, Hypotheses, hypotheses_of
from processing.balance.inputs import Bools, Floats, Matrix
from processing.balance.network import Network, prepare

POWER = 0.9
"""Probability with which "the smallest error seen" is seen."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """What `assess` was asked beside the network: see there."""

    kinds: tuple[str, ...]
    alpha: float
    extra_std: Floats
    spared: Bools
    counted: Bools


class Assessment:
    """What follows from where meters are and how good they are; each part is computed when first asked for.

    Attributes
    ----------
    classes : Classes
        redundant, nonredundant, observable, unobservable.
    """

    def __init__(self, network: Network, is_measured: Bools, asked: _Asked) -> None:
        self._network = network
        self._projection = network.projection(is_measured)
        self._asked = asked
        self.classes: Classes = classes_of(self._projection)

    @property
    def std(self) -> Floats:
        """Std to expect of the reconciled value, shape (n_streams,) [unit of the stream]; NaN where unobservable."""
        return self._projection.std

    @cached_property
    def adjustability(self) -> Floats:
        """1 - std reconciled / std measured, shape (n_streams,); 0: nothing gained, NaN where unmeasured.

        Madron (1992), Process Plant Performance, sec. 4.3.
        """
        prior = np.sqrt(self._projection.prior_variance)
        return 1.0 - np.divide(self.std, prior, out=np.ones_like(prior), where=prior > 0)

    @cached_property
    def detectability(self) -> Floats:
        """Std of the adjustment / std measured, shape (n_streams,): a bias of d std shifts its test by d times this.

        Between 0 (would never show) and 1; sqrt(1 - (1 - adjustability)^2) for independent meters.
        """
        information = self._projection.bias_information
        seen = np.sqrt(information * np.nan_to_num(self._projection.prior_variance))
        return np.where(self.classes.measured, seen, np.nan)

    @cached_property
    def threshold(self) -> float:
        """What the largest test must exceed for an alarm, so that a clean window alarms with probability alpha."""
        return self._hypotheses.threshold(self._asked.alpha)

    @cached_property
    def smallest_bias(self) -> Floats:
        """Bias that one window shows with probability 0.9, shape (n_streams,) [unit of the stream]; inf: never."""
        return self._smallest(self._projection.bias_information)

    @cached_property
    def smallest_leak(self) -> Floats:
        """Leak that one window shows with probability 0.9, shape (n_nodes,) [unit of the balance]; inf: never."""
        return self._smallest(self._projection.leak_information)

    @cached_property
    def groups(self) -> list[list[tuple[str, int]]]:
        """Groups of ("stream", j) and ("node", i) whose errors no balance can tell apart."""
        return self._hypotheses.classes()

    @cached_property
    def extra_meters(self) -> list[ExtraMeter]:
        """What one more meter would bring, for every stream without one (for every stream, if all have one).

        The one that helps most comes first: by streams made observable, then by meters that become redundant, then by
        groups that come apart, then by how much sharper the rest becomes. Not by solving each anew: extra_meters.py.
        """
        bare, asked = ~self.classes.measured, self._asked
        std = np.where(bare, asked.extra_std, np.nan) if bare.any() else asked.extra_std
        biases = hypotheses_of(self._projection, ("bias",), asked.spared)
        return weigh(Candidates(self._network, self._projection, biases, std, asked.counted, ~asked.spared))

    @cached_property
    def _hypotheses(self) -> Hypotheses:
        """The errors that can show."""
        return hypotheses_of(self._projection, self._asked.kinds, self._asked.spared)

    def _smallest(self, information: Floats) -> Floats:
        """Return the error at which the test exceeds the threshold with the power asked."""
        from scipy.special import ndtri

        size = self.threshold + float(ndtri(POWER))
        smallest: Floats = np.full(len(information), np.inf)
        np.divide(size, np.sqrt(information), out=smallest, where=information > 0)
        return smallest


def assess(
    incidence: Matrix,
    std: npt.ArrayLike,
    is_measured: npt.ArrayLike | None = None,
    *,
    hypotheses: Sequence[str] = ("bias",),
    alpha: float = 0.05,
    extra_std: npt.ArrayLike | None = None,
    never_suspect: npt.ArrayLike | None = None,
    counted: npt.ArrayLike | None = None,
) -> Assessment:
    """Say what a network's meters can achieve.

    Parameters
    ----------
    incidence
        The balances, shape (n_nodes, n_streams), dense or scipy.sparse.
    std
        Of the meters, shape (n_streams,) [unit of the stream]; NaN or infinite where there is none.
    is_measured
        bool, shape (n_streams,); default: where `std` is finite.
    hypotheses
        Of "bias" and "leak": what is looked for, and so what `groups` and the threshold are about.
    alpha
        Probability that a clean window raises any alarm.
    extra_std
        Std that a further meter would have, shape (n_streams,) or one number [unit of the stream]; default `std`
        where finite, else the median of the finite ones. NaN: none can be added there.
    never_suspect
        Meters in which no bias is looked for and whose redundancy does not count, bool, shape (n_streams,).
    counted
        Streams that count when a further meter is weighed, bool, shape (n_streams,); default all.

    Returns
    -------
    Assessment

    Raises
    ------
    BalanceError
        If the arrays do not fit.

    Examples
    --------
    >>> from processing.balance import assess
    >>> plan = assess([[1, -1, -1, 0], [0, 0, 1, -1]], [0.2, 0.1, float("nan"), float("nan")])
    >>> plan.classes.status
    ['nonredundant', 'nonredundant', 'observable', 'observable']
    >>> plan.std.round(3).tolist(), plan.extra_meters[0].stream
    ([0.2, 0.1, 0.224, 0.224], 2)
    """
    network = prepare(incidence, std)
    spread = network.std_by_stream
    present = np.isfinite(spread) if is_measured is None else _mask(is_measured, spread.shape, "is_measured")
    if isinstance(hypotheses, str) or not len(hypotheses) or any(kind not in KINDS for kind in hypotheses):
        raise BalanceError(f"hypotheses must be one or more of {KINDS}, got {hypotheses!r}")
    finite = np.isfinite(spread)
    if extra_std is None:
        extra = np.where(finite, spread, np.median(spread[finite]) if finite.any() else 1.0)
    else:
        extra = np.broadcast_to(inputs.as_floats(extra_std, "extra_std"), spread.shape)
    spared = np.zeros(len(spread), dtype=bool) if never_suspect is None else never_suspect
    every = np.ones(len(spread), dtype=bool) if counted is None else counted
    asked = _Asked(
        tuple(hypotheses), alpha, extra, _mask(spared, spread.shape, "never_suspect"),
        _mask(every, spread.shape, "counted"),
    )
    return Assessment(network, present & finite, asked)


def _mask(given: npt.ArrayLike, shape: tuple[int, ...], name: str) -> Bools:
    """Return a bool array of the shape asked."""
    mask = np.asarray(given)
    if mask.shape != shape or mask.dtype != np.bool_:
        raise BalanceError(f"{name} must be bool of shape {shape}, got {mask.dtype} of {mask.shape}")
    return mask
