"""Windows shared between threads.

Here: `share_out`. Not here: what is done with them; the compiled loops let other threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def share_out(task: Callable[[int, int], Any], count: int, block: int, threads: int) -> list[Any]:
    """Run task(first, last) over 0..count, in as many threads as asked, each some whole blocks; return the answers."""
    each = max(-(-count // (max(threads, 1) * block)) * block, 1)
    spans = [(first, min(first + each, count)) for first in range(0, count, each)]
    if len(spans) <= 1:
        return [task(0, count)]
    with ThreadPoolExecutor(len(spans) - 1) as pool:  # the thread that asks takes its share too
        others = [pool.submit(task, *span) for span in spans[1:]]
        return [task(*spans[0]), *(other.result() for other in others)]
