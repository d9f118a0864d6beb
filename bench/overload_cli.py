"""``python -m bench overload``: its options, and all cases one after the other."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import overload, recording, records
from bench.capacity_cli import CASES
from bench.load import Say
from bench.options import DURATION_MAX_S, DURATION_MIN_S, between
from bench.overload import Options
from bench.recording import Kind

KIND = Kind(
    command="overload",
    layout=overload.LAYOUT,
    file=overload.FILE,
    report="bench.overload_report",
    kept="the cases",
    limits=(
        "Service, database and load generator share one machine; they take CPU from each other.",
        f"No more than {overload.OFFERED_MAX_PER_S:,.0f} requests/s are offered, which for a fast "
        "case is less than was asked for.",
        "Latencies count from when a request left the generator: what found no connection waited "
        "there.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``."""
    made = recording.parser(KIND, __doc__, CASES, "v1 v2 v3")
    recording.add_capacity(made)
    made.add_argument("--factor", default=3.0, type=between(1.0, 20.0), help="of it offered (3)")
    made.add_argument(
        "--seconds", default=60.0, type=between(DURATION_MIN_S, DURATION_MAX_S), help="of it (60)"
    )
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for. Raises HarnessError when a capacity is not known."""
    return Options(
        cases=recording.cases_of(asked),
        capacity=recording.capacities(asked),
        factor=asked.factor,
        during_s=asked.seconds,
        seed=asked.seed,
        pins=asked.pins,
    )


def measure(options: Options, directory: Path, say: Say) -> Iterator[str]:
    """All cases, each written down when it is over."""
    for label in options.cases:
        flood = overload.run(options, label, say)
        records.append_line(directory, overload.FILE, flood)
        yield from (f"{label}: {fault}" for fault in flood.faults)
