"""Fixtures that every test may use; each kind has its file in tests/fixtures."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # as the program does (symbiosis.cli), and before numpy comes

pytest_plugins = [
    "tests.fixtures.authority",
    "tests.fixtures.broker",
    "tests.fixtures.node_opcua",
    "tests.fixtures.opcua",
    "tests.fixtures.postgres",
    "tests.fixtures.skips",
    "tests.fixtures.timescale",
]
