"""Windows with the same usable meters, and windows that no reconciliation can mend.

Here: the grouping of windows, and the refusal of those whose sure values contradict each other. Not here: the
projection that each group gets (network.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance.errors import ContradictionError
from processing.balance.inputs import Bools, Floats, Ints
from processing.balance.result import Part


def patterns_of(usable: Bools) -> list[tuple[Ints, Bools]]:
    """Group windows with the same usable meters: (window numbers, the pattern), in order of first appearance."""
    if len(usable) == 0:
        return []
    if (usable == usable[0]).all():
        return [(np.arange(len(usable)), usable[0])]
    return [(members, usable[members[0]]) for members in equal_rows(np.packbits(usable, axis=1))]


def equal_rows(table: npt.NDArray[Any]) -> list[Ints]:
    """Row numbers of `table` grouped by equal rows."""
    groups: dict[bytes, list[int]] = {}
    for k, row in enumerate(np.ascontiguousarray(table)):
        groups.setdefault(row.tobytes(), []).append(k)
    return [np.array(members) for members in groups.values()]


def check_for_contradiction(part: Part, values: Floats, rhs: Floats | None) -> None:
    """Refuse windows whose balances are open where nothing can be adjusted."""
    found = part.projection.contradiction(values, rhs)
    if found is not None:
        window, nodes, left = found
        raise ContradictionError(
            f"window {part.windows[window]}: the balances of nodes {nodes} leave {left:.6g} open and no stream with a "
            "positive std can take it up"
        )
