"""What a search for gross errors found, window by window.

Here: `Found`, and the table that it is filled from: windows of one pattern tested together, errors taken out of those
that alarm. Not here: the options (gross.py), the hypotheses and their threshold (hypotheses.py), the search in one
window (compensation.py). The main path: `Table.search`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from processing.balance import screening
from processing.balance.bounds import move_inside
from processing.balance.compensation import Members, Rules, Search, Taken
from processing.balance.hypotheses import DRAWS, Hypotheses, hypotheses_of
from processing.balance.inputs import Bools, Floats, Ints
from processing.balance.result import Part, Result

TOGETHER = 64
"""Windows tested at a time: their statistics stay in the cache."""

ALIKE = 4
"""From this many alarmed windows on it is worth looking for those with the same single error."""


class Found:
    """Suspects and what follows from taking them out.

    Shapes: "as measured" is (n_streams,) for one window or (n_windows, n_streams); "by node" (n_nodes,) or
    (n_windows, n_nodes); "per window" a number or (n_windows,). Values are in the unit of their stream or node.

    Attributes
    ----------
    suspects
        bool, as measured: meters that a bias was found in, with everything that the balances cannot tell from it.
    leaks
        bool, by node: likewise.
    compensated
        bool, as measured: of each group of suspects the one whose value was replaced.
    reconciled
        as measured: after compensation; NaN where unobservable.
    statistic
        per window: the largest |z| of any hypothesis, before compensation.
    threshold
        per window: what it must exceed for an alarm.
    uncompensated
        The result that was searched.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._single = table.result.measured.ndim == 1
        self.suspects: Bools = self._out(table.suspects)
        self.leaks: Bools = self._out(table.leaks)
        self.compensated: Bools = self._out(table.compensated)
        self.reconciled: Floats = self._out(table.reconciled)
        self.statistic: Any = float(table.statistic[0]) if self._single else table.statistic
        self.threshold: Any = float(table.threshold[0]) if self._single else table.threshold
        self.uncompensated = table.result

    @cached_property
    def bias(self) -> Floats:
        """Measured minus true, as measured, as if this member of its group were the one; 0 where none."""
        return self._sizes[0]

    @cached_property
    def bias_std(self) -> Floats:
        """Std of `bias`, as measured; 0 where none."""
        return self._sizes[1]

    @cached_property
    def leak_size(self) -> Floats:
        """What is lost, by node, positive; 0 where none."""
        return self._leaks[0]

    @cached_property
    def leak_std(self) -> Floats:
        """Std of `leak_size`, by node; 0 where none."""
        return self._leaks[1]

    @cached_property
    def classes(self) -> list[list[tuple[str, int]]]:
        """Groups of ("stream", j) and ("node", i) that the balances cannot tell apart with the first window's meters.

        `classes_of` gives another window's.
        """
        return self.classes_of(0) if self._table.tested else []

    def classes_of(self, window: int) -> list[list[tuple[str, int]]]:
        """Return the groups that the balances cannot tell apart with the meters of one window.

        Where several errors were found, also those of which it takes as many as were found, whichever they are.
        """
        for hypotheses, part in self._table.tested:
            if window in part.windows:
                return hypotheses.classes(self._table.tied.get(window, ()))
        raise IndexError(f"no window {window}")

    @cached_property
    def bias_test(self) -> Floats:
        """|z| of the bias of each meter before compensation, as measured; NaN where it cannot show."""
        tests: Floats = self._out(self._tests[0])
        return tests

    @cached_property
    def leak_test(self) -> Floats:
        """|z| of the leak of each node before compensation, by node; NaN where it cannot show."""
        tests: Floats = self._out(self._tests[1])
        return tests

    @cached_property
    def _tests(self) -> tuple[Floats, Floats]:
        """|z| of all hypotheses, by stream and by node."""
        tests = np.full(self._table.suspects.shape, np.nan), np.full(self._table.leaks.shape, np.nan)
        for errors, part in self._table.tested:
            if errors.count:
                z = abs(errors.scores(self._table.result.residual(part))) / np.sqrt(errors.information)
                tests[0][np.ix_(part.windows, errors.streams)] = z[:, : len(errors.streams)]
                tests[1][np.ix_(part.windows, errors.nodes)] = z[:, len(errors.streams) :]
        return tests

    @cached_property
    def _sizes(self) -> tuple[Floats, Floats]:
        """Bias and its std."""
        size, spread = self._table.written(0)
        return self._out(size), self._out(spread)

    @cached_property
    def _leaks(self) -> tuple[Floats, Floats]:
        """Size of leaks and its std."""
        size, spread = self._table.written(1)
        return self._out(size), self._out(spread)

    def _out(self, values: npt.NDArray[Any]) -> Any:
        """Return values by window in the shape of what was given."""
        return values[0] if self._single else values


class Entry(NamedTuple):
    """One error of one window or several: 0 for a bias or 1 for a leak, its stream or node, size and std."""

    kind: int
    at: int
    windows: Any
    size: Any
    spread: Any


