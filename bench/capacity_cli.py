"""``python -m bench capacity``: options, their checks, and the run as a whole."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import records, service, trials
from bench.agenda import MODES, Options, bounds_found, counted
from bench.capacity import LAYOUT, Run, beside_the_generator, conditions
from bench.exchange_client import HarnessError
from bench.options import (
    DURATION_MAX_S,
    DURATION_MIN_S,
    INTERRUPTED,
    SEED_MAX,
    Parser,
    add_place,
    between,
    one_of,
    parsed,
    stop_on_signals,
)
from bench.report import Printer
from bench.service import NULL, VERSIONS
from bench.traffic import PROFILES

CASES = ("v1", "v1x2", "v1x4", "v2", "v2-wal", "v3", "v3-wal")


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench capacity", description=__doc__)
    made.add_argument(
        "--version",
        nargs="+",
        default=list(VERSIONS),
        metavar="V",
        type=one_of(CASES),
        help=f"the cases: {', '.join(CASES)} (v1x4: casev1 in four "
        "processes, v3-wal: casev3 with a write-ahead log)",
    )
    made.add_argument(
        "--mode",
        default="default",
        type=one_of(tuple(MODES)),
        help="quick (4 s a trial, 10 %%), default (10 s, 5 %%) or publish (30 s, 2.5 %%, 5 times)",
    )
    made.add_argument(
        "--profile",
        default="average",
        type=one_of(tuple(PROFILES)),
        help=f"the traffic: {', '.join(PROFILES)} (average)",
    )
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int), help="of the tapes (1)")
    made.add_argument("--repeats", type=between(1, 100, int), help="instead of the mode's")
    made.add_argument(
        "--trial-seconds",
        type=between(DURATION_MIN_S, DURATION_MAX_S),
        metavar="S",
        help="measured seconds of a trial, instead of the mode's",
    )
    made.add_argument(
        "--generators",
        type=between(1, 16, int),
        default=1,
        metavar="N",
        help="processes that share the tape, where one is not enough (1)",
    )
    add_place(made)
    made.add_argument(
        "--begin-at",
        type=Path,
        metavar="RUN",
        help="begin each search at the bounds that this run found, to be confirmed again",
    )
    made.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with an interrupted run; with --repeats as often as that, no longer as planned",
    )
    return made


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (void, or could not be done) or 130 (interrupted)."""
    asked = parsed(parser(), given, "repeats")
    stop_on_signals()
    printer = Printer()
    try:
        if asked.resume:
            run = resumed(asked.resume, printer, repeats=asked.repeats)
        else:
            run = _new(asked, printer)
        begun = records.provenance(run.directory, _command(run, given))
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted before there was anything to keep", file=sys.stderr)
        return INTERRUPTED
    return measure(run, printer, begun)


def _command(run: Run, given: Sequence[str]) -> str:
    """What was asked for when it was begun says how to measure it again."""
    command = shlex.join(["python", "-m", "bench", "capacity", *given])
    begun = records.command_of(run.directory) or command
    shortened = f" --repeats {run.options.repeats}"
    if run.options.repeats_planned is not None and not begun.endswith(shortened):
        begun += shortened
    return begun


def measure(run: Run, printer: Printer, begun: Mapping[str, Any], resume: str | None = None) -> int:
    """Complete a run and write its summary and charts; the exit code.

    ``begun`` is its ``records.provenance``; ``resume`` the command that goes on with it, if it is
    not the one of a run on its own.
    """
    where = os.path.relpath(run.directory)
    code = 0
    try:
        _write_meta(run, begun, partial=True)
        with beside_the_generator(run.options.pins):
            run.complete()
    except HarnessError as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        printer.say(
            f"interrupted; {len(run.done)} trials are kept, go on with: "
            + (resume or f"python -m bench capacity --resume {where}")
        )
        code = INTERRUPTED
    _write_meta(run, begun, partial=code != 0)
    if run.done:
        # Late, because matplotlib takes a second to import.
        from bench import capacity_charts, capacity_report  # noqa: PLC0415

        try:
            for line in capacity_report.lines_of(capacity_report.write(run.directory)):
                printer.say(line)
            capacity_charts.draw(run.directory)
        except KeyboardInterrupt:
            code = INTERRUPTED
    printer.say(f"\nresults in {where}")
    return code


def _new(asked: argparse.Namespace, printer: Printer) -> Run:
    records.check_writable(asked.out)
    for label in asked.version:
        service.check_spawnable(label, None)
    repeats = asked.repeats or MODES[asked.mode].repeats
    cases = list(dict.fromkeys(asked.version))
    options = Options(
        cases,
        asked.mode,
        asked.profile,
        asked.seed,
        asked.pins,
        repeats,
        asked.generators,
        trial_s=asked.trial_seconds,
        begin_at=bounds_of_run(asked.begin_at, asked.profile, cases) if asked.begin_at else {},
    )
    return Run(records.new_directory(asked.out), options, printer.say, printer.live)


def bounds_of_run(directory: Path, profile: str, cases: Sequence[str]) -> dict[str, list[float]]:
    """Where the searches of another run ended, of the null server and these cases.

    A case that it did not measure is left out. Raises HarnessError, also when its profile is not
    this one.
    """
    try:
        options = read_options(directory)
        done = counted(options, trials.read(directory))
    except HarnessError as error:
        raise HarnessError(f"--begin-at: {error}") from None
    if options.profile != profile:
        raise HarnessError(
            f"--begin-at: {directory} was measured under the profile {options.profile}; "
            f"allowed is a run under {profile}"
        )
    bounds = {case: bounds_found(options, done, case) for case in (NULL.label, *cases)}
    return {case: rates for case, rates in bounds.items() if rates}


def resumed(
    directory: Path, printer: Printer, after_s: float = 0.0, repeats: int | None = None
) -> Run:
    """The run of a directory, with the options that it was begun with, but for the ``repeats``.

    Raises HarnessError.
    """
    try:
        options = read_options(directory)
        records.check_same_machine(directory)
        records.claim(directory)
        if repeats is not None:
            options = msgspec.structs.replace(
                options, repeats=repeats, repeats_planned=options.repeats_planned or options.repeats
            )
        run = Run(directory, options, printer.say, printer.live, after_s=after_s)
    except HarnessError as error:
        raise HarnessError(f"--resume: {error}") from None
    if any(one.faults for one in run.done):
        raise HarnessError(f"--resume: {directory} is void, its audit has failed; begin a new run")
    return run


def read_options(directory: Path) -> Options:
    """What a run was asked for. Raises HarnessError when it is none of this layout."""
    return records.read_options(directory, LAYOUT, Options)


def _write_meta(run: Run, begun: Mapping[str, Any], *, partial: bool) -> None:
    content = {**begun, **conditions(run.options, run, partial)}
    records.write_json(run.directory / "meta.json", content)
