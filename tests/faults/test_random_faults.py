"""Random faults, many at once: nothing is lost, invented or altered, and no gap goes unmarked.

`SYMBIOSIS_FAULTS=200 pytest tests/faults -s` is the long mode; `SYMBIOSIS_FAULTS_SEED` draws others.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from symbiosis.delivery import Delivery
from tests.faults import kinds
from tests.faults.rig import Rig, mount_disk, unmount_disk

COUNT = int(os.environ.get("SYMBIOSIS_FAULTS", "20"))
AT_ONCE = 3             # faults that last, or wait for the thing that they take hold of
SEED = int(os.environ.get("SYMBIOSIS_FAULTS_SEED", "1"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A small disk of its own, and whether it is one."""
    folder = tmp_path / "disk"
    mounted = mount_disk(folder)
    if os.environ.get("CI"):
        assert mounted, "a disk cannot be mounted here, so no full one can be made (hint: run as root)"
        assert kinds.FAKETIME, "no clock can be stepped without libfaketime (hint: apt-get install faketime)"
    yield folder, mounted
    if mounted:
        unmount_disk(folder)


@pytest.mark.timeout(180 + 10 * COUNT)
async def test_nothing_is_lost_whatever_breaks(tmp_path: Path, disk: tuple[Path, bool]) -> None:
    rng = random.Random(SEED)
    folder, mounted = disk
    possible = kinds.possible(disk=mounted)
    async with Rig(tmp_path, folder) as rig:
        story = await _inflict(rig, rng, [possible[n % len(possible)] for n in range(COUNT)])
        await rig.ensure_database()
        await rig.recovered()
        delivery = await rig.judge()
    print(f"\n{len(story)} faults, seed {SEED}", *story, _said(delivery), sep="\n")    # noqa: T201
    assert len(story) == COUNT
    assert delivery.published > 20 * COUNT
    assert delivery.is_whole, (delivery.examples, story)
    assert delivery.stored > 0.25 * delivery.published, "gaps are for what nobody could hold, not for everything"


async def _inflict(rig: Rig, rng: random.Random, wanted: list[str]) -> list[str]:
    """Make all faults, in random order, a second or two apart; return what was done."""
    rng.shuffle(wanted)
    locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    few = asyncio.Semaphore(AT_ONCE)
    story: list[str] = []
    began = time.monotonic()

    async def one(kind: str, drawn: random.Random) -> None:
        async with locks[kinds.TARGETS[kind]]:
            at = time.monotonic() - began
            said = await kinds.KINDS[kind](rig, drawn)
            story.append(f"{at:6.1f} s  {kind}: {said}")
        few.release()

    async with asyncio.TaskGroup() as group:
        for kind in wanted:
            await few.acquire()
            group.create_task(one(kind, random.Random(rng.random())))
            await asyncio.sleep(rng.uniform(0.5, 3.0))
    return story


def _said(delivery: Delivery) -> str:
    gaps = [(gap.meter or gap.source, gap.cause, explained) for gap, explained in delivery.gaps if explained]
    return (
        f"sent {delivery.published}, stored {delivery.stored}, lost {delivery.lost}, unsent {delivery.unsent}, "
        f"altered {delivery.altered}, conflict {delivery.conflict}, unmarked gaps {delivery.unmarked_gaps}, "
        f"in marked gaps {delivery.in_gaps}: {gaps}\n{delivery.examples}"
    )
