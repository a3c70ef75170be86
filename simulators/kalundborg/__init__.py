"""The reference park: park.yaml, meters.csv and scenario.yaml of Kalundborg (see docs/kalundborg.md)."""
