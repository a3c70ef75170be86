"""Run as a program by tests: starts the embedded database on a folder, reports, and goes on when told.

Reports pid and DSN as a line of JSON; on a line of input that is SQL it answers with the first field, on the end of
input it stops the server.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psycopg

from park.errors import StoreError
from park.store.embedded import EmbeddedPostgres


def main() -> None:
    """Start, answer, stop."""
    try:
        server = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"})
        with server, psycopg.connect(server.dsn, autocommit=True) as conn:
            say(dsn=server.dsn, pid=server.pid, me=os.getpid())
            for line in sys.stdin:
                cursor = conn.execute(line.encode())
                row = cursor.fetchone() if cursor.description else None
                say(answer=row[0] if row else None)
    except StoreError as error:
        say(error=str(error))


def say(**message: object) -> None:
    """Report."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
