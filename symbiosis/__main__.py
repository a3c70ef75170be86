"""Run as `python -m symbiosis`: the same as the command `symbiosis`."""

from __future__ import annotations

import sys

from symbiosis.cli import main

if __name__ == "__main__":
    sys.exit(main())
