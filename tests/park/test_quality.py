"""Status codes and what they are worth."""

from __future__ import annotations

import numpy as np
import pytest

from park.quality import BAD_STATUS, GOOD_STATUS, UNCERTAIN_STATUS, Quality, qualities_of, quality_of

CODES = [
    (0x00000000, Quality.GOOD),
    (0x00960000, Quality.GOOD),             # GoodLocalOverride
    (0x40000000, Quality.UNCERTAIN),
    (0x40930000, Quality.UNCERTAIN),        # UncertainSensorNotAccurate
    (0x80000000, Quality.BAD),
    (0x80310000, Quality.BAD),              # BadNoCommunication
    (0xC0000000, Quality.BAD),              # reserved
    (0xFFFFFFFF, Quality.BAD),
]


@pytest.mark.parametrize(("status", "quality"), CODES)
def test_two_highest_bits_decide(status: int, quality: Quality) -> None:
    assert quality_of(status) is quality


def test_arrays_as_single_codes() -> None:
    status = np.array([code for code, _ in CODES], dtype=np.uint32)
    assert qualities_of(status).tolist() == [quality for _, quality in CODES]
    assert qualities_of(status.astype(np.int64).reshape(2, 4)).shape == (2, 4)


def test_plain_codes() -> None:
    assert [quality_of(s) for s in (GOOD_STATUS, UNCERTAIN_STATUS, BAD_STATUS)] == list(Quality)
