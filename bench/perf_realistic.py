"""Realistic load on one case: ``python bench/perf_realistic.py --version v3 --scale 100``."""

import sys
from pathlib import Path

if not __package__:
    # Python puts the directory of a script first; the packages are one level up, and no file
    # beside this one may stand in for a module of that name.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
