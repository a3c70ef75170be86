"""Detectors: one module a kind of event, each a condition with its own state and its rate of false alarms.

`events` says what a detector tells; `chain.Chain.run` (processing/chain.py) asks them in turn.
"""
