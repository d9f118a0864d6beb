"""``python -m bench growth``: does a case become slower the more history its tables hold?

The books are filled through the case itself, as for a search. Then closed orders and their trades
are put into its tables in growing numbers, and at each size the case is started and asked, one
request after the other: what does a read, a new order and a cancel take? Every answer is checked.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import psycopg
import uvloop

from bench import bed, service, stored_state, wire
from bench.bed import Bed
from bench.checking import FLUSH_PATIENCE_S
from bench.exchange_client import Broker, HarnessError, Session, until_flushed
from bench.figures import percentile
from bench.load import Say
from bench.service import Case

LAYOUT = "growth-1"
FILE = "growth.jsonl"
PROFILE = "average"
VERBS = ("book", "price", "balance", "old order", "closed orders", "open orders", "order", "cancel")
ROUNDS, WARMUP_ROUNDS = 300, 30
_SHARES, _FIRST_PRICE, _PRICES, _PAGE = 100, 1_000, 20, 50
_CHUNK = 500_000
# History is older than all that the case has numbered itself.
_HISTORY = (
    """
    INSERT INTO orders (id, sequence, broker_id, document_number, side, order_type, symbol, price,
                        quantity, remaining_quantity, close_reason, valid_until, created_at,
                        closed_at)
    SELECT {order_id}, n - {last}, {broker}, '1', CASE mod(n, 2) WHEN 0 THEN 'bid' ELSE 'ask' END,
           'limit', {symbol}, {price}, {shares}, 0, 'filled', {at} + interval '1 day', {at}, {at}
    FROM generate_series(%(first)s::bigint, %(until)s::bigint - 1) n
    """,
    """
    INSERT INTO trades (id, sequence, symbol, price, quantity, taker_side, maker_order_id,
                        taker_order_id, maker_broker_id, taker_broker_id, executed_at)
    SELECT {trade_id}, n - {last}, {symbol}, {price}, {shares}, 'bid', {maker_id}, {order_id},
           {maker}, {broker}, {at}
    FROM generate_series(%(first)s::bigint, %(until)s::bigint - 1, 2) n
    """,
    """
    INSERT INTO balances AS b (broker_id, symbol, cash)
    SELECT broker_id, symbol, sum(cash) FROM (
        SELECT {broker} AS broker_id, {symbol} AS symbol,
               CASE mod(n, 2) WHEN 0 THEN -1 ELSE 1 END * {price} * {shares} AS cash
        FROM generate_series(%(first)s::bigint, %(until)s::bigint - 1) n
    ) earned GROUP BY broker_id, symbol
    ON CONFLICT (broker_id, symbol) DO UPDATE SET cash = b.cash + EXCLUDED.cash
    """,
)
_ORDER_ID = "('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
_LAST = 10**9


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for: the closed orders in the tables, ascending."""

    cases: list[str]
    sizes: list[int]
    seed: int
    pins: dict[str, int]


class Point(msgspec.Struct, frozen=True):
    """One request of one case at one size. ``started_s`` is how long the case took to start."""

    case: str
    size: int
    verb: str
    count: int
    p50_ms: float
    p99_ms: float
    started_s: float
    database_mb: float


def run(options: Options, label: str, say: Say) -> Iterator[list[Point]]:
    """The points of one size after the other. Raises HarnessError, also for a wrong answer."""
    case = Case.of(label)
    say(f"{label}: starting a database and filling the books")
    with bed.made(case, PROFILE, options.seed, options.pins) as ready:
        assert ready.database is not None, "only the null server has none"
        there = 0
        for size in options.sizes:
            say(f"{label}: {size:,} closed orders")
            grow(ready, there, size)
            there = size
            yield measured(ready, case, size, options.pins)


# ---- the history ----


def order_id(number: int) -> str:
    """The id of an order of the history; the n-th belongs to broker n modulo their number."""
    return f"00000000-0000-7000-8000-{number:012x}"


def grow(ready: Bed, there: int, size: int) -> None:
    """Add closed orders until there are ``size``: pairs that have traded with each other."""
    assert ready.database is not None
    statements = _statements(ready)
    with psycopg.connect(ready.database.url, autocommit=True) as connection:
        for first in range(there, size, _CHUNK):
            values = {"first": first, "until": min(first + _CHUNK, size)}
            for statement in statements:
                connection.execute(statement, values)
        connection.execute("VACUUM (ANALYZE)")


def _statements(ready: Bed) -> list[str]:
    brokers = ",".join(f"'{broker.id}'" for broker in ready.brokers)
    symbols = ",".join(f"'{symbol}'" for symbol in ready.market.symbols)
    of_broker = f"(ARRAY[{brokers}]::uuid[])[1 + mod({{}}, {len(ready.brokers)})::int]"
    values = {
        "order_id": _ORDER_ID.format("n"),
        # The maker of a bid is the ask after it.
        "maker_id": _ORDER_ID.format("n + 1"),
        "trade_id": _ORDER_ID.replace("8000", "9000").format("n"),
        "broker": of_broker.format("n"),
        "maker": of_broker.format("n + 1"),
        "symbol": f"(ARRAY[{symbols}])[1 + mod(n / 2, {len(ready.market.symbols)})::int]",
        "price": f"({_FIRST_PRICE} + mod(n / 2, {_PRICES}))",
        "shares": _SHARES,
        "at": "now() - interval '30 days' + n * interval '0.1 ms'",
        "last": _LAST,
    }
    return [statement.format(**values) for statement in _HISTORY]


