"""``python -m bench clients``: its options, and all cases one after the other."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import clients, recording, records
from bench.bad_clients import KINDS
from bench.capacity_cli import CASES
from bench.clients import SHARE_OF_CAPACITY, Options
from bench.load import Say
from bench.options import DURATION_MAX_S, DURATION_MIN_S, between
from bench.recording import Kind
from bench.search import rounded

KIND = Kind(
    command="clients",
    layout=clients.LAYOUT,
    file=clients.FILE,
    report="bench.clients_report",
    kept="the measurements",
    limits=(
        "Service, database, load generator and bad clients share one machine; they take CPU from "
        "each other.",
        "One measurement of each; what differs by less than between two runs of the same says "
        "nothing.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``."""
    made = recording.parser(KIND, __doc__, CASES, "v1 v2 v3")
    recording.add_capacity(made)
    made.add_argument(
        "--seconds", default=10.0, type=between(DURATION_MIN_S, DURATION_MAX_S), help="each (10)"
    )
    made.add_argument(
        "--share",
        default=1.0,
        type=between(0.01, 10.0),
        help="of the usual number of bad clients (1)",
    )
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for. Raises HarnessError when a capacity is not known."""
    found = recording.capacities(asked)
    return Options(
        cases=recording.cases_of(asked),
        rates={case: rounded(SHARE_OF_CAPACITY * found[case]) for case in found},
        duration_s=asked.seconds,
        counts={kind.label: max(1, round(asked.share * kind.number)) for kind in KINDS},
        seed=asked.seed,
        pins=asked.pins,
    )


def measure(options: Options, directory: Path, say: Say) -> Iterator[str]:
    """All cases, each measurement written down when it is over."""
    for label in options.cases:
        for one in clients.run(options, label, say):
            records.append_line(directory, clients.FILE, one)
            yield from (f"{label} beside {one.kind}: {fault}" for fault in one.faults)
