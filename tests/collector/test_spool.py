"""The spool's file: order, bounds, kills, torn ends, damage, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from collector.coverage import Gap
from collector.spool import Spool, SpoolDamagedError, SpoolFullError, SpoolSettings
from collector.spool_format import DamagedBatchError, decode_batch, encode_batch, joined
from collector.spool_rescue import NOTHING, open_or_rescue, rescue
from park.errors import InputError, SpoolError
from park.store.dead_letters import DeadLetter
from park.store.readings import ReadingBatch, reading_batch

LARGE = 5_000       # rows: a batch of 11 pages


def batch_of(number: int, rows: int = 3, meter: str = "M") -> ReadingBatch:
    """A batch whose source times tell which it is."""
    return reading_batch([meter] * rows, number * 1_000_000 + np.arange(rows), number, float(number))


def numbers(spool: Spool) -> list[int]:
    """Which batches wait, oldest first."""
    return [int(batch.value[0]) for _, batch in spool._stored()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool"


def killed_with(folder: Path, batches: int, then: str = "") -> None:
    """Leave the spool of a collector that was killed: nearly all of it is in the log."""
    code = f"""
import os, signal
from pathlib import Path
import numpy as np
from collector.spool import Spool, SpoolSettings
from park.store.readings import reading_batch
spool = Spool(SpoolSettings(Path({str(folder)!r})))
spool.open()
for number in range({batches}):
    spool.append(reading_batch(["M"] * 3, number * 1_000_000 + np.arange(3), number, float(number)))
{then}
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL


def opened(folder: Path, **settings: int) -> Spool:
    spool = Spool(SpoolSettings(folder, **settings))
    open_or_rescue(spool)
    return spool


def fill(spool: Spool, number: int, why: str) -> int:
    """Append batches from `number` on until the spool refuses one for this reason; return its number."""
    for each in range(number, 1000):
        try:
            spool.append(batch_of(each, LARGE))
        except SpoolError as error:
            assert why in str(error)        # noqa: PT017 - which one is refused is the disk's to say
            return each
    raise AssertionError("it takes everything")


def assert_same(a: ReadingBatch, b: ReadingBatch) -> None:
    assert [a.names[place] for place in a.meter] == [b.names[place] for place in b.meter]
    for column in ("source_us", "received_us", "value", "status"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column))


# -- the bytes of a batch ---------------------------------------------------------------------------------------------


def test_a_batch_comes_back_exactly_with_the_names_of_its_own_meters_alone() -> None:
    batch = ReadingBatch(
        ["power.FT1", "never read", "Wärme \udc80 \0"], np.array([2, 0, 2]), np.array([-1, 0, 2**62]),
        np.array([5, 6, 7]), np.array([np.nan, -0.0, 1e-300]), np.array([0, 0x80000000, 2**40]))
    back = decode_batch(encode_batch(batch))
    assert_same(batch, back)
    assert list(back.names) == ["power.FT1", "Wärme \udc80 \0"]
    assert np.signbit(back.value[1])


def test_every_changed_or_missing_byte_is_noticed() -> None:
    data = encode_batch(batch_of(1))
    for place in range(len(data)):
        with pytest.raises(DamagedBatchError):
            decode_batch(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DamagedBatchError):
            decode_batch(data[:place])


def test_batches_of_different_parks_are_joined_by_the_names_of_their_meters() -> None:
    first = ReadingBatch(["A", "B"], *(np.array(column) for column in ([1], [1], [1], [1.0], [0])))
    second = ReadingBatch(["C", "B"], *(np.array(column) for column in ([0, 1], [2, 3], [2, 2], [2.0, 3.0], [0, 0])))
    whole = joined([first, second])
    assert [whole.names[place] for place in whole.meter] == ["B", "C", "B"]
    assert whole.source_us.tolist() == [1, 2, 3]
    assert len(joined([])) == 0


# -- order and counts -------------------------------------------------------------------------------------------------


def test_the_oldest_come_first_and_several_at_once(folder: Path) -> None:
    spool = opened(folder)
    for number in range(5):
        spool.append(batch_of(number))
    assert (spool.batches, spool.rows) == (5, 15)
    head = spool.head(7)
    assert head.batch.value.tolist() == [0.0] * 3 + [1.0] * 3
    spool.remove(head)
    assert (spool.batches, spool.rows) == (3, 9)
    assert numbers(spool) == [2, 3, 4]
    assert len(spool.head(1).batch) == 3            # at least one, however large
    spool.close()


def test_what_was_put_is_there_after_the_process_was_killed_and_what_was_removed_is_not(folder: Path) -> None:
    killed_with(folder, 20, "spool.remove(spool.head(12))")
    spool = opened(folder)
    assert numbers(spool) == list(range(4, 20))
    assert spool.last_times() == {"M": 19_000_002}
    spool.close()


