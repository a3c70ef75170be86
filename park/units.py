"""The contract's units and their SI values; used when a configuration is read, never for a single reading."""

from __future__ import annotations


def to_si(value: float, unit: str) -> float:
    """Return `value` of `unit` in SI (kg/s, m3/s, kW, kJ, kg, m3, K, Pa absolute, fractions of 1, S/m ...)."""
    raise NotImplementedError


def to_si_difference(value: float, unit: str) -> float:
    """Return a difference of two values of `unit` in SI: the scale without the offset."""
    raise NotImplementedError


def from_si(value: float, unit: str) -> float:
    """Return the SI `value` in `unit`."""
    raise NotImplementedError
