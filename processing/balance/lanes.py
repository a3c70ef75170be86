"""Windows side by side: one number of each of `WIDTH` windows, held in the processor's vector registers.

Here: the few operations on such rows that kernels.py is written in, as LLVM's vectors, so that they are fast whatever
the compiler makes of a loop; each is at the same time a plain function of NumPy, which is what it does and what runs
without the compiler. Not here: any loop. A block is an array of shape (n_rows, WIDTH), one column a window. Every
window gets the same operations in the same order, and no sum over windows is ever made: a window's digits do not depend
on the windows beside it.
"""

# numba types its extension points in part: an intrinsic is called without its first argument
# mypy: disable-error-code="call-arg,no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_model

Floats = npt.NDArray[np.float64]

WIDTH = 32
"""Windows side by side: enough for indices and branches to cost little; 1,000 streams, 500 balances: 384 KB."""

TILE = 8
"""Rows and columns that `turn` turns at once: doubles of one cache line, and of the widest registers."""

LINE = 64
"""Bytes of a cache line: a row that starts at a multiple of it is read without touching one line more."""

SPARE = 4
"""Blocks kept between calls, of the largest networks that were solved: one for each thread at work at a time."""

_spare: list[Floats] = []

_ROW = ir.VectorType(ir.DoubleType(), WIDTH)
_PIECE = ir.VectorType(ir.DoubleType(), TILE)
_INT = ir.IntType(32)
_ALIGNED = 8


