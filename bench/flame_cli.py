"""``python -m bench flame``: its options, and all cases one after the other."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import flame, recording, records
from bench.capacity_cli import CASES
from bench.flame import Options
from bench.load import Say
from bench.options import between
from bench.recording import Kind
from bench.search import rounded

SHARE = 0.8
KIND = Kind(
    command="flame",
    layout=flame.LAYOUT,
    file=flame.FILE,
    report="bench.flame_report",
    kept="the cases",
    limits=(
        "Python frames only: what a line calls in C, the kernel included, counts as that line.",
        "The service has a core to itself; py-spy runs on the other.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``."""
    made = recording.parser(KIND, __doc__, CASES, "v1 v2 v3")
    recording.add_capacity(made)
    made.add_argument("--share", default=SHARE, type=between(0.01, 1.0), help="of it (0.8)")
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for. Raises HarnessError when a capacity is not known, or without py-spy."""
    flame.py_spy()
    capacities = recording.capacities(asked)
    return Options(
        cases=list(capacities),
        rates={case: rounded(asked.share * found) for case, found in capacities.items()},
        seed=asked.seed,
        pins=asked.pins,
    )


def measure(options: Options, directory: Path, say: Say) -> Sequence[str]:
    """All cases, each written down when it is over."""
    for label in options.cases:
        found = flame.run(options, label, directory, say)
        records.append_line(directory, flame.FILE, found)
    return ()
