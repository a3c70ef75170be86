"""One database filled by the simulators for all tests of this folder, and the role that Grafana would use."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from park.store.embedded import EmbeddedPostgres
from tests.dashboards.filled import fill

NAME, READER = "boards", "grafana_of_tests"


@pytest.fixture(scope="session")
def filled_dsn(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A database with a quarter of an hour of Kalundborg; tests that change it roll back."""
    with psycopg.connect(postgres_server.dsn, autocommit=True) as conn:
        conn.execute(f"create database {NAME} template {migrated_template} strategy file_copy".encode())
    dsn = make_conninfo(postgres_server.dsn, dbname=NAME)
    fill(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("analyze")
    return dsn


@pytest.fixture(scope="session")
def reader_dsn(filled_dsn: str) -> Iterator[str]:
    """The filled database as Grafana's login sees it."""
    with psycopg.connect(filled_dsn, autocommit=True) as conn:
        conn.execute(f"create role {READER} login in role symbiosis_reader".encode())
    return make_conninfo(filled_dsn, user=READER)
