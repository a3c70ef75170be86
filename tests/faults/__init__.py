"""Faults that are made, not mocked: killed processes, cut and half-open connections, a full disk, stepped clocks."""
