"""``python -m bench crash``: options, their checks, and the run as a whole."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import crash, records, service
from bench.crash import Course, Options, promises_all
from bench.exchange_client import HarnessError
from bench.options import (
    SCALE_MAX,
    SCALE_MIN,
    SEED_MAX,
    Parser,
    between,
    carried_out,
    one_of,
    pins_of,
    stop_on_signals,
)
from bench.report import Printer

VERSIONS = ("v1", "v2", "v3")
DURABILITY = ("flush", "wal")
LIMITS = (
    "kill -9 ends the process, not the machine: what the kernel has taken reaches the disk.",
    "Service, database and load generator share one machine.",
)


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench crash", description=__doc__)
    made.add_argument(
        "--version", nargs="+", default=list(VERSIONS), metavar="V", type=one_of(VERSIONS)
    )
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
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int))
    made.add_argument("--pins", type=pins_of, metavar="PINS")
    made.add_argument("--out", default=records.DEFAULT_DIRECTORY, type=Path, metavar="DIR")
    return made


def labels(versions: Sequence[str], durability: Sequence[str]) -> list[str]:
    """The cases in each of their modes; v1 has one, its commit."""
    found = []
    for version in dict.fromkeys(versions):
        if version == "v1":
            found.append(version)
            continue
        found += [version if mode == "flush" else f"{version}-{mode}" for mode in durability]
    return list(dict.fromkeys(found))


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (something was lost or wrong, or could not be done) or 130 (interrupted)."""
    asked = parser().parse_args(given)
    stop_on_signals()
    printer = Printer()
    try:
        records.check_writable(asked.out)
        pins = service.default_pins() if asked.pins is None else asked.pins
        options = Options(
            labels(asked.version, asked.durability), asked.scale, asked.cycles, asked.seed, pins
        )
        directory = records.new_directory(asked.out)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    return measure(
        options, directory, shlex.join(["python", "-m", "bench", "crash", *given]), printer
    )


def measure(options: Options, directory: Path, command: str, printer: Printer) -> int:
    """All cases one after the other; what is over stays, whatever comes after it."""
    found: list[str] = []

    def work() -> None:
        for label in options.cases:
            printer.say(f"{label}: starting a database and filling the books")
            found.extend(faults(crash.run(options, label, directory, printer.say)))

    code = carried_out(work, printer, "the crashes")
    conditions = {
        "layout": crash.LAYOUT,
        "options": options,
        "partial": code != 0,
        "void": bool(found),
        "limits": list(LIMITS),
    }
    records.write_json(directory / "meta.json", records.meta(command, conditions))
    if not (directory / crash.FILE).exists():
        return code
    # Late, because matplotlib takes a second to import.
    from bench import crash_report  # noqa: PLC0415

    for line in crash_report.write(directory, found):
        printer.say(line)
    crash_report.draw(directory)
    for fault in found:
        printer.say(fault, "red")
    printer.say(f"\nresults in {os.path.relpath(directory)}")
    return code or int(bool(found))


def faults(course: Course) -> list[str]:
    """What a case must not do, and has done."""
    found = [f"{course.case}: {fault}" for fault in course.checked.faults()]
    if promises_all(course.case):
        orders = sum(each.lost for each in course.crashes)
        cancels = sum(each.cancels_lost for each in course.crashes)
        if orders or cancels:
            found.append(f"{course.case}: lost {orders} orders and {cancels} cancels")
    doubled = sum(each.doubled for each in course.crashes)
    if doubled:
        found.append(f"{course.case}: placed {doubled} orders twice")
    return found
