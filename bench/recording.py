"""What the commands share that measure case by case and leave a run in results/."""

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench import capacity_report, records
from bench.capacity import beside_the_generator
from bench.capacity_cli import CASES
from bench.exchange_client import HarnessError
from bench.load import Say
from bench.options import (
    INTERRUPTED,
    SCALE_MAX,
    SCALE_MIN,
    SEED_MAX,
    Parser,
    add_place,
    between,
    one_of,
    stop_on_signals,
)
from bench.report import Printer
from bench.tables import newest_published, published_with

Options = TypeVar("Options")
# Measures, writes down what is over, and gives back the faults, best as they are found.
Work = Callable[[Options, Path, Say], Iterable[str]]


class Kind(NamedTuple):
    """A kind of run. There is something to report once ``file`` is there, by the functions
    ``write(directory)`` and ``draw(directory)`` of the module ``report``."""

    command: str
    layout: str
    file: str
    report: str
    kept: str
    limits: Sequence[str]


def parser(kind: Kind, description: str | None, cases: Sequence[str], default: str) -> Parser:
    """The options that all such commands have; ``default`` names cases, by words."""
    made = Parser(prog=f"python -m bench {kind.command}", description=description)
    made.add_argument(
        "--version",
        nargs="+",
        default=default.split(),
        metavar="V",
        type=one_of(cases),
        help=f"of {', '.join(cases)} ({default})",
    )
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int))
    add_place(made)
    return made


def cases_of(asked: argparse.Namespace) -> list[str]:
    """Those that were asked for, each once."""
    return list(dict.fromkeys(asked.version))


def record(
    kind: Kind,
    given: Sequence[str],
    made: Parser,
    options_of: Callable[[argparse.Namespace], Options],
    work: Work[Options],
) -> int:
    """Exit code 0, 1 (a fault was found, or it could not be done) or 130 (interrupted).

    What is over stays and can be read, whatever comes after it.
    """
    asked = made.parse_args(given)
    stop_on_signals()
    command = shlex.join(["python", "-m", "bench", kind.command, *given])
    try:
        records.check_writable(asked.out)
        options = options_of(asked)
        conditions = {"layout": kind.layout, "options": options, "limits": list(kind.limits)}
        begun = records.meta(command, conditions)
        directory = records.new_directory(asked.out)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    printer, faults, code, partial = Printer(), list[str](), 0, True
    try:
        _write_meta(directory, begun, faults, partial=True)
        with beside_the_generator(asked.pins):
            faults.extend(work(options, directory, printer.say))
        partial = False
    except HarnessError as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        printer.say(f"interrupted; {kind.kept} until then are kept")
        code = INTERRUPTED
    finally:
        # Also when something unexpected is raised, for the faults that were found before it.
        _write_meta(directory, begun, faults, partial=partial)
    if (directory / kind.file).exists():
        try:
            _report(kind, directory, printer)
        except KeyboardInterrupt:
            code = INTERRUPTED
        printer.say(f"\nresults in {os.path.relpath(directory)}")
    for fault in faults:
        printer.say(fault, "red")
    return code or int(bool(faults))


def _write_meta(
    directory: Path, begun: dict[str, Any], faults: Sequence[str], *, partial: bool
) -> None:
    found = {"partial": partial, "void": bool(faults), "faults": faults}
    records.write_json(directory / "meta.json", begun | found)


def _report(kind: Kind, directory: Path, printer: Printer) -> None:
    # Late, because matplotlib takes a second to import.
    report = importlib.import_module(kind.report)
    for line in report.write(directory):
        printer.say(line)
    report.draw(directory)


# ---- the capacity from which a load is taken ----


def add_capacity(made: Parser) -> None:
    """The option ``--capacity``."""
    made.add_argument(
        "--capacity",
        nargs="+",
        default=[],
        metavar="V=PERCENT",
        type=_capacity,
        help="of B3, by case (as published)",
    )


def _capacity(text: str) -> tuple[str, float]:
    label, _, percent = text.partition("=")
    try:
        return one_of(CASES)(label), between(SCALE_MIN, SCALE_MAX)(percent)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def capacities(asked: argparse.Namespace) -> dict[str, float]:
    """That of each case: as given, or as published. Raises HarnessError where there is none."""
    found, published = dict[str, float](), newest_published()
    if published is not None:
        for each in capacity_report.read_pooled(published_with(published)).cases:
            if each.capacity.median is not None:
                found[each.case] = each.capacity.median
    found |= dict(asked.capacity)
    cases = cases_of(asked)
    for case in cases:
        if case not in found:
            raise HarnessError(
                f"--capacity: none is published for {case}; give one: --capacity {case}=PERCENT"
            )
    return {case: found[case] for case in cases}
