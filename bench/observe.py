"""What is seen beside the load while it runs: health, event loop, database, staleness of reads.

It all happens a few times a second in one thread with an event loop of its own, so it costs the
measured service next to nothing and the generator nothing.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import psycopg

from bench import audit, wire
from bench.exchange_client import Broker, HarnessError, Session
from bench.service import Place, Service
from bench.wire import Health

Answer = TypeVar("Answer")
Shows = Callable[[Answer], bool]

HEALTH_EVERY_S = 0.5
FLUSHED_LOOK_EVERY_S = 0.05
FLUSHED_PATIENCE_S = 5.0
LOOP_EVERY_S = 0.1
ACTIVITY_EVERY_S = 0.2
CPU_LOOK_EVERY_S = 0.02
PROBE_EVERY_S = 0.5
PROBE_LOOK_EVERY_S = 0.005
# Of no class that the tape uses, so that nobody else trades it.
PROBE_SYMBOL = "PROB99"
PROBE_QUANTITY = 100
BOOK, PRICE, ORDER = "book", "price", "order"
_GAPS = (HarnessError, TimeoutError, psycopg.Error, msgspec.MsgspecError)

_ACTIVITY = """
    SELECT coalesce(wait_event_type || ':' || wait_event, 'CPU'), query
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
      AND state <> 'idle' AND pid <> pg_backend_pid()
