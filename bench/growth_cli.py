"""``python -m bench growth``: its options, and all cases one after the other."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import growth, recording, records
from bench.growth import Options
from bench.load import Say
from bench.options import between
from bench.recording import Kind
from bench.service import VERSIONS

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
KIND = Kind(
    command="growth",
    layout=growth.LAYOUT,
    file=growth.FILE,
    report="bench.growth_report",
    kept="the sizes",
    limits=(
        "One client, one request at a time: what a request takes, not how many can be answered.",
        "The history is put into the tables by SQL, closed and traded, and vacuumed and analysed.",
        "All of it fits into the memory of this machine.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``."""
    made = recording.parser(KIND, __doc__, VERSIONS, "v1 v2 v3")
    made.add_argument(
        "--sizes",
        nargs="+",
        default=list(SIZES),
        metavar="N",
        type=between(1_000, 10**8, int),
        help="closed orders in the tables (10,000 to 10,000,000)",
    )
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for; even sizes, because the orders of the history trade in pairs."""
    sizes = sorted({size // 2 * 2 for size in asked.sizes})
    return Options(recording.cases_of(asked), sizes, asked.seed, asked.pins)


def measure(options: Options, directory: Path, say: Say) -> Sequence[str]:
    """All cases and sizes, each written down when it is over; a wrong answer ends it."""
    for label in options.cases:
        for points in growth.run(options, label, say):
            for point in points:
                records.append_line(directory, growth.FILE, point)
    return ()
