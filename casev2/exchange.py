"""Match in memory, read from the database.

An order is matched in the book and queued for the next flush, and the reply leaves at once, or with
a log when its record is on disk. Every read is a statement, and sees what has been flushed.
"""

from collections.abc import Sequence

from common.brokers import Brokers, hash_key, new_api_key
from common.channel import Parameters, Row, Statement
from common.database import Database, uuid_of
from common.engine import Engine
from common.errors import Forbidden, NotFound
from common.exchange import Health
from common.ids import format_id
from common.listing import stored_page
from common.model import (
    Balance,
    BookDepth,
    Broker,
    NewOrder,
    Order,
    OrderDetail,
    OrderPage,
    OrderQuery,
    Price,
    Receipt,
    Registration,
)
from common.orders import OrdersById
from common.queries import accounts, market_data, own_orders, state
from common.retries import Retries, replayed
from common.sequencer import Sequencer
from common.settling import Settling
from common.views import page_of, receipt_of
from common.wal.format import Record, Submission
from common.webhooks import Webhooks, notices
from common.writer import Writer


class Exchange:
    """The verbs of ``common/exchange.py``."""

    def __init__(
        self,
        *,
        database: Database,
        webhooks: Webhooks,
        brokers: Brokers,
        sequencer: Sequencer,
        engine: Engine,
        open_orders: OrdersById,
        retries: Retries,
        writer: Writer,
    ) -> None:
        self._database = database
        self._webhooks = webhooks
        self._brokers = brokers
        self._sequencer = sequencer
        self._engine = engine
        self._open_orders = open_orders
        self._retries = retries
        self._writer = writer

    async def register(self, name: str, webhook_url: str | None) -> Registration:
        if webhook_url is not None:
            await self._webhooks.check_target(webhook_url)
        api_key = new_api_key()
        broker = Broker(
            self._sequencer.new_id(), name, webhook_url, hash_key(api_key), self._sequencer.now_us()
        )
        await self._writer.commit((accounts.INSERT_BROKER, accounts.broker_row(broker)))
        self._brokers.add(broker)
        return Registration(format_id(broker.id), api_key)

    async def authenticate(self, key_hash: bytes) -> Broker:
        return self._brokers.of(key_hash)

    async def submit(self, key_hash: bytes, new_order: NewOrder) -> Receipt:
        broker = self._brokers.of(key_hash)
        now_us = self._expire(new_order.symbol)
        earlier = self._retries.earlier(broker.id, new_order, now_us)
        if earlier is not None:
            return replayed(new_order, earlier)
        self._writer.admit()
        order = self._sequencer.accept(new_order, broker.id, now_us)
        self._match(order)
        return receipt_of(order)

    async def cancel(self, key_hash: bytes, order_id: int) -> None:
        broker = self._brokers.of(key_hash)
        order = self._open_orders.get(order_id)
        owner_id = order.broker_id if order else await self._stored_owner(order_id)
        if owner_id is not None and owner_id != broker.id:
            raise Forbidden("the order belongs to another broker")
        if order is None:
            return
        now_us = self._expire(order.symbol)
        if order.is_open:
            sequence = self._sequencer.cancel(order, now_us)
            self._close(order, sequence, now_us)

    async def order(self, key_hash: bytes, order_id: int) -> OrderDetail:
        self._brokers.of(key_hash)
        await self._writer.until_stored(order_id)
        broker, rows = await self._ask(
            key_hash,
            own_orders.ORDER_DETAIL,
            own_orders.detail_parameters(order_id, self._known_until_us()),
        )
        if not rows:
            raise NotFound("no such order")
        owner_id, detail = next(own_orders.details_of(rows))
        if owner_id != broker.id:
            raise Forbidden("the order belongs to another broker")
        return detail

    async def orders(self, key_hash: bytes, query: OrderQuery) -> OrderPage:
        found, until_id = await stored_page(self._ask, key_hash, query, self._known_until_us())
        return page_of(found, query.limit, until_id)

    async def price(self, key_hash: bytes, symbol: str, trades: int) -> Price:
        _, rows = await self._ask(key_hash, market_data.PRICE, {"symbol": symbol, "trades": trades})
        last_price, average_price, count = rows[0]
        if not count:
            raise NotFound(f"{symbol} has not traded yet")
        return Price(symbol, last_price, average_price, count)

    async def book(self, key_hash: bytes, symbol: str, depth: int) -> BookDepth:
        _, rows = await self._ask(key_hash, market_data.BOOK, {"symbol": symbol, "depth": depth})
        return market_data.book_of(symbol, depth, rows)

    async def balance(self, key_hash: bytes) -> Balance:
        broker, rows = await self._ask(key_hash, accounts.BALANCE, {"key_hash": key_hash})
        return Balance(format_id(broker.id), broker.name, int(rows[0][0]))

    async def sweep(self) -> None:
        now_us = self._sequencer.now_us()
        if self._writer.keeps_up():
            self._record_ended(self._engine.sweep(now_us), now_us)

    def settling(self) -> Settling | None:
        return self._sequencer.settling()

    async def health(self) -> Health:
        return Health(
            self._sequencer.durability,
            self._writer.refusal() or self._sequencer.refusal(),
            {
                "brokers": len(self._brokers.by_id),
                "books": len(self._engine.books),
                "open_orders": len(self._open_orders),
                "client_order_ids": len(self._retries),
                **self._writer.figures(),
                **self._sequencer.figures(),
                **self._writer.staleness(),
                **self._webhooks.figures(),
            },
        )

    async def trade_count(self) -> int:
        [[count]] = await self._database.unhurried(market_data.COUNT_TRADES)
        return int(count)

    async def reset(self) -> None:
        async with self._writer.emptied(
            lambda: state.empty_everything(self._sequencer.announce_log())
        ):
            self._brokers.clear()
            self._engine.clear()
            self._open_orders.clear()
            self._retries.clear()
            await self._sequencer.restart()

    def replay(self, record: Record) -> None:
        """Do again what was accepted before a crash. Raises KeyError for what is not there."""
        order_id = int.from_bytes(record.order_id)
        if isinstance(record, Submission):
            order = record.order()
            self._brokers.by_id[order.broker_id]  # a KeyError if there is none
        else:
            order = self._open_orders[order_id]
        self._expire_by(order.symbol, record.now_us)
        self._sequencer.repeat(record.sequence, record.now_us, order_id)
        if isinstance(record, Submission):
            self._match(order)
        elif order.is_open:
            self._close(order, record.sequence, record.now_us)
        else:
            raise KeyError(order.id)

    def _match(self, order: Order) -> None:
        self._retries.add(order)
        trades, makers = self._engine.submit(order)
        if order.is_open:
            self._open_orders[order.id] = order
        for maker in makers:
            if not maker.is_open:
                del self._open_orders[maker.id]
        messages = notices(self._brokers.webhook_urls, order, trades, makers)
        self._writer.record(order.sequence, order, trades, makers, messages)

    def _close(self, order: Order, sequence: int, now_us: int) -> None:
        self._engine.cancel(order, now_us)
        del self._open_orders[order.id]
        self._writer.record_closed(sequence, [order], now_us)

    def _expire(self, symbol: str) -> int:
        """Close what has ended by now in a book; the present instant."""
        now_us = self._sequencer.now_us()
        self._expire_by(symbol, now_us)
        return now_us

    def _expire_by(self, symbol: str, now_us: int) -> None:
        self._record_ended(self._engine.expire(symbol, now_us), now_us)

    def _record_ended(self, ended: Sequence[Order], now_us: int) -> None:
        if ended:
            for order in ended:
                del self._open_orders[order.id]
            self._writer.record_closed(self._sequencer.sequence, ended, now_us)

    async def _stored_owner(self, order_id: int) -> int | None:
        """The broker of an order that has left memory, None when there is no such order."""
        await self._writer.until_stored(order_id)
        row = await self._database.row(own_orders.ORDER_OWNER, {"order_id": uuid_of(order_id)})
        return row[0].int if row else None

    def _known_until_us(self) -> int:
        """Until when all that was done is in the tables."""
        return self._writer.known_until_us(self._sequencer.now_us())

    async def _ask(
        self, key_hash: bytes, query: Statement, parameters: Parameters
    ) -> tuple[Broker, list[Row]]:
        """Who asks, and the rows of the answer."""
        broker = self._brokers.of(key_hash)
        return broker, await self._database.rows(query, parameters)