class Table:
    """The answer while it is filled: windows by streams, and windows by nodes."""

    def __init__(self, result: Result) -> None:
        self.result = result
        n_windows = result.n_windows
        by_stream, by_node = (n_windows, result.measured.shape[-1]), (n_windows, result.n_nodes)
        self.suspects, self.leaks = np.zeros(by_stream, dtype=bool), np.zeros(by_node, dtype=bool)
        self.compensated = np.zeros(by_stream, dtype=bool)
        self.entries: list[Entry] = []
        self.reconciled = np.array(result.reconciled.reshape(by_stream))
        self.measured = result.measured.reshape(by_stream)
        self.statistic, self.threshold = np.zeros(n_windows), np.full(n_windows, np.inf)
        self.tested: list[tuple[Hypotheses, Part]] = []
        self.tied: dict[int, list[list[int]]] = {}      # by window with several errors: what is like each of them

    def written(self, kind: int) -> tuple[Floats, Floats]:
        """Return size and std of what was entered, by window and stream or node; made when somebody asks."""
        shape = (self.suspects, self.leaks)[kind].shape
        size, spread = np.zeros(shape), np.zeros(shape)
        for entry in self.entries:
            if entry.kind == kind:
                size[entry.windows, entry.at] = entry.size
                spread[entry.windows, entry.at] = entry.spread
        return size, spread

    def search(self, part: Part, rules: Rules) -> None:
        """Search the windows of one pattern, some at a time."""
        errors = hypotheses_of(part.projection, rules.kinds, rules.never_suspect)
        self.tested.append((errors, part))
        if errors.count:
            search = Search(errors, rules, DRAWS[0] if part.alone else 0)
            self.threshold[part.windows] = search.limit
            for first in range(0, len(part.windows), TOGETHER):
                some = Part(part.projection, part.windows[first : first + TOGETHER])
                self._search_some(search, some)
        if rules.bounds is not None:
            self._keep_inside(part, rules.bounds)

    def _search_some(self, search: Search, part: Part) -> None:
        """Test some windows, and take errors out of those that alarm."""
        scores, largest = search.errors.screen(*self.result.given(part))
        self.statistic[part.windows] = largest
        alarmed = np.flatnonzero(largest > search.limit)
        for k in self._search_alike(search, alarmed, scores, part.windows):
            window = int(part.windows[k])
            self._write(window, search.run(scores[k], self.reconciled[window], self.measured[window]), search)

    def _search_alike(self, search: Search, alarmed: Ints, scores: Floats, windows: Ints) -> Ints:
        """Deal together with windows whose one error is the same, as a bias that lasts is; return those left over."""
        if search.bounds is not None or len(alarmed) < ALIKE:
            return alarmed
        first = screening.likeliest(scores, alarmed, search.per_std * search.leads)
        left = []
        for h in np.unique(first).tolist():
            some = alarmed[first == h]
            steps, more = search.first_step(h, scores, some)
            left.append(some[more])
            alone, step = windows[some[~more]], steps[~more]
            direction = search.direction(h)
            screening.take_out(self.reconciled, alone, step, direction.relief)
            length = direction.response[h]
            self._enter(alone, h, step / length, 1.0 / length, search, search.members(h))
        return np.sort(np.concatenate(left)) if left else alarmed

    def _keep_inside(self, part: Part, bounds: tuple[Floats, Floats]) -> None:
        """Hold windows in which no error was taken out to the bounds."""
        for k in part.windows:
            x = self.reconciled[k]
            if ((x < bounds[0]) | (x > bounds[1])).any() and not (self.suspects[k].any() or self.leaks[k].any()):
                self.reconciled[k] = move_inside(x, bounds, part.projection.covariance_of, int(k))

    def _write(self, window: int, taken: Taken, search: Search) -> None:
        """Enter what was taken out of one window, for every member of each group."""
        self.reconciled[window] = taken.reconciled
        alternatives = search.alternatives(taken.errors)
        for chosen, size, spread, alike in zip(taken.errors, taken.sizes, taken.spreads, alternatives, strict=True):
            self._enter(window, chosen, size, spread, search, alike)
        if len(taken.errors) > 1:
            self.tied[window] = [[h for h, _ in alike] for alike in alternatives]

    def _enter(self, windows: Any, chosen: int, size: Any, spread: Any, search: Search, alike: Members) -> None:
        """Enter one error of one window or several, for everything that is like it and not entered already."""
        errors = search.errors
        biases = len(errors.streams)
        if chosen < biases:
            self.compensated[windows, errors.streams[chosen]] = True
        for h, share in alike:
            kind, at = (0, errors.streams[h]) if h < biases else (1, errors.nodes[h - biases])
            if h != chosen and np.any((self.suspects, self.leaks)[kind][windows, at]):
                continue
            (self.suspects, self.leaks)[kind][windows, at] = True
            self.entries.append(Entry(kind, int(at), windows, size * share, spread * abs(share)))
