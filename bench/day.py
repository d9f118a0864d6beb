"""``python -m bench day``: as much of a whole day of B3 as fits, far faster than it passes.

A day of B3 is 20 million orders with their cancels and reads. They are sent at a steady rate, far
above that of the day, and the first tenth is compared with the last: latency, CPU per request,
memory. Afterwards the database must hold all of it, and a new service must start on it.

What is compressed: orders live as long as in the day, but the day passes faster, so more of them
rest at a time than would at 100 %.
"""

import time

import msgspec
import uvloop

from bench import bed, checking, cpu, overload, service, stored_state, traffic
from bench.exchange_client import Session
from bench.load import Load, Say, drive
from bench.overload import Latency
from bench.service import Case, Service
from bench.traffic import Kind
from bench.usage import Used, watching

LAYOUT = "day-2"
FILE = "day.json"
PROFILE = "average"
DAY_ORDERS = 20_000_000
TENTHS = 10


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for: so many orders of a day at ``rate`` percent of B3."""

    case: str
    orders: int
    rate: float
    seed: int
    pins: dict[str, int]

    @property
    def duration_s(self) -> float:
        per_s = traffic.PROFILES[PROFILE].orders_per_s * self.rate / 100.0
        return self.orders / per_s


class Tenth(msgspec.Struct, frozen=True):
    """A tenth of the run. CPU is that of one request.

    ``resting`` are open orders at its end, ``held`` all that were in memory then: casev3 keeps
    closed ones for a while too.
    """

    requests: int
    failed: int
    latency_ms: Latency
    service_us: float | None
    postgres_us: float | None
    resident_mb: float | None
    resting: int | None
    held: int | None


class Day(msgspec.Struct, frozen=True):
    """The whole run. ``restart_s`` is how long a new service took on what was left."""

    case: str
    rate: float
    orders: int
    tenths: list[Tenth]
    resting: int
    database_mb: float
    restart_s: float
    restarted_mb: float
    faults: list[str]


def run(options: Options, say: Say) -> Day:
    """Send, audit, start again. Raises HarnessError."""
    label = options.case
    say(f"{label}: starting a database and filling the books")
    with bed.made(Case.of(label), PROFILE, options.seed, options.pins) as ready:
        assert ready.database is not None, "only the null server has none"
        with ready.fresh() as place, watching(place) as used:
            spec = ready.spec(
                place,
                seed=options.seed,
                scale=options.rate,
                length_s=options.duration_s,
                warmup_s=0.0,
            )
            tape = spec.tape()
            say(f"{label}: {len(tape):,} requests in {options.duration_s:.0f} s")
            load = drive(spec, tape, place)
        assert place.database_url is not None
        say(f"{label}: audit of the database, and a new start on it")
        asked = ready.sent(tape, load)
        audit = checking.in_database(place.database_url, ready.brokers, asked)
        audit.add_stop(place.stop_finding)
        begin_s = time.monotonic()
        with service.service_on(
            ready.case, ready.database, place.database_url, options.pins
        ) as again:
            restart_s = time.monotonic() - begin_s
            restarted_mb = cpu.resident_bytes(again.process.pid) / 1e6
            resting = uvloop.run(_resting(again))
        database_mb = stored_state.size_mb(place.database_url)
    return Day(
        case=label,
        rate=options.rate,
        orders=int((tape.kind == Kind.ORDER).sum()),
        tenths=tenths(options, load, used),
        resting=resting,
        database_mb=database_mb,
        restart_s=restart_s,
        restarted_mb=restarted_mb,
        faults=audit.faults(),
    )


async def _resting(running: Service) -> int:
    async with Session(running.target) as session:
        return (await session.health()).open_orders


def tenths(options: Options, load: Load, used: Used) -> list[Tenth]:
    """The run in ten stretches of equal length."""
    origin_s, width_s = load.started.origin_s, options.duration_s / TENTHS
    looks = [(at_s - origin_s, health) for at_s, health in load.seen.health]
    found = []
    for begin_s in (number * width_s for number in range(TENTHS)):
        end_s = begin_s + width_s
        part = overload.part(load.samples, used.resident_mb(origin_s), begin_s, end_s)
        requests = round(part.offered_per_s * width_s)
        not_served = round((part.refused_per_s + part.unsent_per_s) * width_s)
        spent = used.cpu_s(origin_s + begin_s, origin_s + end_s)
        last = next((seen for at_s, seen in reversed(looks) if begin_s <= at_s < end_s), None)
        found.append(
            Tenth(
                requests=requests,
                failed=not_served + sum(part.failed.values()),
                latency_ms=part.served_ms,
                service_us=1e6 * spent["service"] / requests if spent else None,
                postgres_us=1e6 * spent["postgres"] / requests if spent else None,
                resident_mb=part.resident_mb,
                resting=last.open_orders if last else None,
                held=max(last.open_orders, last.orders_in_memory) if last else None,
            )
        )
    return found
