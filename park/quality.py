"""Quality of a value: good, uncertain or bad, from its status code.

A status is an OPC UA StatusCode (OPC 10000-4, 7.39): 32 bits whose two highest are the severity, 00 good,
01 uncertain, 10 bad; 11 is reserved and taken as bad. Whether an uncertain value is used is decided in processing.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

GOOD_STATUS = 0x00000000
UNCERTAIN_STATUS = 0x40000000
BAD_STATUS = 0x80000000
NO_COMMUNICATION = 0x80310000       # BadNoCommunication: whoever should send it is known to be gone

_SEVERITY_SHIFT = 30


class Quality(IntEnum):
    """What a value is worth, best first."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2


def quality_of(status: int) -> Quality:
    """Return the quality of one status code.

    Examples
    --------
    >>> quality_of(0x40930000)
    <Quality.UNCERTAIN: 1>
    """
    return Quality(min(status >> _SEVERITY_SHIFT & 3, Quality.BAD))


def qualities_of(status: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the quality of each status code.

    Parameters
    ----------
    status
        StatusCodes, any shape of unsigned integers [1].

    Returns
    -------
    ndarray of uint8
        Values of `Quality`, same shape [1].
    """
    severity: npt.NDArray[np.int64] = np.asarray(status, dtype=np.int64) >> _SEVERITY_SHIFT & 3
    return np.minimum(severity, np.int64(Quality.BAD)).astype(np.uint8)
