"""Plain text for people: tables with aligned columns, lists and sentences that keep to a width.

Widths are those of the terminal's cells: a Chinese character takes two, a combining accent none. Not here: what is
said (`symbiosis.check_text`), and the live view (`symbiosis.terminal`). The main path enters at `table`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Sequence

GAP = "  "
INDENT = 4


def width_of_output() -> int | None:
    """Return the cells that a line of standard output has; None where it goes on for ever: into a file or a pipe."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def table(rows: Sequence[Sequence[str]], numbers: Container[str], width: int | None = None) -> Iterator[str]:
    """Yield the rows with their columns aligned.

    Parameters
    ----------
    rows
        The first one is the head; all have as many cells.
    numbers
        Names of the columns that are aligned to the right.
    width
        Cells that a line has; None: as many as it takes. Where a row needs more, its last cell stands below it.
    """
    from rich.cells import cell_len

    sizes = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    right = [name in numbers for name in rows[0]]
    for row in rows:
        cells = [
            " " * (size - cell_len(cell)) + cell if to_right else cell + " " * (size - cell_len(cell))
            for cell, size, to_right in zip(row, sizes, right, strict=True)
        ]
        line = GAP.join(cells).rstrip()
        if width is None or cell_len(line) <= width:
            yield line
            continue
        yield GAP.join(cells[:-1]).rstrip()
        yield from wrapped(row[-1].split(" "), " ", width, INDENT, INDENT)


def listed(head: str, items: Iterable[str], width: int | None = None) -> Iterator[str]:
    """Yield `head: item, item, ...`, further lines set in."""
    words = [f"{item}," for item in items]
    words[-1] = words[-1].removesuffix(",")
    yield from wrapped([*f"{head}:".split(" "), *words], " ", width, 0, INDENT)


def sentence(text: str, width: int | None = None, indent: int = 0) -> Iterator[str]:
    """Yield a text in lines, those after the first set in further."""
    yield from wrapped(text.split(" "), " ", width, indent, indent + INDENT)


def wrapped(words: Iterable[str], between: str, width: int | None, first: int, further: int) -> Iterator[str]:
    """Yield words in lines of at most `width` cells; a word that is longer has a line of its own."""
    from rich.cells import cell_len

    line, indent = "", first
    for word in words:
        longer = f"{line}{between}{word}" if line else word
        if line and width is not None and indent + cell_len(longer) > width:
            yield " " * indent + line
            line, indent = word, further
        else:
            line = longer
    yield " " * indent + line
