"""``python -m bench sensitivity``: options, their checks, and one capacity run after the other."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import agenda, capacity, capacity_cli, records, service, trials
from bench.exchange_client import HarnessError
from bench.options import (
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
from bench.sensitivity import LAYOUT, MODE, Options, expected_s
from bench.service import VERSIONS
from bench.traffic import B3, PROFILES


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench sensitivity", description=__doc__)
    made.add_argument(
        "--version",
        nargs="+",
        default=list(VERSIONS),
        metavar="V",
        type=one_of(VERSIONS),
        help=f"at least two of the cases ({', '.join(VERSIONS)})",
    )
    made.add_argument(
        "--profile",
        nargs="+",
        default=list(B3),
        metavar="P",
        type=one_of(tuple(PROFILES)),
        help=f"the traffic: {', '.join(PROFILES)} (the first six)",
    )
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int), help="of the tapes (1)")
    add_place(made)
    made.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    return made


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (void, or could not be done), 2 (usage) or 130 (interrupted)."""
    made = parser()
    asked = parsed(made, given)
    if len(set(asked.version)) < 2:
        made.error("--version: an order needs two cases at least")
    stop_on_signals()
    command = shlex.join(["python", "-m", "bench", "sensitivity", *given])
    try:
        directory, options = _resumed(asked.resume) if asked.resume else _new(asked)
        begun = records.command_of(directory) or command
        return measure(directory, options, Printer(), begun)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1


def measure(directory: Path, options: Options, printer: Printer, command: str) -> int:
    """Complete all capacity runs, and write what they say together; the exit code.

    Raises HarnessError, for instance when a capacity run that is to go on is void.
    """
    begun = records.provenance(directory, command)
    _write_meta(directory, options, begun, partial=True)
    try:
        code = _complete(directory, options, printer, command)
    except KeyboardInterrupt:
        code = INTERRUPTED
    _write_meta(directory, options, begun, partial=code != 0)
    # Late, because matplotlib takes a second to import.
    from bench import sensitivity_charts, sensitivity_report  # noqa: PLC0415

    try:
        printer.say("")
        for line in sensitivity_report.lines_of(sensitivity_report.write(directory)):
            printer.say(line)
        sensitivity_charts.draw(directory)
    except KeyboardInterrupt:
        code = INTERRUPTED
    printer.say(f"\nresults in {os.path.relpath(directory)}")
    return code


def _complete(directory: Path, options: Options, printer: Printer, command: str) -> int:
    """One capacity run after the other, until one does not end well; its exit code."""
    missing = [profile for profile in options.profiles if not _is_whole(directory / profile)]
    resume = f"python -m bench sensitivity --resume {os.path.relpath(directory)}"
    for number, profile in enumerate(missing):
        after_s = sum(expected_s(options, each) for each in missing[number + 1 :])
        printer.say(
            f"\nprofile {profile}: {options.profiles.index(profile) + 1} of {len(options.profiles)}"
        )
        run = _run(directory / profile, options.of_profile(profile), printer, after_s)
        begun = records.provenance(run.directory, command)
        code = capacity_cli.measure(run, printer, begun, resume)
        if code:
            return code
    return 0


def _run(directory: Path, asked: agenda.Options, printer: Printer, after_s: float) -> capacity.Run:
    """The capacity run of a profile, begun before or not."""
    if (directory / "meta.json").exists():
        return capacity_cli.resumed(directory, printer, after_s)
    directory.mkdir(exist_ok=True)
    return capacity.Run(directory, asked, printer.say, printer.live, after_s=after_s)


def _is_whole(run: Path) -> bool:
    """Whether nothing of a capacity run is missing; a void one never gets whole."""
    if not (run / trials.FILE).exists():
        return False
    options, done = capacity_cli.read_options(run), trials.read(run)
    void = any(one.faults for one in done)
    return not void and agenda.next_task(options, done, lambda case: 0.0) is None


def _new(asked: argparse.Namespace) -> tuple[Path, Options]:
    records.check_writable(asked.out)
    for label in asked.version:
        service.check_spawnable(label, None)
    # In their own order, whatever order they were given in.
    cases = [case for case in VERSIONS if case in asked.version]
    profiles = [profile for profile in PROFILES if profile in asked.profile]
    return records.new_directory(asked.out), Options(cases, profiles, asked.seed, asked.pins)


def _resumed(directory: Path) -> tuple[Path, Options]:
    options = records.read_options(directory, LAYOUT, Options)
    records.check_same_machine(directory)
    records.claim(directory)
    return directory, options


def _write_meta(
    directory: Path, options: Options, begun: Mapping[str, Any], *, partial: bool
) -> None:
    runs = [directory / each for each in options.profiles]
    done = [trials.read(run) for run in runs if (run / trials.FILE).exists()]
    conditions = {
        "layout": LAYOUT,
        "options": options,
        "mode": agenda.MODES[MODE],
        "partial": partial,
        "void": any(one.faults for each in done for one in each),
    }
    records.write_json(directory / "meta.json", {**begun, **conditions})