def new_block(n_rows: int) -> Floats:
    """Return zeros of shape (n_rows, WIDTH), each row at the start of a cache line."""
    memory = np.zeros(n_rows * WIDTH + LINE // 8)
    first = (-memory.ctypes.data // 8) % (LINE // 8)
    block: Floats = memory[first : first + n_rows * WIDTH].reshape(n_rows, WIDTH)
    return block


@contextmanager
def borrowed_block(n_rows: int) -> Iterator[Floats]:
    """Lend a block of shape (n_rows, WIDTH) with whatever it holds; it is kept for the next who asks.

    To touch new memory for the first time takes longer than to reconcile in it.
    """
    try:
        memory = _spare.pop()  # another thread may have taken the last
    except IndexError:
        memory = new_block(n_rows)
    if len(memory) < n_rows:
        memory = new_block(n_rows)
    try:
        yield memory[:n_rows]
    finally:
        if len(_spare) < SPARE:
            _spare.append(memory)


def nothing() -> Floats:
    """Return a row of zeros."""
    return np.zeros(WIDTH)


def load(block: Floats, row: int) -> Floats:
    """Return one row of a block."""
    lanes: Floats = block[row].copy()
    return lanes


def store(block: Floats, row: int, lanes: Floats) -> None:
    """Write one row of a block."""
    block[row] = lanes


def scaled(share: float, lanes: Floats) -> Floats:
    """Return share times lanes."""
    return share * lanes


def plus(total: Floats, share: float, lanes: Floats) -> Floats:
    """Return total + share * lanes, each of the two rounded."""
    return total + share * lanes


def minus(total: Floats, share: float, lanes: Floats) -> Floats:
    """Return total - share * lanes, each of the two rounded."""
    return total - share * lanes


def larger(most: Floats, share: float, lanes: Floats) -> Floats:
    """Return |share * lanes| where that is larger than most, else most."""
    size = abs(share * lanes)
    return np.where(size > most, size, most)


def fetch(block: Floats, row: int) -> None:
    """Ask for a row that will be loaded later to be brought near; changes nothing."""


def turn(source: Floats, row: int, column: int, target: Floats, to_row: int, to_column: int) -> None:
    """Copy a tile of TILE by TILE numbers, rows becoming columns."""
    tile = source[row : row + TILE, column : column + TILE]
    target[to_row : to_row + TILE, to_column : to_column + TILE] = tile.T


class _Lanes(types.Type):
    """Numba's type of a row held in registers."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes({WIDTH})")


_LANES = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    """A row is a vector of LLVM."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _ROW)


def _place(context: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any) -> tuple[Any, Any]:
    """Return the address of one number of a contiguous array, and the array's numbers a row."""
    made = context.make_array(kind)(context, builder, array)
    across = cgutils.unpack_tuple(builder, made.shape)[1]
    return builder.gep(made.data, [builder.add(builder.mul(row, across), column)]), across


def _row(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    """Return the address of one row of a block."""
    made = context.make_array(kind)(context, builder, array)
    return builder.gep(made.data, [builder.mul(row, row.type(WIDTH))])


def _spread(builder: Any, number: Any) -> Any:
    """Return a row of which every lane is the number."""
    empty = ir.Constant(_ROW, ir.Undefined)
    one = builder.insert_element(empty, number, _INT(0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_INT, WIDTH), [0] * WIDTH))


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the columns of a tile given by rows: off-diagonal squares of side 1, 2, 4 change places."""
    rows, kind = list(rows), ir.VectorType(_INT, TILE)
    for side in (1, 2, 4):
        upper = ir.Constant(kind, [k if not k & side else TILE + k - side for k in range(TILE)])
        lower = ir.Constant(kind, [k + side if not k & side else TILE + k for k in range(TILE)])
        for r in (r for r in range(TILE) if not r & side):
            a, b = rows[r], rows[r + side]
            rows[r], rows[r + side] = builder.shuffle_vector(a, b, upper), builder.shuffle_vector(a, b, lower)
    return rows


def _check_for_strides(array: Any) -> None:
    """Refuse to compile for an array whose rows do not follow each other: addresses are counted without strides."""
    if array.layout != "C":
        raise TypingError(f"lanes are of contiguous arrays, got layout {array.layout}")


@intrinsic
def _nothing(_typing: Any) -> Any:
    def generate(_context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(_ROW, [0.0] * WIDTH)

    return _LANES(), generate


@intrinsic
def _load(_typing: Any, block: Any, row: Any) -> Any:
    _check_for_strides(block)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _row(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(place, _ROW.as_pointer()), align=_ALIGNED)

    return _LANES(block, row), generate


@intrinsic
def _store(_typing: Any, block: Any, row: Any, lanes: Any) -> Any:
    _check_for_strides(block)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _row(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], builder.bitcast(place, _ROW.as_pointer()), align=_ALIGNED)
        return context.get_dummy_value()

    return types.void(block, row, lanes), generate


@intrinsic
def _scaled(_typing: Any, share: Any, lanes: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fmul(_spread(builder, arguments[0]), arguments[1])

    return _LANES(share, lanes), generate


@intrinsic
def _plus(_typing: Any, total: Any, share: Any, lanes: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fadd(arguments[0], builder.fmul(_spread(builder, arguments[1]), arguments[2]))

    return _LANES(total, share, lanes), generate


@intrinsic
def _minus(_typing: Any, total: Any, share: Any, lanes: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fsub(arguments[0], builder.fmul(_spread(builder, arguments[1]), arguments[2]))

    return _LANES(total, share, lanes), generate


@intrinsic
def _larger(_typing: Any, most: Any, share: Any, lanes: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        product = builder.fmul(_spread(builder, arguments[1]), arguments[2])
        kind = ir.FunctionType(_ROW, [_ROW])
        size = builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fabs.v{WIDTH}f64"), [product])
        return builder.select(builder.fcmp_ordered(">", size, arguments[0]), size, arguments[0])

    return _LANES(most, share, lanes), generate


@intrinsic
def _fetch(_typing: Any, block: Any, row: Any) -> Any:
    _check_for_strides(block)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = _row(context, builder, signature.args[0], *arguments)
        for column in range(0, WIDTH, LINE // 8):
            line = builder.gep(place, [ir.IntType(64)(column)])
            builder.call(prefetch, [builder.bitcast(line, byte), _INT(0), _INT(3), _INT(1)])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(block, row), generate


@intrinsic
def _turn(_typing: Any, source: Any, row: Any, column: Any, target: Any, to_row: Any, to_column: Any) -> Any:
    _check_for_strides(source)
    _check_for_strides(target)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        here, across = _place(context, builder, signature.args[0], *arguments[:3])
        there, along = _place(context, builder, signature.args[3], *arguments[3:])
        pointer = _PIECE.as_pointer()
        starts = [builder.gep(here, [builder.mul(across, across.type(r))]) for r in range(TILE)]
        rows = [builder.load(builder.bitcast(start, pointer), align=_ALIGNED) for start in starts]
        for r, piece in enumerate(_turned(builder, rows)):
            start = builder.gep(there, [builder.mul(along, along.type(r))])
            builder.store(piece, builder.bitcast(start, pointer), align=_ALIGNED)
        return context.get_dummy_value()

    return types.void(source, row, column, target, to_row, to_column), generate


# numba wants the very same arguments, and no annotation, on both levels
overload(nothing)(lambda: lambda: _nothing())
overload(load)(lambda block, row: lambda block, row: _load(block, row))
overload(store)(lambda block, row, lanes: lambda block, row, lanes: _store(block, row, lanes))
overload(scaled)(lambda share, lanes: lambda share, lanes: _scaled(share, lanes))
overload(plus)(lambda total, share, lanes: lambda total, share, lanes: _plus(total, share, lanes))
overload(minus)(lambda total, share, lanes: lambda total, share, lanes: _minus(total, share, lanes))
overload(larger)(lambda most, share, lanes: lambda most, share, lanes: _larger(most, share, lanes))
overload(fetch)(lambda block, row: lambda block, row: _fetch(block, row))
overload(turn)(
    lambda source, row, column, target, to_row, to_column: (
        lambda source, row, column, target, to_row, to_column: _turn(source, row, column, target, to_row, to_column)
    )
)
