"""The database does everything.

An order is one transaction: lock its symbol, read the makers, match, write, commit; then the reply
leaves. Every read is a statement, and sees what has been committed.
"""

from common.brokers import hash_key, new_api_key, unknown_key
from common.changes import Changes
from common.channel import Parameters, Row, Statement
from common.database import Database, Transaction, uuid_of
from common.errors import Forbidden, NotFound, Unavailable
from common.exchange import Health
from common.ids import Clock, format_id
from common.listing import stored_page
from common.matching import cross, execute
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
    to_us,
)
from common.queries import accounts, market_data, matching, own_orders, state
from common.queries.stored_orders import earlier_order_of, order_of
from common.retries import replayed
from common.views import page_of, receipt_of
from common.webhooks import Webhooks, notices

# Most orders meet fewer; one that meets more asks again.
MAKERS_AT_ONCE = 8


class Exchange:
    """The verbs of ``common/exchange.py``."""

    def __init__(
        self,
        *,
        database: Database,
        webhooks: Webhooks,
        retry_window_s: int,
    ) -> None:
        self._database = database
        self._webhooks = webhooks
        self._retry_window_s = retry_window_s
        self._clock = Clock()

    async def register(self, name: str, webhook_url: str | None) -> Registration:
        if webhook_url is not None:
            await self._webhooks.check_target(webhook_url)
        api_key = new_api_key()
        broker = Broker(
            self._clock.new_id(), name, webhook_url, hash_key(api_key), self._clock.now_us()
        )
        await self._database.commit((accounts.INSERT_BROKER, accounts.broker_row(broker)))
        return Registration(format_id(broker.id), api_key)

    async def authenticate(self, key_hash: bytes) -> Broker:
        row = await self._database.row(accounts.AUTHENTICATE, {"key_hash": key_hash})
        if row is None:
            raise unknown_key()
        return accounts.broker_of(row)

    async def submit(self, key_hash: bytes, new_order: NewOrder) -> Receipt:
        return await self._database.retried(self._submit, key_hash, new_order)

    async def cancel(self, key_hash: bytes, order_id: int) -> None:
        parameters = {"order_id": uuid_of(order_id), "key_hash": key_hash}
        _, owners, broker_rows = await self._database.retried(
            self._database.commit,
            (matching.CANCEL, parameters),
            (own_orders.ORDER_OWNER, parameters),
            (accounts.AUTHENTICATE, parameters),
        )
        if not broker_rows:
            raise unknown_key()
        if owners and owners[0][0] != broker_rows[0][0]:
            raise Forbidden("the order belongs to another broker")

    async def order(self, key_hash: bytes, order_id: int) -> OrderDetail:
        broker, rows = await self._ask(
            key_hash, own_orders.ORDER_DETAIL, own_orders.detail_parameters(order_id)
        )
        if not rows:
            raise NotFound("no such order")
        owner_id, detail = next(own_orders.details_of(rows))
        if owner_id != broker.id:
            raise Forbidden("the order belongs to another broker")
        return detail

    async def orders(self, key_hash: bytes, query: OrderQuery) -> OrderPage:
        found, until_id = await stored_page(self._ask, key_hash, query)
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
        await self._database.retried(self._database.commit, (matching.CLOSE_ENDED, {}))

    def settling(self) -> None:
        """Every verb ends with its commit."""

    async def health(self) -> Health:
        try:
            rows = await self._database.rows(state.LAST_SEQUENCE)
        except Unavailable as error:
            return Health("commit", error.detail, self._webhooks.figures())
        return Health(
            "commit",
            None,
            {
                "sequence": rows[0][0],
                "flushed_sequence": rows[0][0],
                "flush_pending": 0,
                "flush_age_ms": 0.0,
                **self._database.figures(),
                **self._webhooks.figures(),
            },
        )

    async def trade_count(self) -> int:
        [[count]] = await self._database.unhurried(market_data.COUNT_TRADES)
        return int(count)

    async def reset(self) -> None:
        await self._database.retried(self._database.commit, *state.empty_everything(None))

    async def _submit(self, key_hash: bytes, new_order: NewOrder) -> Receipt:
        """One transaction of two round trips, one more with a ``client_order_id``, and one more
        each time that an order has used up all the makers that were read for it."""
        async with self._database.transaction() as transaction:
            if new_order.client_order_id is not None:
                earlier = await self._earlier(transaction, key_hash, new_order.client_order_id)
                if earlier is not None:
                    return replayed(new_order, earlier)
                new_order.check_end(self._clock.now_us())
            limit = MAKERS_AT_ONCE
            asked = matching.makers_parameters(new_order, limit)
            accepted, rows = await transaction.ask(
                (matching.ACCEPT, {"key_hash": key_hash, "symbol": new_order.symbol}),
                (matching.MAKERS[new_order.side], asked),
            )
            if not accepted:
                raise unknown_key()
            _, broker_id, webhook_url, sequence, accepted_at = accepted[0]
            order = new_order.accepted(
                order_id=self._clock.new_id(),
                sequence=sequence,
                broker_id=broker_id.int,
                now_us=to_us(accepted_at),
            )
            fills = cross(order, map(order_of, rows))
            while len(fills) == limit:  # all that was read is used up: there may be more
                limit *= 8
                asked = matching.makers_parameters(new_order, limit)
                [rows] = await transaction.ask((matching.MAKERS[new_order.side], asked))
                fills = cross(order, map(order_of, rows))
            trades = execute(order, fills)
            makers = [maker for maker, _ in fills]
            changes = Changes()
            changes.add(order, trades, makers)
            await transaction.write(*changes.statements())
        urls = matching.webhook_urls(order, webhook_url, rows)
        self._webhooks.enqueue(notices(urls, order, trades, makers))
        return receipt_of(order)

    async def _earlier(
        self, transaction: Transaction, key_hash: bytes, client_order_id: str
    ) -> Order | None:
        """The order of this id. Nobody else places one until the transaction ends."""
        parameters = {
            "key_hash": key_hash,
            "client_order_id": client_order_id,
            "window_s": self._retry_window_s,
        }
        _, rows = await transaction.ask(
            (matching.LOCK_CLIENT_ORDER, parameters), (matching.EARLIER_ORDER, parameters)
        )
        return earlier_order_of(rows[0]) if rows else None

    async def _ask(
        self, key_hash: bytes, query: Statement, parameters: Parameters
    ) -> tuple[Broker, list[Row]]:
        """Who asks, and the rows of the answer."""
        found, rows = await self._database.together(
            (accounts.AUTHENTICATE, {"key_hash": key_hash}), (query, parameters)
        )
        if not found:
            raise unknown_key()
        return accounts.broker_of(found[0]), rows
