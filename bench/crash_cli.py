"""``python -m bench crash``: its options, and all cases one after the other."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import crash, recording
from bench.crash import Course, Options, promises_all
from bench.exchange_client import HarnessError
from bench.load import Say
from bench.options import SCALE_MAX, SCALE_MIN, between, one_of
from bench.recording import Kind
from bench.service import VERSIONS
from bench.verdict import FLUSH_AGE_MAX_MS

DURABILITY = ("flush", "wal")
KIND = Kind(
    command="crash",
    layout=crash.LAYOUT,
    file=crash.FILE,
    report="bench.crash_report",
    kept="the crashes",
    limits=(
        "kill -9 ends the process, not the machine: what the kernel has taken reaches the disk.",
        "Service, database and load generator share one machine.",
    ),
)


def main(given: Sequence[str]) -> int:
    """See ``recording.record``; a fault is what was lost, doubled or wrong against a promise."""
    made = recording.parser(KIND, __doc__, VERSIONS, "v1 v2 v3")
    made.add_argument(
        "--durability",
        nargs="+",
        default=list(DURABILITY),
        metavar="MODE",
        type=one_of(DURABILITY),
        help="of the cases that have a choice: flush, wal (both)",
    )
    made.add_argument(
        "--scale", default=100.0, type=between(SCALE_MIN, SCALE_MAX), metavar="PERCENT"
    )
    made.add_argument("--cycles", default=50, type=between(1, 10_000, int), metavar="N")
    return recording.record(KIND, given, made, options_of, measure)


def options_of(asked: argparse.Namespace) -> Options:
    """What is asked for."""
    cases = labels(asked.version, asked.durability)
    return Options(cases, asked.scale, asked.cycles, asked.seed, asked.pins)


def labels(versions: Sequence[str], durability: Sequence[str]) -> list[str]:
    """The cases in each of their modes; v1 has one, its commit. Raises HarnessError."""
    if {*versions} == {"v1"} and "flush" not in durability:
        raise HarnessError("--durability: casev1 commits each order and has no log; leave it out")
    found = []
    for version in dict.fromkeys(versions):
        if version == "v1":
            found.append(version)
            continue
        found += [version if mode == "flush" else f"{version}-{mode}" for mode in durability]
    return list(dict.fromkeys(found))


def measure(options: Options, directory: Path, say: Say) -> Iterator[str]:
    """All cases, each crash written down when it is over."""
    for label in options.cases:
        say(f"{label}: starting a database and filling the books")
        yield from faults(crash.run(options, label, directory, say))


def faults(course: Course) -> list[str]:
    """What a case must not do, and has done."""
    found = [f"{course.case}: {fault}" for fault in course.checked.faults()]
    if promises_all(course.case):
        orders = sum(each.lost for each in course.crashes)
        cancels = sum(each.cancels_lost for each in course.crashes)
        if orders or cancels:
            found.append(f"{course.case}: lost {orders} orders and {cancels} cancels")
    flushed = [each for each in course.crashes if (each.oldest_lost_ms or 0.0) > FLUSH_AGE_MAX_MS]
    if flushed:
        oldest_ms = max(each.oldest_lost_ms or 0.0 for each in flushed)
        found.append(
            f"{course.case}: lost what was flushed long before, in {len(flushed)} crashes; the "
            f"oldest was acknowledged {oldest_ms:,.0f} ms before, and a change waits for "
            f"{FLUSH_AGE_MAX_MS:,.0f} ms at most"
        )
    doubled = sum(each.doubled for each in course.crashes)
    if doubled:
        found.append(f"{course.case}: placed {doubled} orders twice")
    return found
