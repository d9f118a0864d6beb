"""``python -m bench pauses``: its options, and all cases one after the other."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import pauses, recording, records
from bench.load import Say
from bench.options import SCALE_MAX, SCALE_MIN, between
from bench.pauses import Options
from bench.recording import Kind

SCALE, SECONDS = 600.0, 60.0
KIND = Kind(
    command="pauses",
    layout=pauses.LAYOUT,
    file=pauses.FILE,
    report="bench.pauses_report",
    kept="the cases",
    limits=(
        "A pause is the CPU time of one collection; clients wait longer where the core is shared.",
        "One run each: how often the collector looks depends on the load, how long it takes on the "
        "objects that are there.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``."""
    made = recording.parser(KIND, __doc__, ("v1", "v2", "v2-wal", "v3", "v3-wal"), "v3")
    made.add_argument(
        "--scale",
        default=SCALE,
        type=between(SCALE_MIN, SCALE_MAX),
        help=f"percent of B3 ({SCALE:g})",
    )
    made.add_argument(
        "--seconds", default=SECONDS, type=between(1.0, 600.0), help=f"of load ({SECONDS:g})"
    )
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for."""
    cases = recording.cases_of(asked)
    return Options(cases, asked.scale, asked.seconds, asked.seed, asked.pins)


def measure(options: Options, directory: Path, say: Say) -> Sequence[str]:
    """All cases, each written down when it is over."""
    for label in options.cases:
        for one in pauses.run(options, label, say):
            records.append_line(directory, pauses.FILE, one)
    return ()
