"""PostgreSQL is gone for half a minute under load: who reads and writes there says so and recovers,
who matches in memory goes on and catches up, and nobody loses what was acknowledged."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest
from client import PATIENCE_S, Reply, Service, eventually, order_body, send
from conftest import CASES, MEMORY_CASES, READING_CASES, execute, services
from msgspec import convert

from bench import audit, stored_state
from bench.audit import Held, SentOrder
from bench.wire import BookDepth, OrderDetail
from common.postgres import EmbeddedPostgres

OUTAGE_S = 30.0
# No request may hang; how fast a reply is, is measured elsewhere.
REPLY_S = 3.0
RECOVERY_S = 5.0
PAUSE_S = 0.05
SYMBOLS = ("PETR4", "VALE3")
KINDS = {"order", "cancel", "read", "health"}
GOOD = {200, 201, 204}


class Seen(NamedTuple):
    """A request and its reply, and when they left and came, in monotonic seconds."""

    kind: str
    sent_s: float
    came_s: float
    reply: Reply


class Witness:
    """Sends a small steady load to one service, and remembers what it was told."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.brokers = [service.register(name) for name in ("Alice", "Bob")]
        self.seen: list[Seen] = []
        self.receipts: dict[str, dict[str, Any]] = {}
        self.acknowledged: dict[str, SentOrder] = {}
        self.uncertain: list[SentOrder] = []
        self.cancelled: set[str] = set()
        self.resting: list[list[str]] = [[], []]
        # The kinds of requests that need the database.
        self.refused = set[str]()
        if service.case in READING_CASES:
            self.refused |= {"read"}
        if service.case not in MEMORY_CASES:
            self.refused |= {"order", "cancel", "health"}
        for number, side in enumerate(("bid", "ask")):
            with closing(service.client.connect()) as connection:
                for symbol in SYMBOLS:  # a first price of each
                    self._order(connection, SentOrder(number, symbol, side, 100, 1))
                self._rest(connection, number, SYMBOLS[0])

    def trade_until(self, stop: Event, number: int) -> None:
        """Orders that trade, orders that rest, and cancels of these, on one connection."""
        with closing(self.service.client.connect()) as connection:
            for step in count():
                if stop.wait(PAUSE_S):
                    return
                symbol = SYMBOLS[step % 2]
                if step % 4 == 1:
                    self._rest(connection, number, symbol)
                elif step % 4 == 3:
                    self._cancel(connection, number)
                else:
                    side = ("bid", "ask")[(step // 2 + number) % 2]
                    price, quantity = 100 + step * 7 % 5, 1 + step % 9
                    self._order(connection, SentOrder(number, symbol, side, price, quantity))

    def read_until(self, stop: Event) -> None:
        """Everything that can be read, one after the other, on one connection."""
        with closing(self.service.client.connect()) as connection:
            for step in count():
                symbol, newest = SYMBOLS[step % 2], list(self.acknowledged)[-1]
                number = self.acknowledged[newest].broker
                for path in (
                    f"/orders/{newest}",
                    "/orders?limit=5",
                    f"/stocks/{symbol}/price",
                    f"/stocks/{symbol}/book",
                    "/balance",
                ):
                    if stop.wait(PAUSE_S):
                        return
                    self._ask(connection, number, "read", path)
                self._ask(connection, number, "health", "/health")

    def _rest(self, connection: HTTPConnection, number: int, symbol: str) -> None:
        """An order far from the others: it stays in the book until it is cancelled."""
        order_id = self._order(connection, SentOrder(number, symbol, "ask", 10_000, 5))
        if order_id:
            self.resting[number].append(order_id)

    def _cancel(self, connection: HTTPConnection, number: int) -> None:
        """The oldest of those that rest; when it is refused, the same one next time."""
        order_id = self.resting[number][0]
        if self._ask(connection, number, "cancel", f"/orders/{order_id}/cancel").status == 204:
            self.resting[number].pop(0)
            self.cancelled.add(order_id)

    def _order(self, connection: HTTPConnection, sent: SentOrder) -> str | None:
        """The id of an order, if it was accepted."""
        body = order_body(
            symbol=sent.symbol, side=sent.side, price=sent.price, quantity=sent.quantity
        )
        reply = self._ask(connection, sent.broker, "order", "/orders", body)
        if reply.status != 201:
            self.uncertain.append(sent)
            return None
        order_id = str(reply.json["order_id"])
        self.receipts[order_id] = reply.json
        self.acknowledged[order_id] = sent
        return order_id

    def _ask(
        self,
        connection: HTTPConnection,
        number: int,
        kind: str,
        path: str,
        body: object = None,
    ) -> Reply:
        method = "POST" if kind in ("order", "cancel") else "GET"
        sent_s = time.monotonic()
        reply = send(connection, method, path, body, self.brokers[number].key)
        self.seen.append(Seen(kind, sent_s, time.monotonic(), reply))
        return reply

    # ---- what must be true ----

    def serves_since(self, moment_s: float) -> bool:
        """Whether requests of every kind that were sent after the moment have been served."""
        good = {
            seen.kind
            for seen in list(self.seen)
            if seen.sent_s > moment_s and seen.reply.status in GOOD
        }
        return good == KINDS

    def assert_answered(self, gone: "Outage", served_again_s: float) -> None:
        """Every request was answered in time, and refused only where and when it had to be."""
        assert max(seen.came_s - seen.sent_s for seen in self.seen) < REPLY_S
        for seen in self.seen:
            if seen.kind in self.refused:
                served = seen.came_s < gone.from_s or seen.sent_s > served_again_s
                refused = seen.sent_s > gone.since_s and seen.came_s < gone.until_s
            else:
                served, refused = True, False
            allowed = GOOD if served else {503} if refused else GOOD | {503}
            assert seen.reply.status in allowed, seen
            if seen.reply.status == 503:
                assert int(seen.reply.headers["Retry-After"]) >= 1
        # The load has gone on all the time.
        during = [seen.kind for seen in self.seen if gone.since_s < seen.sent_s < gone.until_s]
        assert all(during.count(kind) >= 3 for kind in KINDS), Counter(during)

    def assert_kept(self) -> None:
        """What was acknowledged is there once, as the replies said, by HTTP as in the database.

        What was refused may be there: its commit may have come through without its reply.
        """
        held = [
            Held(number, convert(order, OrderDetail))
            for number, broker in enumerate(self.brokers)
            for order in broker.listed()
        ]
        books = [
            convert(self.brokers[0].book(symbol, "depth=50").json, BookDepth) for symbol in SYMBOLS
        ]
        sent = audit.Sent(
            self.acknowledged, self.uncertain, frozenset(self.cancelled), frozenset(), {}
        )
        names = [broker.name for broker in self.brokers]
        ids = [broker.id for broker in self.brokers]
        cash = [broker.cash() for broker in self.brokers]
        assert self.service.database_url is not None
        stored = stored_state.read(self.service.database_url)
        assert [
            *audit.order_findings(sent, held),
            *audit.state_findings(held),
            *audit.trade_findings(held, names, len(stored.trades)),
            *audit.cash_findings(held, cash),
            *audit.book_findings(held, books),
            *audit.stored_order_findings(held, ids, stored.orders),
            *audit.stored_trade_findings(held, stored.trades),
            *audit.stored_cash_findings(cash, ids, stored.balances),
        ] == []
        now = {order.id: order for _, order in held}
        for order_id, receipt in self.receipts.items():
            assert now[order_id].remaining_quantity <= receipt["remaining_quantity"]
            assert now[order_id].status in (receipt["status"], "closed")


class Outage(NamedTuple):
    """Monotonic seconds: from ``from_s`` the server ends, from ``since_s`` it is gone, and from
    ``until_s`` it starts again."""

    from_s: float
    since_s: float
    until_s: float


@pytest.fixture
def witnesses(mortal: EmbeddedPostgres, new_place: Callable[[], Path]) -> Iterator[list[Witness]]:
    """Each case with a database of its own in one server that can be stopped, and those that match
    in memory once more with a log."""

    def make_database(name: str) -> str:
        execute(mortal.url, f"CREATE DATABASE {name}")
        return mortal.url.replace("/exchange?", f"/{name}?")

    def start(case: str, stack: ExitStack, durability: str = "flush") -> Service:
        make = partial(make_database, f"{case}_{durability}")
        starter = stack.enter_context(contextmanager(services)(case, make, new_place))
        # A read that waits for a flush gives up soon, so that there are many of them.
        return starter(
            ready=False,
            EXCHANGE_POOL_WAIT_MS="1000",
            EXCHANGE_DURABILITY=durability,
            EXCHANGE_WAL_DIR=str(new_place() / "wal"),
        )

    with ExitStack() as stack:
        running = [start(case, stack) for case in CASES]
        running += [start(case, stack, "wal") for case in MEMORY_CASES]
        for service in running:
            service.wait_until_ready()
        yield [Witness(service) for service in running]


@contextmanager
def load(witnesses: list[Witness]) -> Iterator[list[Future[None]]]:
    """All of it at once, each connection in a thread of its own."""
    stop = Event()
    with ThreadPoolExecutor(3 * len(witnesses)) as threads:
        try:
            yield [
                future
                for witness in witnesses
                for future in (
                    threads.submit(witness.read_until, stop),
                    *(threads.submit(witness.trade_until, stop, number) for number in range(2)),
                )
            ]
        finally:
            stop.set()


def until_served(witnesses: list[Witness], since_s: float, patience_s: float = PATIENCE_S) -> None:
    for witness in witnesses:
        eventually(partial(witness.serves_since, since_s), patience_s)


def test_half_a_minute_without_postgresql_loses_nothing(
    mortal: EmbeddedPostgres, witnesses: list[Witness]
) -> None:
    in_memory = [witness for witness in witnesses if witness.service.case in MEMORY_CASES]
    with load(witnesses) as clients:
        until_served(witnesses, since_s=0)
        from_s = time.monotonic()
        os.kill(mortal.pid, signal.SIGQUIT)  # "immediate": no goodbye, recovery at the next start
        mortal.stop()
        since_s = time.monotonic()
        time.sleep(OUTAGE_S)
        behind = [witness.service.health() for witness in in_memory]
        gone = Outage(from_s, since_s, time.monotonic())
        mortal.start()
        until_served(witnesses, time.monotonic(), RECOVERY_S)
        for witness, then in zip(in_memory, behind, strict=True):
            eventually(partial(has_written, witness.service, then["sequence"]), RECOVERY_S)
        served_again_s = time.monotonic()
        until_served(witnesses, served_again_s)
    for client in clients:
        client.result()
    assert all(then["flush_pending"] > 10 for then in behind)
    for witness in witnesses:
        eventually(partial(has_written, witness.service, witness.service.health()["sequence"]))
        assert witness.service.health()["flush_pending"] == 0
        witness.assert_answered(gone, served_again_s)
        witness.assert_kept()


def has_written(service: Service, sequence: int) -> bool:
    """Whether the database has everything up to this sequence number."""
    return bool(service.health()["flushed_sequence"] >= sequence)
