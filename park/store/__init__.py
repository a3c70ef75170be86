"""Where a park's data live: PostgreSQL, reached with psycopg.

`schema` makes the tables, `editions` makes of them what TimescaleDB offers, `retention` says how long what is kept,
`storage` what all costs. `readings` writes and reads raw readings and `arrivals` announces them, `versions` keeps each
park description, `embedded` runs a PostgreSQL of one's own and `kept_running` starts it again, `location` finds the
database that is meant. Results are written by `processing`, which owns their migrations.
"""

from park.store.arrivals import Arrival, ArrivalListener, arrivals_after, latest_arrival
from park.store.connection import connect
from park.store.readings import ReadingBatch, ReadingWriter, WriteResult, read_window, reading_batch
from park.store.schema import migrate
from park.store.storage import status
from park.store.versions import load_stored_park, store_park

__all__ = [
    "Arrival",
    "ArrivalListener",
    "ReadingBatch",
    "ReadingWriter",
    "WriteResult",
    "arrivals_after",
    "connect",
    "latest_arrival",
    "load_stored_park",
    "migrate",
    "read_window",
    "reading_batch",
    "status",
    "store_park",
]
