"""Where a park's data live: PostgreSQL, reached with psycopg.

`schema` makes the tables, `readings` writes and reads raw readings, `versions` keeps each park description,
`embedded` runs a PostgreSQL of one's own, `location` finds the database that is meant. Results are written by
`processing`, which owns their migrations.
"""

from park.store.connection import connect
from park.store.schema import migrate, status

__all__ = ["connect", "migrate", "status"]
