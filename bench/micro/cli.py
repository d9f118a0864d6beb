"""``python -m bench micro``: options, their checks, and the run as a whole."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import records, service
from bench.exchange_client import HarnessError
from bench.micro import report
from bench.micro.suite import BENCHMARKS, REPEATED_MAX_S, Suite
from bench.options import INTERRUPTED, Parser, between, one_of, stop_on_signals
from bench.report import Printer

SIZE_MAX, QUICK_SIZE_MAX = 1_000_000, 10_000
TURNS = 5


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench micro", description=__doc__)
    made.add_argument(
        "--only",
        nargs="+",
        default=list(BENCHMARKS),
        metavar="NAME",
        type=one_of(BENCHMARKS),
        help=f"some of {', '.join(BENCHMARKS)} (all)",
    )
    size = made.add_mutually_exclusive_group()
    size.add_argument(
        "--size-max",
        default=SIZE_MAX,
        metavar="N",
        type=between(1, SIZE_MAX, int),
        help=f"cut all curves there, but to no less than two sizes ({SIZE_MAX})",
    )
    size.add_argument(
        "--quick",
        action="store_true",
        help=f"--size-max {QUICK_SIZE_MAX} --turns 1: less than a minute",
    )
    made.add_argument(
        "--turns",
        default=TURNS,
        metavar="N",
        type=between(1, 100, int),
        help=f"measure what takes less than {REPEATED_MAX_S:g} s so often ({TURNS})",
    )
    made.add_argument("--out", default=records.DEFAULT_DIRECTORY, type=Path, metavar="DIR")
    return made


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (a wrong answer, or could not be done) or 130 (interrupted)."""
    asked = parser().parse_args(given)
    if asked.quick:
        asked.size_max, asked.turns = QUICK_SIZE_MAX, 1
    stop_on_signals()
    printer = Printer()
    command = shlex.join(["python", "-m", "bench", "micro", *given])
    try:
        records.check_writable(asked.out)
        with service.database({}) as server:
            directory = records.new_directory(asked.out)
            return measure(directory, asked, command, server, printer)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def measure(
    directory: Path,
    asked: argparse.Namespace,
    command: str,
    server: service.Database,
    printer: Printer,
) -> int:
    """Run the benchmarks, and write what has passed, its report and its charts; the exit code."""
    suite = Suite(asked.size_max, server, printer.say)
    names = list(dict.fromkeys(asked.only))
    for turn in range(1, asked.turns + 1):
        if not suite.interrupted:
            printer.say(f"turn {turn} of {asked.turns}", "bold")
            suite.turn(names, directory / report.RAW_OF_TURN.format(turn))
    if not (directory / report.RAW).exists():
        directory.rmdir()
        printer.say("nothing was measured")
        return INTERRUPTED if suite.interrupted else 1
    conditions: dict[str, Any] = {
        "layout": report.LAYOUT,
        "partial": suite.interrupted,
        "failed": list(dict.fromkeys(suite.failed)),
        "options": {"only": names, "size_max": asked.size_max, "turns": asked.turns},
        "postgres": {"version": server.version, "settings": server.settings},
        "limits": list(report.LIMITS),
    }
    records.write_json(directory / "meta.json", records.meta(command, conditions))
    # Late, because matplotlib takes a second to import.
    from bench.micro import charts  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt):
        for line in report.tables(report.write(directory)):
            printer.say(line)
        charts.draw(directory)
    if suite.interrupted:
        printer.say("interrupted; what was measured until then is kept")
    printer.say(f"\nresults in {os.path.relpath(directory)}")
    return INTERRUPTED if suite.interrupted else int(bool(suite.failed))
