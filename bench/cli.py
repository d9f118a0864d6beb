"""The command line of ``perf_realistic.py``: options, their checks, and the run as a whole."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import uvloop

from bench import exchange_client, records, report, service, trial
from bench.exchange_client import CONNECT_PATIENCE_S, HarnessError, Session, Target
from bench.load import DRAIN_S, WARMUP_S
from bench.options import (
    DURATION_MAX_S,
    DURATION_MIN_S,
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
from bench.service import VERSIONS, Place
from bench.traffic import PROFILES
from bench.trial import Plan, Summary
from common.database_url import connection_error_line

# What the compose files set for a service that only this machine can reach.
COMPOSE_ADMIN_KEY = "local-bench-only"
DEFAULT_URL = "http://localhost:8000"


def parser() -> argparse.ArgumentParser:
    """All options with their defaults."""
    made = Parser(prog="perf_realistic.py", description=__doc__)
    made.add_argument(
        "--version",
        required=True,
        metavar="V",
        type=one_of(VERSIONS),
        help="the case: v1, v2 or v3 (with --url: what the run is labelled)",
    )
    made.add_argument(
        "--scale",
        nargs="+",
        default=[100.0],
        metavar="PERCENT",
        type=between(SCALE_MIN, SCALE_MAX),
        help="percent of B3's average rates; several are measured one after the other",
    )
    place = made.add_mutually_exclusive_group()
    place.add_argument("--url", default=DEFAULT_URL, help=f"a running service ({DEFAULT_URL})")
    place.add_argument("--spawn", action="store_true", help="start and stop service and database")
    made.add_argument(
        "--duration",
        default=60.0,
        metavar="S",
        type=between(DURATION_MIN_S, DURATION_MAX_S),
        help="seconds that are measured, after 2 s of warm-up (60)",
    )
    made.add_argument("--seed", default=1, type=between(0, SEED_MAX, int), help="of the tape (1)")
    made.add_argument(
        "--profile",
        default="average",
        type=one_of(tuple(PROFILES)),
        help=f"the traffic: {', '.join(PROFILES)}",
    )
    made.add_argument("--no-reads", action="store_true", help="orders and cancels only")
    made.add_argument(
        "--admin-key",
        help="of the service (EXCHANGE_ADMIN_API_KEY; else the one of the compose files)",
    )
    made.add_argument(
        "--reset", action="store_true", help="with --url: EMPTY the exchange before each scale"
    )
    made.add_argument(
        "--port",
        type=between(1, 65535, int),
        help="with --spawn: of the service (a free one)",
    )
    add_place(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 (failed or not a result), 2 (usage) or 130 (interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    # Whoever ends the harness politely gets partial results and no process left behind.
    stop_on_signals()
    printer = report.Printer()
    try:
        records.check_writable(options.out)
        summaries, complete = _run(options, _command(given), printer)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted before there was anything to keep", file=sys.stderr)
        return INTERRUPTED
    if not complete:
        return INTERRUPTED
    return 0 if all(summary.passed for summary in summaries) else 1


def _options(given: Sequence[str]) -> argparse.Namespace:
    made = parser()
    options = made.parse_args(given)
    if options.pins is None:
        options.pins = service.default_pins() if options.spawn else {}
    if len(set(options.scale)) < len(options.scale):
        made.error("--scale: give each scale once")
    if not options.spawn and len(options.scale) > 1 and not options.reset:
        made.error("--scale: several scales need --spawn, or --reset to empty the exchange between")
    return options


def _run(
    options: argparse.Namespace, command: str, printer: report.Printer
) -> tuple[list[Summary], bool]:
    """All scales, one after the other; whether Ctrl-C left them complete."""
    if options.spawn:
        service.check_spawnable(options.version, options.port)
    results = _Results(options, command)
    interrupted = False
    try:
        for scale in options.scale:
            plan = Plan(
                options.version,
                options.profile,
                options.seed,
                scale,
                options.duration,
                not options.no_reads,
            )
            with _place(options, printer) as place:
                one = trial.run(plan, place, printer.say, printer.show)
            printer.result(results.add(one, place))
            if one.summary.partial:
                interrupted = True
                break
    except KeyboardInterrupt:
        if not results.summaries:
            raise
        interrupted = True
    finally:
        if results.summaries:
            printer.say(f"\nresults in {os.path.relpath(results.directory)}")
    if not interrupted:
        # Last, because drawing takes seconds and nothing is lost without it.
        with contextlib.suppress(KeyboardInterrupt):
            results.draw()
    return results.summaries, not interrupted


class _Results:
    """The directory of this run; it exists from the first trial on."""

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        self._options = options
        self._command = command
        self.directory = Path()
        self.summaries: list[Summary] = []

    def add(self, one: trial.Trial, place: Place) -> Summary:
        """Write all that is known so far."""
        if not self.summaries:
            self.directory = records.new_directory(self._options.out)
        summary = one.summary
        if place.stop_finding is not None:
            summary = trial.with_finding(summary, "service stops cleanly", place.stop_finding)
        self.summaries.append(summary)
        records.write_samples(self.directory, summary.name, one.samples)
        records.write_json(self.directory / "summary.json", self.summaries)
        conditions = records.meta(self._command, self._conditions(place))
        records.write_json(self.directory / "meta.json", conditions)
        limits = [*records.LIMITS, records.ONE_RUN]
        if not conditions["spawned"]:
            case = f"case{summary.version}"
            limits.append(f"The service ran already; --version says that it is {case}.")
        text = report.markdown(self._command, self.summaries, limits)
        (self.directory / "report.md").write_text(text)
        return summary

    def draw(self) -> None:
        """The charts."""
        from bench.charts import draw  # noqa: PLC0415 - matplotlib takes a second to import

        draw(self.directory)

    def _conditions(self, place: Place) -> dict[str, Any]:
        options = self._options
        running = place.service
        return {
            "version": options.version,
            "profile": options.profile,
            "profile_label": PROFILES[options.profile].label,
            "scales": options.scale,
            "seed": options.seed,
            "duration_s": options.duration,
            "warmup_s": WARMUP_S,
            "drain_s": DRAIN_S,
            "reads": not options.no_reads,
            "pins": place.pins,
            "spawned": running is not None,
            "postgres": None
            if running is None or running.database is None
            else {"version": running.database.version, "settings": running.database.settings},
            "partial": any(summary.partial for summary in self.summaries),
        }


@contextlib.contextmanager
def _place(options: argparse.Namespace, printer: report.Printer) -> Iterator[Place]:
    """A service that holds nothing: a new one, or the one at --url."""
    if options.spawn:
        printer.say(f"starting case{options.version} and its database")
        with service.spawned(options.version, options.port, options.pins) as running:
            yield Place(running.target, running.database_url, options.pins, running)
        return
    address, host_header = exchange_client.resolve(options.url)
    known = options.admin_key or os.environ.get("EXCHANGE_ADMIN_API_KEY")
    admin_key = known or COMPOSE_ADMIN_KEY
    target = Target(address, host_header, admin_key)
    database_url = os.environ.get("EXCHANGE_DATABASE_URL")
    if database_url is not None:
        _check_database(database_url)
    uvloop.run(_emptied(target, options.reset))
    yield Place(target, database_url, options.pins, None)


def _check_database(url: str) -> None:
    """Raise HarnessError now, not after the load, if the audit could not read it."""
    try:
        psycopg.connect(url, connect_timeout=int(CONNECT_PATIENCE_S)).close()
    except psycopg.Error as error:
        raise HarnessError(connection_error_line(url, error)) from None


async def _emptied(target: Target, allowed: bool) -> None:
    async with Session(target) as session:
        if allowed:
            await exchange_client.reset(session)
        elif (await session.health()).sequence > 0:
            raise HarnessError(
                "--url: the exchange holds orders already; give --reset to EMPTY it "
                "(it needs EXCHANGE_DEBUG=1), or use another one"
            )


def _command(given: Sequence[str]) -> str:
    """The command as it can be repeated, without the admin key."""
    shown = list(given)
    for position, word in enumerate(shown):
        if word == "--admin-key" and position + 1 < len(shown):
            shown[position + 1] = "…"
        elif word.startswith("--admin-key="):
            shown[position] = "--admin-key=…"
    return shlex.join(["python", "bench/perf_realistic.py", *shown])
