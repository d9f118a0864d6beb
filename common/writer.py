"""The flush queue of the cases that match in memory.

What has changed gathers here, one entry an order however often it changes. Every few milliseconds
all of it goes to PostgreSQL in one transaction, in one round trip, together with the sequence
number up to which the data now reaches. One flush is in flight; the next takes what has gathered
meanwhile. A flush that fails is tried again, the very same one, until it succeeds: nothing is
skipped, and a number in the database tells a lost reply from a lost commit, so nothing is applied
twice.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from common import queries
from common.database import Row, conninfo
from common.errors import Overloaded, StartError
from common.model import Order, Trade
from common.webhooks import Notice

RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0
FAILING_AFTER_S = 1.0
TAKEOVER_PATIENCE_S = 5.0
_LOCK = "SELECT pg_try_advisory_lock(hashtext('exchange writer'))"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """All that one flush writes. ``orders`` maps an id to an order in its latest state."""

    created: dict[int, Order] = field(default_factory=dict)
    changed: dict[int, Order] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    since_s: float = 0.0

    def __len__(self) -> int:
        return len(self.created) + len(self.changed) + len(self.trades)


@dataclass(frozen=True, slots=True)
class Flush:
    """A batch as it was at one moment: statements with parameters, and what follows from them."""

    sequence: int
    number: int
    statements: list[tuple[bytes, Mapping[str, object]]]
    closed: list[Order]
    notices: list[Notice]
    size: int
    since_s: float


class Writer:
    """Gathers changes and writes them behind the replies."""

    def __init__(
        self,
        url: str,
        *,
        flush_interval_s: float,
        pending_max: int,
        on_saved: Callable[[Flush], None],
    ) -> None:
        self._conninfo = conninfo(url)
        self._interval_s = flush_interval_s
        self._pending_max = pending_max
        self._on_saved = on_saved
        self._batch = Batch()
        self._in_flight: Flush | None = None
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._stopping = asyncio.Event()
        # Held while a flush is in flight; whoever else holds it keeps the next one back.
        self.idle = asyncio.Lock()
        self.sequence = 0
        self.flushed_sequence = 0
        self._flush_number = 0
        self._flush_ms = 0.0
        self._loop_lag_ms = 0.0
        self._failures = 0

    def admit(self) -> None:
        """Raise Overloaded when as many changes wait for the database as may."""
        if self.full():
            raise Overloaded("too many changes wait for the database; retry later")

    def full(self) -> bool:
        """Whether as many changes wait as may."""
        return self.pending() >= self._pending_max

    def pending(self) -> int:
        """Changes that are not in the database yet."""
        return len(self._batch) + (self._in_flight.size if self._in_flight else 0)

    def record(
        self,
        sequence: int,
        order: Order,
        trades: Iterable[Trade],
        makers: Iterable[Order],
        notices: Iterable[Notice],
    ) -> None:
        """A new order and all that it did."""
        self.sequence = sequence
        batch = self._gathering()
        batch.created[order.id] = order
        batch.trades.extend(trades)
        batch.notices.extend(notices)
        for maker in makers:
            if maker.id not in batch.created:
                batch.changed[maker.id] = maker

    def record_closed(self, sequence: int, orders: Iterable[Order]) -> None:
        """Orders that were cancelled or have expired."""
        self.sequence = sequence
        batch = self._gathering()
        for order in orders:
            if order.id not in batch.created:
                batch.changed[order.id] = order

    def _gathering(self) -> Batch:
        """The batch to add to, which remembers since when it waits."""
        if not self._batch.since_s:
            self._batch.since_s = time.monotonic()
        return self._batch

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Writer"]:
        """Hold the database for this process alone. Raises StartError when another one has it."""
        self._connection = await self._connect(time.monotonic() + TAKEOVER_PATIENCE_S)
        try:
            yield self
        finally:
            await self._disconnect()

    @asynccontextmanager
    async def flushing(
        self, before: Callable[[], Awaitable[None]], drain_s: float
    ) -> AsyncIterator[None]:
        """Flush regularly, each time after ``before()``; at the end everything that is left.

        Raises StartError with the number of changes lost when that takes more than ``drain_s``.
        """
        self._stopping.clear()
        task = asyncio.create_task(self._run(before))
        try:
            yield
        finally:
            self._stopping.set()
            try:
                async with asyncio.timeout(drain_s):
                    await task
            except TimeoutError:
                raise StartError(
                    f"the database did not take the last {self.pending()} changes within "
                    f"{drain_s:g} s (EXCHANGE_DRAIN_S): they are lost"
                ) from None

    async def _run(self, before: Callable[[], Awaitable[None]]) -> None:
        due_s = time.monotonic()
        while not self._stopping.is_set() or len(self._batch):
            due_s = max(due_s + self._interval_s, time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(due_s - time.monotonic()):
                    await self._stopping.wait()
            if not self._stopping.is_set():
                self._loop_lag_ms = max(0.0, time.monotonic() - due_s) * 1000
            await before()
            async with self.idle:
                if len(self._batch):
                    await self._flush()

    async def _flush(self) -> None:
        flush = self._in_flight = self._take()
        await self._write_until_done(flush)
        self._in_flight = None
        self._on_saved(flush)

    def _take(self) -> Flush:
        """The batch as it is now, ready to be sent; a new one gathers from here."""
        batch, self._batch = self._batch, Batch()
        touched = (*batch.created.values(), *batch.changed.values())
        return Flush(
            sequence=self.sequence,
            number=self._flush_number + 1,
            statements=_statements(batch),
            closed=[order for order in touched if not order.is_open],
            notices=batch.notices,
            size=len(batch),
            since_s=batch.since_s,
        )

    async def _write_until_done(self, flush: Flush) -> None:
        """Write one flush, however long the database is gone meanwhile."""
        pause_s = RETRY_MIN_S
        while True:
            started_s = time.monotonic()
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                await self._write_once(self._connection, flush)
            except (psycopg.Error, OSError, StartError) as error:
                self._failures += 1
                log.warning("flush %d failed, trying again: %s", flush.number, _one_line(error))
                await self._disconnect()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                continue
            self._flush_ms = (time.monotonic() - started_s) * 1000
            self._flush_number = flush.number
            self.flushed_sequence = flush.sequence
            self._failures = 0
            return

    async def _write_once(self, connection: psycopg.AsyncConnection[Row], flush: Flush) -> None:
        if self._failures:
            stored = await _stored_number(connection)
            if stored == flush.number:
                return  # the commit came through, only its reply was lost
            if stored != flush.number - 1:
                raise StartError("another exchange has written to this database meanwhile")
        state = {"sequence": flush.sequence, "number": flush.number}
        async with connection.pipeline(), connection.transaction():
            for statement, parameters in flush.statements:
                await connection.execute(statement, parameters)
            await connection.execute(queries.WRITE_STATE.encode(), state)

    async def _connect(self, patient_until_s: float = 0.0) -> psycopg.AsyncConnection[Row]:
        """A connection that holds the writer's lock, so that no second exchange writes here."""
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, prepare_threshold=0
        )
        try:
            while not await _has_lock(connection):
                if time.monotonic() > patient_until_s:
                    raise StartError(
                        "another exchange that matches in memory uses this database: "
                        "stop it, or name another database in EXCHANGE_DATABASE_URL"
                    )
                await asyncio.sleep(RETRY_MIN_S)
            cursor = await connection.execute(queries.READ_STATE.encode())
            stored_sequence, stored_number = await cursor.fetchone() or (0, 0)
        except BaseException:
            await connection.close()
            raise
        if self._in_flight is None:
            self.sequence = self.flushed_sequence = stored_sequence
            self._flush_number = stored_number
        return connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.close()
        self._connection = None

    def failing(self) -> bool:
        """Whether the database has refused writes for more than a moment."""
        return self._failures > 0 and self.age_s() > FAILING_AFTER_S

    def age_s(self) -> float:
        """How long the oldest change that is not in the database has waited."""
        waiting = self._in_flight or self._batch
        return time.monotonic() - waiting.since_s if waiting.since_s else 0.0

    def figures(self) -> dict[str, float]:
        """For /health."""
        return {
            "sequence": self.sequence,
            "flushed_sequence": self.flushed_sequence,
            "flush_pending": self.pending(),
            "flush_age_ms": round(self.age_s() * 1000, 3),
            "flush_last_ms": round(self._flush_ms, 3),
            "flush_failures": self._failures,
            "flushes": self._flush_number,
            "loop_lag_ms": round(self._loop_lag_ms, 3),
        }

    def forget(self) -> None:
        """Drop what has gathered, because everything was emptied. To be called while ``idle``."""
        self._batch = Batch()
        self.sequence = self.flushed_sequence = 0


