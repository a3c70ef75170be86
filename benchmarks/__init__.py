"""Measurements: ratios within one run, never part of the tests. Run as `python -m benchmarks.<name>`."""
