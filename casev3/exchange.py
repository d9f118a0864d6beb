"""Everything in memory; the database only keeps.

An order is matched in the book, recorded in the ledger and queued for the next flush, and the
reply leaves at once, or with a log when its record is on disk. Every read is answered from memory.
"""

from collections.abc import Sequence

from msgspec import structs

from common.brokers import Brokers, hash_key, new_api_key
from common.channel import Parameters, Row, Statement
from common.database import Database, uuid_of
from common.engine import Engine
from common.errors import Forbidden, NotFound
from common.exchange import Health
from common.ids import format_id
from common.ledger import Ledger
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
from common.queries import accounts, own_orders, state
from common.retries import Retries, replayed
from common.sequencer import Sequencer
from common.settling import Settling
from common.views import detail_of, page_of, receipt_of
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
        retries: Retries,
        ledger: Ledger,
        writer: Writer,
    ) -> None:
        self._database = database
        self._webhooks = webhooks
        self._brokers = brokers
        self._sequencer = sequencer
        self._engine = engine
        self._retries = retries
        self._ledger = ledger
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
        order = self._ledger.orders.get(order_id)
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
        broker = self._brokers.of(key_hash)
        order = self._ledger.orders.get(order_id)
        if order is None:
            owner_id, detail = await self._stored_order(order_id)
        else:
            owner_id, detail = order.broker_id, self._detail_of(order, self._sequencer.now_us())
        if owner_id != broker.id:
            raise Forbidden("the order belongs to another broker")
        return detail

    async def orders(self, key_hash: bytes, query: OrderQuery) -> OrderPage:
        broker = self._brokers.of(key_hash)
        now_us = self._sequencer.now_us()
        orders, until_id = self._ledger.page(broker.id, query, now_us)
        details = {format_id(order.id): self._detail_of(order, now_us) for order in orders}
        newest_evicted = min(query.before_id - 1, self._ledger.evicted_until_id)
        full_without = len(orders) > query.limit and orders[-1].id > newest_evicted
        if query.status != "open" and newest_evicted >= max(until_id, 1) and not full_without:
            older = structs.replace(query, status="closed", before_id=newest_evicted + 1)
            # What has ended by then counts as closed in memory too, and is as that says.
            stored, stored_until_id = await stored_page(self._ask, key_hash, older, now_us)
            details = {detail.id: detail for detail in stored} | details
            until_id = max(until_id, stored_until_id)
        return page_of(details.values(), query.limit, until_id)

    async def price(self, key_hash: bytes, symbol: str, trades: int) -> Price:
        self._brokers.of(key_hash)
        price = self._ledger.price(symbol, trades)
        if price is None:
            raise NotFound(f"{symbol} has not traded yet")
        return price

    async def book(self, key_hash: bytes, symbol: str, depth: int) -> BookDepth:
        self._brokers.of(key_hash)
        self._expire(symbol)
        book = self._engine.books.get(symbol)
        if book is None:
            return BookDepth(symbol, depth, [], [])
        return BookDepth(symbol, depth, book.asks.depth(depth), book.bids.depth(depth))

    async def balance(self, key_hash: bytes) -> Balance:
        broker = self._brokers.of(key_hash)
        return Balance(format_id(broker.id), broker.name, self._ledger.balances.get(broker.id, 0))

    async def sweep(self) -> None:
        now_us = self._sequencer.now_us()
        if self._writer.keeps_up():
            self._record_ended(self._engine.sweep(now_us), now_us)
        self._ledger.evict(now_us)

    def settling(self) -> Settling | None:
        return self._sequencer.settling()

    async def health(self) -> Health:
        return Health(
            self._sequencer.durability,
            self._writer.refusal() or self._sequencer.refusal(),
            {
                "brokers": len(self._brokers.by_id),
                "books": len(self._engine.books),
                "open_orders": self._engine.open_count,
                "client_order_ids": len(self._retries),
                "orders_in_memory": len(self._ledger.orders),
                "trades": self._ledger.trade_count,
                **self._writer.figures(),
                **self._sequencer.figures(),
                **self._webhooks.figures(),
            },
        )

    async def trade_count(self) -> int:
        return self._ledger.trade_count

    async def reset(self) -> None:
        async with self._writer.emptied(
            lambda: state.empty_everything(self._sequencer.announce_log())
        ):
            self._brokers.clear()
            self._engine.clear()
            self._retries.clear()
            self._ledger.clear()
            await self._sequencer.restart()

    def replay(self, record: Record) -> None:
        """Do again what was accepted before a crash. Raises KeyError for what is not there."""
        order_id = int.from_bytes(record.order_id)
        if isinstance(record, Submission):
            order = record.order()
            self._brokers.by_id[order.broker_id]  # a KeyError if there is none
        else:
            order = self._ledger.orders[order_id]
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
        self._ledger.record(order, trades, makers)
        messages = notices(self._brokers.webhook_urls, order, trades, makers)
        self._writer.record(order.sequence, order, trades, makers, messages)

    def _close(self, order: Order, sequence: int, now_us: int) -> None:
        self._engine.cancel(order, now_us)
        self._ledger.closed(order)
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
                self._ledger.closed(order)
            self._writer.record_closed(self._sequencer.sequence, ended, now_us)

    def _detail_of(self, order: Order, now_us: int) -> OrderDetail:
        return detail_of(order, self._brokers.by_id, now_us)

    async def _stored_owner(self, order_id: int) -> int | None:
        """The broker of an order that has left memory, None when there is no such order."""
        row = await self._database.row(own_orders.ORDER_OWNER, {"order_id": uuid_of(order_id)})
        return row[0].int if row else None

    async def _stored_order(self, order_id: int) -> tuple[int, OrderDetail]:
        """An order that has left memory, and whose it is. Raises NotFound."""
        rows = await self._database.rows(
            own_orders.ORDER_DETAIL, own_orders.detail_parameters(order_id)
        )
        if not rows:
            raise NotFound("no such order")
        return next(own_orders.details_of(rows))

    async def _ask(
        self, key_hash: bytes, query: Statement, parameters: Parameters
    ) -> tuple[Broker, list[Row]]:
        """Who asks, and the rows of the answer."""
        broker = self._brokers.of(key_hash)
        return broker, await self._database.rows(query, parameters)
