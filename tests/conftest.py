"""Fixtures that every test may use; each kind has its file in tests/fixtures."""

pytest_plugins = [
    "tests.fixtures.broker",
    "tests.fixtures.opcua",
    "tests.fixtures.postgres",
    "tests.fixtures.skips",
]
