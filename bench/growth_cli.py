"""``python -m bench growth``: options, their checks, and the run as a whole."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import growth, records, service
from bench.capacity import beside_the_generator
from bench.exchange_client import HarnessError
from bench.growth import Options
from bench.options import (
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
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
LIMITS = (
    "One client, one request at a time: what a request takes, not how many can be answered.",
    "The history is put into the tables by SQL, closed and traded, and vacuumed and analysed then.",
    "All of it fits into the memory of this machine.",
)


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench growth", description=__doc__)
    made.add_argument(
        "--version", nargs="+", default=list(VERSIONS), metavar="V", type=one_of(VERSIONS)
    )
    made.add_argument(
        "--sizes",
        nargs="+",
        default=list(SIZES),
        metavar="N",
        type=between(1_000, 10**8, int),
        help="closed orders in the tables (10,000 to 10,000,000)",
    )
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int))
    made.add_argument("--pins", type=pins_of, metavar="PINS")
    made.add_argument("--out", default=records.DEFAULT_DIRECTORY, type=Path, metavar="DIR")
    return made


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (a wrong answer, or it could not be done) or 130 (interrupted)."""
    asked = parser().parse_args(given)
    stop_on_signals()
    try:
        records.check_writable(asked.out)
        options = Options(
            cases=list(dict.fromkeys(asked.version)),
            # Even, because the orders of the history have traded in pairs.
            sizes=sorted({size // 2 * 2 for size in asked.sizes}),
            seed=asked.seed,
            pins=service.default_pins() if asked.pins is None else asked.pins,
        )
        directory = records.new_directory(asked.out)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "bench", "growth", *given])
    return measure(options, directory, command, Printer())


def measure(options: Options, directory: Path, command: str, printer: Printer) -> int:
    """All cases one after the other; what is over stays, whatever comes after it."""

    def work() -> None:
        with beside_the_generator(options.pins):
            for label in options.cases:
                for points in growth.run(options, label, printer.say):
                    growth.append(directory, points)

    code = carried_out(work, printer, "the sizes")
    conditions = {
        "layout": growth.LAYOUT,
        "options": options,
        "partial": code != 0,
        "void": False,
        "limits": list(LIMITS),
    }
    records.write_json(directory / "meta.json", records.meta(command, conditions))
    if not (directory / growth.FILE).exists():
        return code
    # Late, because matplotlib takes a second to import.
    from bench import growth_report  # noqa: PLC0415

    for line in growth_report.write(directory):
        printer.say(line)
    growth_report.draw(directory)
    printer.say(f"\nresults in {os.path.relpath(directory)}")
    return code
