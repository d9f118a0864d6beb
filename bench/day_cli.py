"""``python -m bench day``: its options, and one run for each case."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import day, recording, records
from bench.capacity_cli import CASES
from bench.day import Options
from bench.exchange_client import HarnessError
from bench.load import Say
from bench.options import SCALE_MAX, SCALE_MIN, between
from bench.recording import Kind
from bench.search import rounded

# So many fit into this machine's memory as requests that are encoded beforehand.
ORDERS = 2_000_000
SHARE = 0.6
KIND = Kind(
    command="day",
    layout=day.LAYOUT,
    file=day.FILE,
    report="bench.day_report",
    kept="no figures",
    limits=(
        f"A day of B3 is {day.DAY_ORDERS:,} orders; what is sent here is the beginning of one.",
        "Orders live as long as in the day, but the day passes faster, so more of them rest at a "
        "time.",
        "Latencies count from when a request left the generator.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``."""
    made = recording.parser(KIND, __doc__, CASES, "v3")
    recording.add_capacity(made)
    made.add_argument("--orders", default=ORDERS, type=between(1_000, 10**8, int), metavar="N")
    made.add_argument(
        "--scale",
        type=between(SCALE_MIN, SCALE_MAX),
        metavar="PERCENT",
        help="of B3 (60 %% of the capacity)",
    )
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for. Raises HarnessError when the capacity is not known."""
    [case, *others] = recording.cases_of(asked)
    if others:
        raise HarnessError("--version: one case at a time")
    rate = asked.scale or rounded(SHARE * recording.capacities(asked)[case])
    return Options(case, asked.orders, rate, asked.seed, asked.pins)


def measure(options: Options, directory: Path, say: Say) -> Iterator[str]:
    """The whole run, written down at its end."""
    found = day.run(options, say)
    records.write_json(directory / day.FILE, found)
    yield from found.faults