# ---- what is asked ----


@dataclass(frozen=True)
class _Asker:
    """One client that sends a request when the one before is answered, and checks the answers."""

    session: Session
    ready: Bed
    size: int

    async def rounds(self) -> dict[str, list[float]]:
        """Milliseconds by verb; each round asks everything once."""
        taken: dict[str, list[float]] = {verb: [] for verb in VERBS}
        for number in range(WARMUP_ROUNDS + ROUNDS):
            for verb, took_ms in (await self._round(number)).items():
                if number >= WARMUP_ROUNDS:
                    taken[verb].append(took_ms)
        return taken

    async def _round(self, number: int) -> dict[str, float]:
        ready = self.ready
        symbol = ready.market.symbols[number % len(ready.market.symbols)]
        place = number % ready.market.brokers
        broker, owner = ready.brokers[place], self._owner(number)
        old = order_id(self._old(number))
        taken = {}
        taken["book"], book = await self._get(broker, f"/stocks/{symbol}/book", wire.BookDepth)
        _check(bool(book.bids and book.asks), f"the book of {symbol} has two sides")
        taken["price"], price = await self._get(broker, f"/stocks/{symbol}/price", wire.Price)
        _check(price.last_price > 0, f"{symbol} has traded")
        taken["balance"], balance = await self._get(broker, "/balance", wire.Balance)
        _check(balance.broker_id == broker.id, "a balance of one's own")
        taken["old order"], order = await self._get(owner, f"/orders/{old}", wire.OrderDetail)
        _check(order.status == "closed" and len(order.trades) == 1, f"order {old} has traded")
        for status in ("closed", "open"):
            path = f"/orders?status={status}&limit={_PAGE}"
            verb = f"{status} orders"
            taken[verb], page = await self._get(broker, path, wire.OrderPage)
            _check(all(each.status == status for each in page.orders), f"only {status} orders")
            _check(bool(page.orders), f"broker {place} has {status} orders")
        taken["order"], receipt = await self._post(broker, self._passive(broker, symbol, number))
        taken["cancel"], _ = await self._post(
            broker, b"POST /orders/" + receipt + wire.cancel_end(self._host, broker.key), 204
        )
        return taken

    def _old(self, number: int) -> int:
        """Orders from all over the history."""
        return number * 7_919_999 % self.size

    def _owner(self, number: int) -> Broker:
        return self.ready.brokers[self._old(number) % len(self.ready.brokers)]

    def _passive(self, broker: Broker, symbol: str, number: int) -> bytes:
        """A bid so low that it rests."""
        return wire.order(
            self._host,
            broker.key,
            document_number=number,
            side="bid",
            symbol=symbol,
            price=1,
            quantity=_SHARES,
            valid_until="2099-12-31T00:00:00Z",
        )

    @property
    def _host(self) -> str:
        return self.session.target.host_header

    async def _get(self, broker: Broker, path: str, answer: type[Any]) -> tuple[float, Any]:
        begin_s = time.perf_counter()
        body = await self.session.ask(wire.get(self._host, broker.key, path))
        took_ms = (time.perf_counter() - begin_s) * 1e3
        return took_ms, msgspec.json.decode(body, type=answer)

    async def _post(
        self, broker: Broker, request: bytes, expected: int = 201
    ) -> tuple[float, bytes]:
        begin_s = time.perf_counter()
        body = await self.session.ask(request, expected)
        took_ms = (time.perf_counter() - begin_s) * 1e3
        return took_ms, _id_of(body)


def _id_of(body: bytes) -> bytes:
    return msgspec.json.decode(body, type=wire.Receipt).order_id.encode() if body else b""


def _check(holds: bool, what: str) -> None:
    """A benchmark whose answers are wrong is none."""
    if not holds:
        raise HarnessError(f"a wrong answer: expected that {what}")


def measured(ready: Bed, case: Case, size: int, pins: dict[str, int]) -> list[Point]:
    """Start the case on its tables as they are, and ask. Raises HarnessError."""
    assert ready.database is not None
    begin_s = time.monotonic()
    with service.service_on(case, ready.database, ready.database.url, pins) as running:
        started_s = time.monotonic() - begin_s

        async def ask() -> dict[str, list[float]]:
            async with Session(running.target) as session:
                taken = await _Asker(session, ready, size).rounds()
                await until_flushed(session, FLUSH_PATIENCE_S)
            return taken

        taken = uvloop.run(ask())
    if running.stop_finding:
        raise HarnessError(f"{case.label}: {running.stop_finding}")
    database_mb = stored_state.size_mb(ready.database.url)
    return [
        Point(case.label, size, verb, len(took), *_percentiles(took), started_s, database_mb)
        for verb, took in taken.items()
    ]


def _percentiles(taken_ms: list[float]) -> tuple[float, float]:
    ordered = np.sort(np.array(taken_ms))
    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
    assert p50 is not None, "each round asks everything"
    assert p99 is not None, "and waits for every answer"
    return p50, p99
