"""``python -m bench check``: measure for a few minutes and compare with the committed baseline."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import gate, records, service, trials
from bench.agenda import Options, counted
from bench.capacity import Run
from bench.capacity_cli import measure, read_options
from bench.exchange_client import HarnessError
from bench.gate import Answer, Baseline
from bench.options import INTERRUPTED, Parser, add_place, parsed, stop_on_signals
from bench.report import Printer, table
from bench.service import NULL, VERSIONS

BASELINE = records.DEFAULT_DIRECTORY / "baseline.json"
MODE, POINTS = "quick", 5
EXIT_CODES = {Answer.PASS: 0, Answer.REGRESS: 1, Answer.INCONCLUSIVE: 2}
NO_ANSWER = 3
_COLOURS = {Answer.PASS: "green", Answer.REGRESS: "red", Answer.INCONCLUSIVE: "yellow"}
_HEADERS = ("rule", "baseline", "measured", "limit", "answer")


class _Meta(msgspec.Struct):
    """What the gate needs of a run's meta.json."""

    machine: dict[str, Any]
    partial: bool
    void: bool

    @property
    def slug(self) -> str:
        return records.machine_slug(self.machine)


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(
        prog="python -m bench check",
        description=__doc__,
        epilog="Exit code 0 pass, 1 regress, 2 inconclusive, 3 no answer: wrong usage, or it could "
        "not be measured; 130 Ctrl-C.",
    )
    made.wrong_usage = NO_ANSWER
    made.add_argument("--baseline", default=BASELINE, type=Path, metavar="FILE")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted check")
    what.add_argument(
        "--renew",
        type=Path,
        metavar="RUN_DIR",
        help="measure nothing; make the baseline from a capacity run, mode default or publish",
    )
    add_place(made)
    return made


def main(given: Sequence[str]) -> int:
    """The exit code, as ``--help`` lists them."""
    asked = parsed(parser(), given, "baseline")
    stop_on_signals()
    printer = Printer()
    try:
        if asked.renew is not None:
            renew(asked.renew, asked.baseline)
            printer.say(f"{os.path.relpath(asked.baseline)}: made from {asked.renew.name}")
            return 0
        baseline = read(asked.baseline)
        run = _run(asked, baseline, printer)
        command = shlex.join(["python", "-m", "bench", "check", *given])
        begun = records.command_of(run.directory) or command
        code = measure(run, printer, records.provenance(run.directory, begun))
        if code:
            return INTERRUPTED if code == INTERRUPTED else NO_ANSWER
        return EXIT_CODES[_judged(run, baseline, printer)]
    except HarnessError as error:
        print(error, file=sys.stderr)
        return NO_ANSWER
    except KeyboardInterrupt:
        return INTERRUPTED


def read(path: Path) -> Baseline:
    """The baseline. Raises HarnessError."""

    class Layout(msgspec.Struct):
        layout: str

    try:
        content = path.read_bytes()
        layout = msgspec.json.decode(content, type=Layout).layout
        if layout != gate.LAYOUT:
            raise HarnessError(f"--baseline: {path} is from another layout ({layout})")
        return msgspec.json.decode(content, type=Baseline)
    except OSError as error:
        raise HarnessError(
            f"--baseline: cannot read {path} ({error.strerror}); "
            "make one with: python -m bench check --renew RUN_DIR"
        ) from None
    except msgspec.ValidationError as error:
        raise HarnessError(f"--baseline: {path} is from another layout: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HarnessError(f"--baseline: {path} is no whole baseline: {error}") from None


def renew(run: Path, path: Path) -> None:
    """Write the baseline that a complete capacity run gives. Raises HarnessError."""
    try:
        options, meta, done = read_options(run), _meta(run), trials.read(run)
    except HarnessError as error:
        raise HarnessError(f"--renew: {error}") from None
    if meta.partial or meta.void:
        raise HarnessError(f"--renew: {run} is {'void' if meta.void else 'not complete'}")
    standings = gate.standings(options, done, gate.halves(options, counted(options, done)))
    lacking = gate.unusable(standings)
    if lacking is not None:
        raise HarnessError(f"--renew: {run} makes no baseline: {lacking}")
    kept = {case: standings[case] for case in (NULL.label, *VERSIONS)}
    baseline = Baseline(
        gate.LAYOUT, run.resolve().name, meta.slug, options.profile, options.seed, kept
    )
    try:
        records.write_json(path, baseline)
    except OSError as error:
        raise HarnessError(f"--baseline: cannot write {path} ({error.strerror})") from None


def options_for(baseline: Baseline, pins: dict[str, int]) -> Options:
    """A quick search of each case, and its CPU per request at half of the baseline's capacity."""
    return Options(
        cases=[case for case in baseline.standings if case != NULL.label],
        mode=MODE,
        profile=baseline.profile,
        seed=baseline.seed,
        pins=pins,
        repeats=1,
        points={case: [one.half] * POINTS for case, one in baseline.standings.items()},
    )


def _run(asked: argparse.Namespace, baseline: Baseline, printer: Printer) -> Run:
    wanted = options_for(baseline, asked.pins)
    if asked.resume is None:
        records.check_writable(asked.out)
        for case in wanted.cases:
            service.check_spawnable(case, None)
        return Run(records.new_directory(asked.out), wanted, printer.say, printer.live)
    try:
        options, meta = read_options(asked.resume), _meta(asked.resume)
        records.check_same_machine(asked.resume)
        records.check_same_code(asked.resume)
        records.claim(asked.resume)
        run = Run(asked.resume, options, printer.say, printer.live)
    except HarnessError as error:
        raise HarnessError(f"--resume: {error}") from None
    if options.points != wanted.points:
        raise HarnessError(f"--resume: {asked.resume} is no check against {asked.baseline}")
    if meta.void:
        raise HarnessError(f"--resume: {asked.resume} is void, its audit has failed")
    return run


def _judged(run: Run, baseline: Baseline, printer: Printer) -> Answer:
    """Print the rules and the answer."""
    halves = {case: one.half for case, one in baseline.standings.items()}
    ruled = gate.rulings(baseline.standings, gate.standings(run.options, run.done, halves))
    answer, slug = gate.answer_of(ruled), _meta(run.directory).slug
    rows = [(each.rule, each.baseline, each.measured, each.limit, each.answer) for each in ruled]
    for line in ["", *table(_HEADERS, rows), ""]:
        printer.say(line)
    if slug != baseline.machine:
        printer.say(
            f"measured on {slug}, the baseline on {baseline.machine}: shares of the null server "
            "hold for both, but less exactly than on one machine"
        )
    printer.say(gate.sentence(ruled), _COLOURS[answer])
    return answer


def _meta(run: Path) -> _Meta:
    return records.read_json(run / "meta.json", _Meta)