"""
_COUNTERS = """
    SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
           (SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'),
           (SELECT wal_bytes::bigint FROM pg_stat_wal)
"""


class Counters(msgspec.Struct, frozen=True):
    """What PostgreSQL has counted so far."""

    commits: int
    wal_fsyncs: int
    wal_bytes: int


@dataclass
class Probed:
    """Orders of the staleness probe, for the audit."""

    acknowledged: dict[str, audit.SentOrder] = field(default_factory=dict)
    uncertain: list[audit.SentOrder] = field(default_factory=list)


@dataclass
class Seen:
    """Everything seen, each with its instant (monotonic seconds).

    ``activity`` has one entry for each look: the (wait, query) of every client that was busy.
    ``staleness_ms`` is, by kind of read, the time from the acknowledgement of a change, whose
    instant it has, to the first read that shows it.
    """

    health: list[tuple[float, Health]] = field(default_factory=list)
    loop_lag_ms: list[tuple[float, float]] = field(default_factory=list)
    staleness_ms: defaultdict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    activity: list[tuple[float, list[tuple[str, str]]]] = field(default_factory=list)
    counters: list[tuple[float, Counters]] = field(default_factory=list)
    cpu: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    probed: Probed = field(default_factory=Probed)
    # The measured part of the schedule; whoever drives the load says when it is.
    begin_s: float = math.inf
    end_s: float = math.inf
    # When a look that began after its end found all of it in the database.
    flushed_s: float = math.inf

    def cpu_share(self) -> dict[str, float]:
        """CPU by process over the measured part, as a share of one core; empty if not known."""
        if len(self.cpu) < 2:
            return {}
        (begin_s, before), (end_s, after) = self.cpu
        return {
            name: (seconds - before.get(name, 0.0)) / (end_s - begin_s)
            for name, seconds in after.items()
        }

    def flush_age_ms_max(self) -> float | None:
        """How long the oldest change has waited for the database since the measured part began.

        The service says itself how long the oldest of the changes that it has written has waited;
        between two looks that may be more than either of them sees.
        """
        looks = [health for at, health in self.health if at >= self.begin_s]
        return max((max(each.flush_age_ms, each.flush_age_ms_max) for each in looks), default=None)

    def flushed_after_s(self) -> float:
        """How long after the schedule all was in the database; infinite if that was not seen."""
        return math.inf if self.flushed_s == math.inf else self.flushed_s - self.end_s


@contextlib.contextmanager
def watching(place: Place, prober: Broker | None, prober_number: int) -> Iterator[Seen]:
    """Watch while the block runs, and after it until everything is flushed."""
    seen, stop = Seen(), threading.Event()
    watcher = _Watcher(seen, stop, place)
    thread = threading.Thread(
        target=lambda: asyncio.run(watcher.watch(prober, prober_number)), daemon=True
    )
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def busy_with(query: str) -> str:
    """``read`` or ``write``, by the text of a statement that a client is at."""
    text = query.lstrip().upper()
    changes = "FOR UPDATE" in text or "ADVISORY" in text or "NEXTVAL" in text
    return "read" if text.startswith("SELECT") and not changes else "write"


class _Watcher:
    def __init__(self, seen: Seen, stop: threading.Event, place: Place) -> None:
        self._seen = seen
        self._stop = stop
        self._place = place

    async def watch(self, prober: Broker | None, prober_number: int) -> None:
        async with Session(self._place.target) as session:
            watched = [
                self._every(LOOP_EVERY_S, lambda: self._look_at_loop(session)),
                self._until_flushed(session),
            ]
            if prober is not None:
                probe = _Probe(session, prober, prober_number, self._seen)
                watched.append(self._every(PROBE_EVERY_S, probe.once))
            if self._place.database_url is not None:
                watched.append(self._watch_database(self._place.database_url))
            if self._place.service is not None:
                watched.append(self._watch_cpu(self._place.service))
            await asyncio.gather(*watched)

    async def _every(self, interval_s: float, look: Callable[[], Awaitable[None]]) -> None:
        """Look regularly until the end of the watch; a look that fails leaves a gap."""
        while not self._stop.is_set():
            with contextlib.suppress(*_GAPS):
                async with asyncio.timeout(max(interval_s, 2.0)):
                    await look()
            await asyncio.sleep(interval_s)

    async def _until_flushed(self, session: Session) -> None:
        deadline = math.inf
        while time.monotonic() < deadline:
            over = time.monotonic() >= self._seen.end_s
            if self._stop.is_set() and deadline == math.inf:
                # A watch without an end of schedule was broken off: nothing to wait for.
                deadline = time.monotonic() + (FLUSHED_PATIENCE_S if over else 0.0)
            with contextlib.suppress(HarnessError, TimeoutError):
                async with asyncio.timeout(2.0):
                    health = await session.health()
                self._seen.health.append((time.monotonic(), health))
                if over and health.flushed:
                    self._seen.flushed_s = time.monotonic()
                    return
            await asyncio.sleep(FLUSHED_LOOK_EVERY_S if over else HEALTH_EVERY_S)

    async def _look_at_loop(self, session: Session) -> None:
        """The reply to GET / needs nothing but the event loop, so its latency is the loop's lag."""
        begin_s = time.monotonic()
        await session.send(wire.get(self._place.target.host_header, "", "/"))
        now_s = time.monotonic()
        self._seen.loop_lag_ms.append((now_s, (now_s - begin_s) * 1e3))

    async def _watch_cpu(self, service: Service) -> None:
        """The CPU used so far at the begin and at the end of the measured part."""
        while len(self._seen.cpu) < 2:
            instant_s = self._seen.end_s if self._seen.cpu else self._seen.begin_s
            if time.monotonic() >= instant_s:
                self._seen.cpu.append((time.monotonic(), service.cpu_seconds()))
            elif self._stop.is_set():
                return
            await asyncio.sleep(CPU_LOOK_EVERY_S)

    async def _watch_database(self, url: str) -> None:
        with contextlib.suppress(psycopg.Error):
            connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
            async with connection:
                await self._every(ACTIVITY_EVERY_S, lambda: self._look_at_database(connection))

    async def _look_at_database(self, connection: psycopg.AsyncConnection[Any]) -> None:
        rows = await (await connection.execute(_ACTIVITY)).fetchall()
        now_s = time.monotonic()
        self._seen.activity.append((now_s, [(wait, busy_with(query)) for wait, query in rows]))
        row = await (await connection.execute(_COUNTERS)).fetchone()
        if row is not None:
            self._seen.counters.append((now_s, Counters(*(int(each or 0) for each in row))))


class _Probe:
    """Trades with itself and looks when the reads show it.

    A round is a bid that rests, until the book has it, and an ask that meets it, until price and
    order tell of the trade. Nothing is left, and the price is that of this round alone.
    """

    def __init__(self, session: Session, broker: Broker, number: int, seen: Seen) -> None:
        self._session = session
        self._broker = broker
        self._number = number
        self._seen = seen
        self._price = 1000

    async def once(self) -> None:
        # Rising, so that a bid that an interrupted round has left is never met before its own.
        self._price += 1
        price, stock = self._price, f"/stocks/{PROBE_SYMBOL}"
        bid_id, placed_s = await self._placed("bid")
        await self._until_shown(
            BOOK,
            placed_s,
            f"{stock}/book?depth=1",
            wire.BookDepth,
            lambda book: any(level.price == price for level in book.bids),
        )
        _, traded_s = await self._placed("ask")
        await asyncio.gather(
            self._until_shown(
                PRICE,
                traded_s,
                f"{stock}/price",
                wire.Price,
                lambda shown: shown.last_price == price,
            ),
            self._until_shown(
                ORDER,
                traded_s,
                f"/orders/{bid_id}",
                wire.OrderDetail,
                lambda order: not order.remaining_quantity,
            ),
        )

    async def _placed(self, side: str) -> tuple[str, float]:
        """Place an order at the price of the round: its id, and when it was acknowledged."""
        order = audit.SentOrder(self._number, PROBE_SYMBOL, side, self._price, PROBE_QUANTITY)
        probed = self._seen.probed
        probed.uncertain.append(order)
        body = await self._session.ask(
            wire.order(
                self._session.target.host_header,
                self._broker.key,
                document_number=self._price,
                side=order.side,
                symbol=order.symbol,
                price=self._price,
                quantity=order.quantity,
                valid_until="2099-12-31T00:00:00Z",
            ),
            201,
        )
        acknowledged_s = time.monotonic()
        order_id = msgspec.json.decode(body, type=wire.Receipt).order_id
        probed.uncertain.remove(order)
        probed.acknowledged[order_id] = order
        return order_id, acknowledged_s

    async def _until_shown(
        self, kind: str, since_s: float, path: str, answer: type[Answer], shows: Shows[Answer]
    ) -> None:
        """Read until the answer shows the change, and note how long after it that was asked.

        When the round is given up before, it notes how long that was: the staleness is more.
        """
        asked_s = time.monotonic()
        try:
            while not await self._is_shown(path, answer, shows):
                await asyncio.sleep(PROBE_LOOK_EVERY_S)
                asked_s = time.monotonic()
            if kind == ORDER:
                # This read may wait for what it has to show, so it is its answer that counts.
                asked_s = time.monotonic()
        except asyncio.CancelledError:
            asked_s = time.monotonic()
            raise
        finally:
            self._seen.staleness_ms[kind].append((since_s, (asked_s - since_s) * 1e3))

    async def _is_shown(self, path: str, answer: type[Answer], shows: Shows[Answer]) -> bool:
        """Whether a read shows it; one that is refused does not, such as the first of a price."""
        host, key = self._session.target.host_header, self._broker.key
        outcome, body = await self._session.send(wire.get(host, key, path))
        return outcome == 200 and shows(msgspec.json.decode(body, type=answer))


def waits(seen: Seen) -> dict[str, float]:
    """How many clients on average were at what while it was measured: ``write Lock:tuple``."""
    looks = [busy for at, busy in seen.activity if seen.begin_s <= at <= seen.end_s]
    counted = Counter(f"{work} {wait}" for busy in looks for wait, work in busy)
    return {name: count / len(looks) for name, count in counted.most_common()}