def test_gaps_and_letters_are_kept_beside(folder: Path) -> None:
    spool = opened(folder)
    gap = Gap("opcua:x", 1, None, "lost", meter="FT1")
    letter = DeadLetter("mqtt", "t\udc80", None, "no JSON", "mqtt", b"{\xff", 2, datetime(2026, 1, 1, tzinfo=UTC))
    spool.append(NOTHING, [gap], [letter])
    gap.ended_us = 5
    spool.append(batch_of(1), [gap], [letter])
    spool.close()
    spool = opened(folder)
    assert spool.gaps() == [gap]
    letters = spool.oldest_letters(10)
    assert [(one.subject, one.payload, one.received_at, one.id) for one in letters] == [
        ("t?", letter.payload, letter.received_at, number) for number in (1, 2)]
    spool.remove_letters(letters[:1])
    spool.forget_gaps([gap])
    spool.close()
    spool = opened(folder)
    assert (spool.gaps(), spool.letters, spool.batches) == ([], 1, 1)
    spool.close()


def test_an_empty_spool_gives_its_disk_back(folder: Path) -> None:
    spool = opened(folder)
    for number in range(30):
        spool.append(batch_of(number, LARGE))
    assert sum(file.stat().st_size for file in folder.iterdir()) > 5_000_000
    while not spool.is_empty:
        spool.remove(spool.head(20_000))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    spool.append(batch_of(30))
    assert numbers(spool) == [30]
    spool.close()


# -- who may, and how much --------------------------------------------------------------------------------------------


def test_two_collectors_never_share_one(folder: Path) -> None:
    spool = opened(folder)
    with pytest.raises(SpoolError, match=rf"in use by process {os.getpid()}.*--spool"):
        Spool(SpoolSettings(folder))
    spool.close()
    opened(folder).close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot write to the spool"):
        Spool(SpoolSettings(tmp_path / "file" / "spool"))


def test_a_size_that_holds_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="at least 1 MiB, got 1000 bytes"):
        SpoolSettings(folder, max_bytes=1000)


def test_the_file_of_a_newer_version_is_not_touched(folder: Path) -> None:
    spool = opened(folder)
    spool.append(batch_of(1))
    assert spool._conn is not None
    spool._conn.execute("pragma user_version = 2")
    spool.close()
    spool = Spool(SpoolSettings(folder))
    with pytest.raises(SpoolError, match="written by a newer version"):
        open_or_rescue(spool)
    spool.close()
    assert len(list(folder.glob("*damaged*"))) == 0


def test_a_full_spool_refuses_and_takes_again_when_there_is_room(folder: Path) -> None:
    spool = opened(folder, max_bytes=2 << 20)
    taken = fill(spool, 0, "has its full size of 2097152 bytes")
    assert 8 <= taken <= 12
    assert numbers(spool) == list(range(taken))
    spool.remove(spool.head(2 * LARGE))
    spool.append(batch_of(taken, LARGE))
    assert numbers(spool) == list(range(2, taken + 1))
    spool.close()


def test_a_disk_that_takes_no_more_loses_nothing_and_is_used_again(folder: Path) -> None:
    spool = opened(folder)
    spool.append(batch_of(0, LARGE))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        taken = fill(spool, 1, "cannot use")
        assert numbers(spool) == list(range(taken))
        head = spool.head(2 * LARGE)
        spool.remove(head)                      # the disk may refuse the deletion, but they are not given again
        assert numbers(spool) == list(range(2, taken))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    spool.append(batch_of(taken, LARGE))
    assert numbers(spool) == list(range(2, taken + 1))
    spool.close()
    spool = opened(folder)
    assert numbers(spool)[-1] == taken
    spool.close()


# -- torn and damaged files -------------------------------------------------------------------------------------------


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file of this process take anything."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_read_and_what_is_removed_is_not_given_again(folder: Path) -> None:
    killed_with(folder, 20)
    with no_room():
        spool = opened(folder)
        assert numbers(spool) == list(range(20))
        assert spool.last_times() == {"M": 19_000_002}
        spool.remove(spool.head(12))
        assert numbers(spool) == list(range(4, 20))
        with pytest.raises(SpoolFullError):
            spool.append(batch_of(20))
    spool.append(batch_of(20))
    assert numbers(spool) == list(range(4, 21))
    spool.close()


def test_a_disk_without_room_for_a_first_file_is_full_until_there_is_some(folder: Path) -> None:
    with no_room():
        spool = Spool(SpoolSettings(folder))
        for _ in range(2):
            with pytest.raises(SpoolFullError, match="cannot use"):
                open_or_rescue(spool)
    spool.append(batch_of(0))
    assert numbers(spool) == [0]
    spool.close()


def test_damage_on_a_full_disk_waits_for_room(folder: Path) -> None:
    spool = opened(folder)
    spool.append(batch_of(0))
    spool.close()
    path = folder / "spool.sqlite3"
    path.write_bytes(b"nothing" * 3000)
    spool = Spool(SpoolSettings(folder))
    with no_room(), pytest.raises(SpoolError, match=r"damaged.*no room to mend it") as refused:
        open_or_rescue(spool)
    assert not isinstance(refused.value, SpoolFullError)        # else a start would take it for an empty one
    assert path.read_bytes() == b"nothing" * 3000
    assert open_or_rescue(spool)[1] is not None
    spool.append(batch_of(1))
    assert numbers(spool) == [1]
    spool.close()


