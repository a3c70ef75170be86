"""A batch of readings as bytes of the spool, and back: columns one after the other, under a checksum.

Meters go by id, not by number, so that a collector with another park file, or a later version of one, replays what an
earlier one left. All numbers are little-endian.

    magic "SYR1" | rows u4 | bytes of names u4 | CRC-32 of all that follows u4
    names (JSON) | meter u4 | source_us i8 | received_us i8 | value f8 | status i8
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from park.store.readings import ReadingBatch

_MAGIC = b"SYR1"
_HEAD = struct.Struct("<4sIII")
_COLUMNS = ("<u4", "<i8", "<i8", "<f8", "<i8")
_ROW_BYTES = sum(np.dtype(column).itemsize for column in _COLUMNS)


class DamagedBatchError(ValueError):
    """Bytes that are no batch, or not the ones that were written."""


def encode_batch(batch: ReadingBatch) -> bytes:
    """Return the bytes of a batch, with the names of the meters that are in it alone."""
    used, meter = np.unique(batch.meter, return_inverse=True)
    names = json.dumps([batch.names[place] for place in used]).encode()
    columns = (meter, batch.source_us, batch.received_us, batch.value, batch.status)
    body = names + b"".join(
        np.ascontiguousarray(column, dtype).tobytes() for column, dtype in zip(columns, _COLUMNS, strict=True))
    return _HEAD.pack(_MAGIC, len(batch), len(names), zlib.crc32(body)) + body


def decode_batch(data: bytes) -> ReadingBatch:
    """Return the batch of `encode_batch`.

    Raises
    ------
    DamagedBatchError
        If the bytes are not those that were written.
    """
    if len(data) < _HEAD.size:
        raise DamagedBatchError("shorter than its head")
    magic, rows, names_bytes, checksum = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if magic != _MAGIC or len(body) != names_bytes + rows * _ROW_BYTES or zlib.crc32(body) != checksum:
        raise DamagedBatchError("checksum does not fit")
    columns, at = [], names_bytes
    for column in _COLUMNS:
        dtype = np.dtype(column)
        columns.append(np.frombuffer(body, dtype, rows, at))
        at += rows * dtype.itemsize
    meter, source_us, received_us, value, status = columns
    return ReadingBatch(json.loads(bytes(body[:names_bytes])), meter.astype(np.int64), source_us.astype(np.int64),
                        received_us.astype(np.int64), value.astype(np.float64), status.astype(np.int64))


def joined(batches: Sequence[ReadingBatch]) -> ReadingBatch:
    """Return the rows of batches, in order, as one batch."""
    number: dict[str, int] = {}
    meters = []
    for batch in batches:
        place = np.array([number.setdefault(name, len(number)) for name in batch.names], dtype=np.int64)
        meters.append(place[batch.meter])
    return ReadingBatch(
        list(number),
        _column(meters, np.int64),
        _column([batch.source_us for batch in batches], np.int64),
        _column([batch.received_us for batch in batches], np.int64),
        _column([batch.value for batch in batches], np.float64),
        _column([batch.status for batch in batches], np.int64),
    )


def _column(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts])
