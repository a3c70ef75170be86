"""Since when each meter of a run owes readings: a small file beside the spool.

It is written before the collector says that every subscription is in force. A collector that is killed before anything
of a meter is stored would else leave no trace of having listened, and the next one would not know that readings are
missing. The main path enters at `read_begun`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from collector.whole_file import write_whole

FILE_NAME = "begun.json"


def read_begun(folder: Path, run_us: int) -> dict[str, int]:
    """Return since when the meters of the run that started at `run_us` owe readings [us]; none of another run.

    A file that cannot be read says nothing: then readings are owed from now on.
    """
    try:
        document = json.loads((folder / FILE_NAME).read_text("utf-8"))
        if document["run_us"] != run_us:
            return {}
        return {str(meter): int(us) for meter, us in document["meters"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_begun(folder: Path, run_us: int, meters: Mapping[str, int]) -> None:
    """Say since when the meters of a run owe readings [us], durably.

    Raises
    ------
    OSError
        If the disk takes nothing; the file is then as it was.
    """
    write_whole(folder / FILE_NAME, json.dumps({"run_us": run_us, "meters": dict(meters)}, ensure_ascii=False))