def test_a_damaged_log_on_a_full_disk_is_said_though_not_kept(folder: Path, caplog) -> None:
    killed_with(folder, 10)
    log = folder / "spool.sqlite3-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    log.write_bytes(data)
    with no_room():
        spool = opened(folder)
        assert 0 < len(numbers(spool)) < 10
    spool.close()
    assert "no copy is kept" in caplog.text
    assert not list(folder.glob("*damaged*"))


def test_a_torn_end_of_the_log_is_let_go_and_all_before_it_is_there(folder: Path, caplog) -> None:
    killed_with(folder, 10)
    log = folder / "spool.sqlite3-wal"
    os.truncate(log, log.stat().st_size - 100)
    spool = opened(folder)
    assert numbers(spool) == list(range(9))
    spool.append(batch_of(9))
    assert numbers(spool) == list(range(10))
    spool.close()
    assert "damaged" not in caplog.text         # a transaction that never ended was never acknowledged


def test_a_log_that_is_damaged_before_its_end_is_kept_aside_and_said(folder: Path, caplog) -> None:
    killed_with(folder, 10)
    log = folder / "spool.sqlite3-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    log.write_bytes(data)
    spool = opened(folder)
    assert 0 < len(numbers(spool)) < 10
    spool.close()
    [aside] = folder.glob("*damaged*")
    assert aside.read_bytes() == data
    assert aside.name in caplog.text


def test_a_damaged_batch_is_set_aside_with_its_file_and_the_others_are_taken_over(folder: Path, caplog) -> None:
    spool = opened(folder)
    for number in range(30):
        spool.append(batch_of(number, LARGE))
    spool.append(NOTHING, [], [DeadLetter("mqtt", "t", None, "r", "mqtt", b"x", 1, datetime(2026, 1, 1, tzinfo=UTC))])
    spool.close()
    path = folder / "spool.sqlite3"
    data = bytearray(path.read_bytes())
    at = data.index(encode_batch(batch_of(7, LARGE))[:100])
    data[at + 60] ^= 0xFF
    path.write_bytes(data)
    spool = Spool(SpoolSettings(folder))
    _, rescued = open_or_rescue(spool)
    assert rescued is not None
    assert numbers(spool) == [n for n in range(30) if n != 7]
    assert (rescued.lost, rescued.rows, spool.rows) == (1, 29 * LARGE, 29 * LARGE)
    assert rescued.holes == [(6_000_000 + LARGE - 1, 8_000_000)]
    assert rescued.aside.read_bytes() == data
    assert rescued.aside.name in caplog.text
    assert spool.letters == 1
    spool.append(batch_of(30))
    spool.close()
    spool = opened(folder)
    assert numbers(spool)[-1] == 30
    spool.close()


@pytest.mark.parametrize("harm", ["head", "emptied", "cut", "noise"])
def test_a_file_that_is_none_any_more_is_set_aside_and_a_new_one_begun(folder: Path, caplog, harm: str) -> None:
    spool = opened(folder)
    for number in range(30):
        spool.append(batch_of(number, LARGE))
    spool.close()
    path = folder / "spool.sqlite3"
    data = path.read_bytes()
    harmed = {"head": b"\0" * 4096 + data[4096:], "emptied": b"nothing" * 3000, "cut": data[: len(data) // 2 + 77],
              "noise": data[:2_000_000] + np.random.default_rng(1).bytes(40_000) + data[2_040_000:]}[harm]
    path.write_bytes(harmed)
    spool = Spool(SpoolSettings(folder))
    _, rescued = open_or_rescue(spool)
    assert rescued is not None
    assert rescued.aside.read_bytes() == harmed
    assert rescued.aside.name in caplog.text
    assert rescued.holes
    left = numbers(spool)
    assert left == sorted(left)
    if harm == "noise":
        assert len(left) >= 20
    spool.append(batch_of(99))
    assert numbers(spool) == [*left, 99]
    spool.close()


def test_damage_that_shows_while_it_is_read_is_an_error_of_its_own(folder: Path) -> None:
    spool = opened(folder)
    spool.append(batch_of(1))
    assert spool._conn is not None
    spool._conn.execute("update batch set readings = zeroblob(50)")
    with pytest.raises(SpoolDamagedError, match="batch 1: checksum does not fit"):
        spool.head(10)
    spool.close()


def test_numbers_go_on_in_the_file_that_replaces_a_damaged_one(folder: Path) -> None:
    spool = opened(folder)
    for number in range(3):
        spool.append(batch_of(number))
    head = spool.head(1)
    spool.drop()
    (folder / "spool.sqlite3").write_bytes(b"nothing" * 3000)
    rescue(spool, SpoolDamagedError("harmed"))
    spool.append(batch_of(9))
    spool.remove(head)          # of the file before: what is in this one stays
    assert numbers(spool) == [9]
    assert (spool.batches, spool.rows) == (1, 3)
    spool.close()
