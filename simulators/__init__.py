"""Simulated parks: truth, instruments and faults, served over the real protocols."""
