"""Where the trials of a search take place: one case, seeded once, restored before every trial.

The books are seeded through the API of the case itself, once for each database server. Every trial
then gets a copy of that database and a new process on it, so none inherits anything from another.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import uvloop
from psycopg import sql

from bench import audit, checking, exchange_client, service, traffic
from bench.checking import FLUSH_PATIENCE_S, Audit
from bench.exchange_client import Broker, HarnessError, Session, Target
from bench.load import DRAIN_S, Load
from bench.observe import PROBE_SYMBOL
from bench.service import Case, Database, Place
from bench.spec import BROKERS_CONNECTIONS, Spec
from bench.traffic import Market, Tape

FULL_SCALE = 100.0
FIRST_DOCUMENT = 1_000_000  # the seed orders have the numbers before
_TRIAL, _SEEDED = "trial", "exchange"


@dataclass(frozen=True)
class Bed:
    """A case whose books are filled. ``brokers`` ends with that of the staleness probe.

    The market is that of 100 %. Smaller scales use its first symbols and brokers only, larger ones
    have the same, so one seeded state serves every rate.
    """

    case: Case
    profile: str
    pins: dict[str, int]
    database: Database | None
    market: Market
    brokers: list[Broker]
    acknowledged: dict[str, audit.SentOrder]
    seeded_per_s: float | None

    @property
    def symbols(self) -> list[str]:
        """All that have a book, that of the staleness probe included."""
        return [*self.market.symbols, PROBE_SYMBOL]

    def spec(
        self,
        place: Place,
        *,
        seed: int,
        scale: float,
        length_s: float,
        warmup_s: float,
    ) -> Spec:
        """What a generator is told that sends here; it measures the last ``length_s``."""
        return Spec(
            host_header=place.target.host_header,
            address=place.target.address,
            profile=self.profile,
            seed=seed,
            scale=scale,
            reads=True,
            warmup_s=warmup_s,
            duration_s=length_s,
            drain_s=DRAIN_S,
            broker_keys=[broker.key for broker in self.brokers[: self.market.brokers]],
            first_document=FIRST_DOCUMENT,
            core=self.pins.get("generator"),
            connections=BROKERS_CONNECTIONS,
        )

    def sent(self, tape: Tape, load: Load) -> audit.Sent:
        """All that was asked of the exchange, the seed orders included."""
        return checking.sent(self.market, tape, load, self.acknowledged)

    def read_back(self, place: Place, tape: Tape, load: Load, asked: audit.Sent) -> Audit:
        """The audit through the API, when the last short-lived order of the tape has expired."""
        expired_s = checking.last_expiry_s(tape, load.started)
        return uvloop.run(checking.through_api(place, self.symbols, self.brokers, asked, expired_s))

    def check_stored(self, place: Place, tape: Tape, load: Load) -> None:
        """Audit what a case that has ended has left. Raises HarnessError with all its faults."""
        assert place.database_url is not None, "a case has a database"
        checked = checking.in_database(place.database_url, self.brokers, self.sent(tape, load))
        checked.add_stop(place.stop_finding)
        if checked.faults():
            raise HarnessError(f"{self.case.label}: AUDIT FAILED: " + "; ".join(checked.faults()))

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Place]:
        """The seeded state and a new process on it. Raises HarnessError."""
        if self.database is None:
            with service.null_server(self.pins) as running:
                yield Place(running.target, None, self.pins, running)
            return
        service.forget_log(self.database)
        url = _restored(self.database)
        with service.service_on(self.case, self.database, url, self.pins) as running:
            yield Place(running.target, url, self.pins, running)


@contextlib.contextmanager
def made(case: Case, profile: str, seed: int, pins: dict[str, int]) -> Iterator[Bed]:
    """Start a database, seed it through the case, stop the case. Raises HarnessError."""
    market = traffic.market(traffic.PROFILES[profile], seed, FULL_SCALE)
    if case == service.NULL:
        keys = [Broker(f"broker {n:03d}", "", f"{n:043d}") for n in range(market.brokers)]
        yield Bed(case, profile, pins, None, market, keys, {}, None)
        return
    with service.database(pins) as database:
        with service.service_on(case, database, database.url, pins) as running:
            brokers, acknowledged, per_s = uvloop.run(_seeded(running.target, market))
        if running.stop_finding:
            raise HarnessError(f"{case.label}: after the seeding {running.stop_finding}")
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
        yield Bed(case, profile, pins, database, market, brokers, acknowledged, per_s)


async def _seeded(
    target: Target, market: Market
) -> tuple[list[Broker], dict[str, audit.SentOrder], float]:
    """Brokers, acknowledged seed orders, and how many of them were taken in a second."""
    seeds = traffic.seed_orders(market)
    async with Session(target) as session:
        brokers = await exchange_client.register(session, market.brokers + 1)
        begin_s = time.monotonic()
        acknowledged = await exchange_client.seed(session, market, seeds, brokers, time.time())
        took_s = time.monotonic() - begin_s
        await exchange_client.until_flushed(session, FLUSH_PATIENCE_S)
    return brokers, acknowledged, len(seeds) / took_s


def _restored(database: Database) -> str:
    """The URL of a new copy of the seeded database, in place of the copy before."""
    copy, seeded = sql.Identifier(_TRIAL), sql.Identifier(_SEEDED)
    with psycopg.connect(database.url_of("postgres"), autocommit=True) as connection:
        # Dropping ends with a checkpoint, so each trial begins with the same distance to the next.
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(copy))
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(copy, seeded))
    return database.url_of(_TRIAL)
