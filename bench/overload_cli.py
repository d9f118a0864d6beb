"""``python -m bench overload``: options, their checks, and the run as a whole."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench import capacity_report, overload, records, service
from bench.capacity import beside_the_generator
from bench.capacity_cli import CASES
from bench.exchange_client import HarnessError
from bench.options import (
    DURATION_MAX_S,
    DURATION_MIN_S,
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
from bench.overload import Options
from bench.report import Printer
from bench.tables import newest_published

LIMITS = (
    "Service, database and load generator share one machine; they take CPU from each other.",
    f"One generator offers no more than {overload.OFFERED_MAX_PER_S:,.0f} requests/s here, which "
    "for a fast case is less than was asked for.",
    "Latencies count from when a request left the generator: what found no connection waited there",
)


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench overload", description=__doc__)
    made.add_argument(
        "--version", nargs="+", default=["v1", "v2", "v3"], metavar="V", type=one_of(CASES)
    )
    made.add_argument(
        "--capacity",
        nargs="+",
        default=[],
        metavar="V=PERCENT",
        type=_capacity,
        help="of B3, by case (that of the newest published run)",
    )
    made.add_argument("--factor", default=3.0, type=between(1.0, 20.0), help="of it offered (3)")
    made.add_argument(
        "--seconds", default=60.0, type=between(DURATION_MIN_S, DURATION_MAX_S), help="of it (60)"
    )
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int))
    made.add_argument("--pins", type=pins_of, metavar="PINS")
    made.add_argument("--out", default=records.DEFAULT_DIRECTORY, type=Path, metavar="DIR")
    return made


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (an audit failed, or it could not be done) or 130 (interrupted)."""
    asked = parser().parse_args(given)
    stop_on_signals()
    try:
        records.check_writable(asked.out)
        cases = list(dict.fromkeys(asked.version))
        options = Options(
            cases=cases,
            capacity=capacities(cases, dict(asked.capacity)),
            factor=asked.factor,
            during_s=asked.seconds,
            seed=asked.seed,
            pins=service.default_pins() if asked.pins is None else asked.pins,
        )
        directory = records.new_directory(asked.out)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "bench", "overload", *given])
    return measure(options, directory, command, Printer())


def _capacity(text: str) -> tuple[str, float]:
    label, _, percent = text.partition("=")
    try:
        return one_of(CASES)(label), between(SCALE_MIN, SCALE_MAX)(percent)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def capacities(cases: Sequence[str], given: dict[str, float]) -> dict[str, float]:
    """That of each case: as given, or as published. Raises HarnessError where there is none."""
    published = newest_published()
    found = {}
    if published is not None:
        for each in capacity_report.read(published).cases:
            if each.capacity.median is not None:
                found[each.case] = each.capacity.median
    found |= given
    for case in cases:
        if case not in found:
            raise HarnessError(
                f"--capacity: none is published for {case}; give one: --capacity {case}=PERCENT"
            )
    return {case: found[case] for case in cases}


def measure(options: Options, directory: Path, command: str, printer: Printer) -> int:
    """All cases one after the other; what is over stays, whatever comes after it."""
    faults: list[str] = []

    def work() -> None:
        with beside_the_generator(options.pins):
            for label in options.cases:
                flood = overload.run(options, label, printer.say)
                faults.extend(f"{label}: {fault}" for fault in flood.faults)
                with (directory / overload.FILE).open("ab") as file:
                    file.write(msgspec.json.encode(flood) + b"\n")

    code = carried_out(work, printer, "the cases")
    conditions = {
        "layout": overload.LAYOUT,
        "options": options,
        "partial": code != 0,
        "void": bool(faults),
        "limits": list(LIMITS),
    }
    records.write_json(directory / "meta.json", records.meta(command, conditions))
    if not (directory / overload.FILE).exists():
        return code
    # Late, because matplotlib takes a second to import.
    from bench import overload_report  # noqa: PLC0415

    for line in overload_report.write(directory, faults):
        printer.say(line)
    overload_report.draw(directory)
    for fault in faults:
        printer.say(fault, "red")
    printer.say(f"\nresults in {os.path.relpath(directory)}")
    return code or int(bool(faults))