async def _has_lock(connection: psycopg.AsyncConnection[Row]) -> bool:
    row = await (await connection.execute(_LOCK)).fetchone()
    return bool(row and row[0])


async def _stored_number(connection: psycopg.AsyncConnection[Row]) -> int:
    row = await (await connection.execute(queries.READ_STATE.encode())).fetchone()
    return int(row[1]) if row else 0


def _one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# ---- a batch as parameters: one text a column, in PostgreSQL's array notation ----


def _statements(batch: Batch) -> list[tuple[bytes, Mapping[str, object]]]:
    """What writes the batch, with parameters that no longer change when the orders do."""
    statements: list[tuple[bytes, Mapping[str, object]]] = []
    if batch.created:
        statements.append((_INSERT_ORDERS, _new_orders(list(batch.created.values()))))
    if batch.changed:
        statements.append((_UPDATE_ORDERS, _changes(list(batch.changed.values()))))
    if batch.trades:
        statements.append((_INSERT_TRADES, _trades(batch.trades)))
        statements.append((_ADD_CASH, _cash(batch.trades)))
    return statements


def _new_orders(orders: list[Order]) -> dict[str, str]:
    return {
        "id": _ids(order.id for order in orders),
        "sequence": _array(order.sequence for order in orders),
        "broker_id": _ids(order.broker_id for order in orders),
        "document_number": _array(_quoted(order.document_number) for order in orders),
        "side": _array(order.side for order in orders),
        "order_type": _array(order.order_type for order in orders),
        "symbol": _array(_quoted(order.symbol) for order in orders),
        "price": _array(order.price for order in orders),
        "quantity": _array(order.quantity for order in orders),
        "valid_until": _array(order.valid_until_us for order in orders),
        "created_at": _array(order.created_at_us for order in orders),
    } | _state(orders)


