"""``python -m bench generator``: what the load generator can do on this machine.

It offers more and more to a server that is faster than itself until it is late, is out of CPU, or
does not send everything; against the null server it also ends where that does not answer. What it
reaches bounds every capacity that is measured with it.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench import figures, records, service
from bench.exchange_client import HarnessError
from bench.figures import GeneratorHealth
from bench.load import DRAIN_S, WARMUP_S, drive
from bench.options import INTERRUPTED, Parser, add_place, between, stop_on_signals
from bench.report import Printer, milliseconds
from bench.service import Place
from bench.spec import BROKERS_CONNECTIONS, Spec
from bench.traffic import PROFILES, market

PROFILE, SEED, DURATION_S = "average", 1, 4.0
FIRST_PER_S, FACTOR = 8_000.0, 1.15
UNANSWERED_MAX = 0.01
FILE = "generator.json"


class Reached(NamedTuple):
    """One rate that was offered, and how the generator did.

    ``unanswered`` is the share of the requests that the server had not answered at the end.
    """

    offered_per_s: float
    generators: int
    cpu_us_per_request: float
    unanswered: float
    health: GeneratorHealth

    @property
    def ended_by(self) -> str | None:
        """Why this rate was not held; None if it was. Being starved is no excuse here."""
        if self.unanswered > UNANSWERED_MAX:
            return f"the server left {self.unanswered:.0%} unanswered"
        if self.health.send_lag_ms_p99 is None:
            return "the server kept all connections busy"
        if limits := self.health.limits():
            return "; ".join(limits)
        return "send lag" if self.health.late else None


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench generator", description=__doc__)
    made.add_argument("--generators", type=between(1, 16, int), default=1, metavar="N")
    made.add_argument(
        "--aiohttp", action="store_true", help="against the null server itself, as in a search"
    )
    made.add_argument("--rate", type=between(1, 1e6), help="only this one, in requests/s")
    add_place(made)
    return made


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 with one line, or 130 (interrupted)."""
    asked = parser().parse_args(given)
    stop_on_signals()
    printer = Printer()
    reached: list[Reached] = []
    per_s = asked.rate or FIRST_PER_S
    connections = BROKERS_CONNECTIONS if asked.aiohttp else None
    code = 0
    try:
        records.check_writable(asked.out)
        while True:
            with service.null_server(asked.pins, *([] if asked.aiohttp else ["--bare"])) as running:
                place = Place(running.target, None, asked.pins, running)
                reached.append(offered(place, per_s, asked.generators, connections))
            printer.say(line_of(reached[-1]))
            if asked.rate or reached[-1].ended_by:
                break
            per_s *= FACTOR
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    if not reached:
        return code
    held = [each for each in reached if not each.ended_by]
    if held:
        best = held[-1]
        printer.say(
            f"{best.generators} generator(s) offer {best.offered_per_s:,.0f} requests/s, "
            f"send lag p99 {milliseconds(best.health.send_lag_ms_p99)} ms, "
            f"{best.cpu_us_per_request:.1f} µs of CPU per request"
        )
    command = shlex.join(["python", "-m", "bench", "generator", *given])
    meta = records.meta(command, {"partial": code != 0})
    directory = records.write_run(asked.out, FILE, [each._asdict() for each in reached], meta)
    printer.say(f"\nresults in {os.path.relpath(directory)}")
    return code


def offered(place: Place, per_s: float, generators: int, connections: int | None) -> Reached:
    """Offer one rate for some seconds, over so many connections or as many as it takes.

    Raises HarnessError.
    """
    profile = PROFILES[PROFILE]
    keys = [f"{number:043d}" for number in range(market(profile, SEED, 100.0).brokers)]
    spec = Spec(
        host_header=place.target.host_header,
        address=place.target.address,
        profile=PROFILE,
        seed=SEED,
        scale=100.0 * per_s / profile.requests_per_s,
        reads=True,
        warmup_s=WARMUP_S,
        duration_s=DURATION_S,
        drain_s=DRAIN_S,
        broker_keys=keys,
        first_document=0,
        core=place.pins.get("generator"),
        connections=connections,
    )
    load = drive(spec, spec.tape(), place, generators=generators)
    measured = load.samples.measured
    return Reached(
        per_s,
        generators,
        load.cpu_us_per_request()["generator"],
        float(np.isnan(measured.done_s).mean()),
        figures.generator_health(measured, load.finished, DURATION_S),
    )


def line_of(one: Reached) -> str:
    """One rate in a line."""
    health = one.health
    return (
        f"{one.offered_per_s:8,.0f}/s  sent {health.requests_per_s:8,.0f}/s  lag p50/p99/max "
        f"{milliseconds(health.send_lag_ms_p50)} / {milliseconds(health.send_lag_ms_p99)} / "
        f"{milliseconds(health.send_lag_ms_max)} ms  CPU {health.cpu_share:4.0%} of a core, "
        f"{one.cpu_us_per_request:.1f} µs per request  {one.ended_by or 'held'}"
    )
