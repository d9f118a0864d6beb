"""What a start reads from the database, so that memory is again as it was."""

import logging
from collections.abc import Mapping
from operator import attrgetter

from common.brokers import Brokers
from common.database import Database
from common.engine import Engine
from common.ids import Clock
from common.ledger import Ledger
from common.model import Order, to_datetime, to_us
from common.queries import accounts, market_data, startup
from common.queries.stored_orders import earlier_order_of, order_of
from common.retries import Retries

# Machines that keep their clocks well differ by less.
AHEAD_MAX_S = 1.0

log = logging.getLogger(__name__)


async def load_brokers(database: Database) -> Brokers:
    """All brokers."""
    brokers = Brokers()
    for row in await database.unhurried(startup.ALL_BROKERS):
        brokers.add(accounts.broker_of(row))
    return brokers


async def load_clock(database: Database) -> Clock:
    """A clock that does not go back behind what is stored. Warns of one that is ahead by much."""
    clock = Clock()
    row = await database.row(startup.NEWEST_ORDER)
    if row:
        newest_id, created_at = row
        clock.advance(to_us(created_at), newest_id.int)
    if clock.ahead_s() > AHEAD_MAX_S:
        log.warning(
            "the newest order in the database is %.0f s ahead of the clock of this machine: for so "
            "long time stands still here, and orders that end before then expire at once",
            clock.ahead_s(),
        )
    return clock


async def load_engine(database: Database) -> Engine:
    """All open orders with their trades, each behind those accepted before it."""
    orders: dict[int, Order] = {}
    async for rows in database.parts(startup.OPEN_ORDERS):
        for row in rows:
            order = order_of(row)
            orders[order.id] = order
    async for rows in database.parts(startup.TRADES_OF_OPEN_ORDERS):
        for order_id, *trade in rows:
            orders[order_id.int].add_trade(startup.trade_of(tuple(trade)))
    engine = Engine()
    for order in orders.values():
        engine.rest(order)
    return engine


async def load_retries(
    database: Database, retries: Retries, kept: Mapping[int, Order], since_us: int
) -> None:
    """The orders since then that can be sent again; those that are ``kept`` by id stay the same."""
    since = {"since": to_datetime(since_us)}
    for row in await database.unhurried(startup.CLIENT_ORDERS_SINCE, since):
        stored = earlier_order_of(row)
        order = kept.get(stored.id, stored)
        order.client_order_id = row[-1]
        retries.add(order)


async def load_ledger(database: Database, ledger: Ledger, engine: Engine) -> None:
    """The open orders, all balances, the last trade prices of each symbol."""
    for order in sorted(engine.resting(), key=attrgetter("id")):
        ledger.add(order)
    for broker_id, cash in await database.unhurried(startup.BROKER_BALANCES):
        ledger.balances[broker_id.int] = int(cash)
    for symbol, price in await database.unhurried(startup.RECENT_PRICES):
        ledger.prices_of(symbol).append(price)
    newest_closed = await database.row(startup.NEWEST_CLOSED_ID)
    ledger.evicted_until_id = newest_closed[0].int if newest_closed else 0
    [[count]] = await database.unhurried(market_data.COUNT_TRADES)
    ledger.trade_count = int(count)