def _changes(orders: list[Order]) -> dict[str, str]:
    return {"id": _ids(order.id for order in orders)} | _state(orders)


def _state(orders: list[Order]) -> dict[str, str]:
    """The columns that change in the life of an order."""
    return {
        "remaining_quantity": _array(order.remaining_quantity for order in orders),
        "close_reason": _array(order.close_reason for order in orders),
        "closed_at": _array(order.closed_at_us for order in orders),
    }


def _trades(trades: list[Trade]) -> dict[str, str]:
    return {
        "id": _ids(trade.id for trade in trades),
        "sequence": _array(trade.sequence for trade in trades),
        "symbol": _array(_quoted(trade.symbol) for trade in trades),
        "price": _array(trade.price for trade in trades),
        "quantity": _array(trade.quantity for trade in trades),
        "taker_side": _array(trade.taker_side for trade in trades),
        "maker_order_id": _ids(trade.maker_order_id for trade in trades),
        "taker_order_id": _ids(trade.taker_order_id for trade in trades),
        "maker_broker_id": _ids(trade.maker_broker_id for trade in trades),
        "taker_broker_id": _ids(trade.taker_broker_id for trade in trades),
        "executed_at": _array(trade.executed_at_us for trade in trades),
    }


def _cash(trades: list[Trade]) -> dict[str, str]:
    """What the trades change in each broker's cash, by symbol."""
    earned: defaultdict[tuple[int, str], int] = defaultdict(int)
    for trade in trades:
        earned[trade.seller_id, trade.symbol] += trade.cash
        earned[trade.buyer_id, trade.symbol] -= trade.cash
    return {
        "broker_id": _ids(broker_id for broker_id, _ in earned),
        "symbol": _array(_quoted(symbol) for _, symbol in earned),
        "cash": _array(earned.values()),
    }


def _array(values: Iterable[object]) -> str:
    """PostgreSQL's text of an array of numbers and plain words."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _ids(ids: Iterable[int]) -> str:
    return "{" + ",".join([f"{identifier:032x}" for identifier in ids]) + "}"


def _quoted(text: str) -> str:
    """One element that may hold anything: a word, a comma, a quote, the text NULL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_INSERT_ORDERS = queries.INSERT_ORDERS.encode()
_UPDATE_ORDERS = queries.UPDATE_ORDERS.encode()
_INSERT_TRADES = queries.INSERT_TRADES.encode()
_ADD_CASH = queries.ADD_CASH.encode()
