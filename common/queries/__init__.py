"""The statements of the exchange, built and compiled once. Each says in which index it lives."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    LargeBinary,
    Text,
    Uuid,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
    update,
)

from common.channel import Row, Statement, compiled
from common.model import (
    AVERAGE_TRADES_MAX,
    PRICE_MAX_CENTS,
    CloseReason,
    NewOrder,
    Order,
    Side,
    Trade,
    to_us,
)
from common.queries.accounts import broker_of_key
from common.queries.stored_orders import (
    close_reason_at,
    of_client,
    order_columns,
    still_open,
    trades_of_order,
    word,
)
from common.tables import balances, brokers, client_orders, orders, trades

# ---- brokers ----

ALL_BROKERS = compiled(select(brokers))


# ---- what the other reads ask ----


def _lock(kind: str, name: str) -> ColumnElement[Any]:
    """Wait for the lock of a kind on the parameter of that name; it is held until the commit."""
    return func.pg_advisory_xact_lock(
        literal_column(kind), func.hashtext(bindparam(name, type_=Text))
    )


# ---- orders that are sent again ----

# Of two orders with one id that come at once, the second waits here and then finds the first.
LOCK_CLIENT_ORDER = compiled(select(_lock("2", "client_order_id")))
EARLIER_ORDER = compiled(
    select(*order_columns, close_reason_at(func.statement_timestamp()))
    .join_from(client_orders, orders, of_client)
    .where(
        client_orders.c.broker_id == broker_of_key,
        client_orders.c.client_order_id == bindparam("client_order_id", type_=Text),
        client_orders.c.created_at
        > func.clock_timestamp()
        - bindparam("window_s", type_=BigInteger) * literal_column("INTERVAL '1 second'"),
    )
)
CLIENT_ORDERS_SINCE = compiled(
    select(*order_columns, orders.c.close_reason, client_orders.c.client_order_id)
    .join_from(client_orders, orders, of_client)
    .where(client_orders.c.created_at > bindparam("since", type_=DateTime(timezone=True)))
    .order_by(client_orders.c.created_at)
)


# ---- matching in the database ----

# Whoever changes the book of a symbol holds its lock. Locking the rows that were found is not
# enough: of two orders that cross each other and come at once, neither would see the other's row,
# and both would rest.
# What an order is stamped with once it holds the lock: whose it is, its place, and the time. The
# columns of a row are evaluated in their order.
ACCEPT = compiled(
    select(
        _lock("1", "symbol"),
        brokers.c.id,
        brokers.c.webhook_url,
        func.nextval(literal_column("'order_sequence'")),
        func.clock_timestamp(),
    ).where(brokers.c.key_hash == bindparam("key_hash", type_=LargeBinary))
)


def _makers(side: Side) -> Statement:
    """The best resting orders of ``side`` up to a price, locked: index orders_open."""
    limit = cast(bindparam("price", type_=BigInteger), BigInteger)
    within = orders.c.price >= limit if side is Side.BID else orders.c.price <= limit
    best_first = orders.c.price.desc() if side is Side.BID else orders.c.price.asc()
    return compiled(
        select(*order_columns, brokers.c.webhook_url)
        .join_from(orders, brokers, brokers.c.id == orders.c.broker_id)
        .where(
            orders.c.symbol == bindparam("symbol", type_=Text),
            orders.c.side == word(side),
            orders.c.close_reason.is_(None),
            orders.c.valid_until > func.clock_timestamp(),
            within,
        )
        .order_by(best_first, orders.c.sequence)
        .limit(bindparam("limit", type_=BigInteger))
        .with_for_update(of=orders)
    )


# By the side of the taker.
MAKERS = {Side.BID: _makers(Side.ASK), Side.ASK: _makers(Side.BID)}


def makers_parameters(new_order: NewOrder, limit: int) -> dict[str, Any]:
    """For ``MAKERS``. A market order takes any price."""
    worst = PRICE_MAX_CENTS if new_order.side is Side.BID else 0
    price = worst if new_order.price is None else new_order.price
    return {"symbol": new_order.symbol, "price": price, "limit": limit}


def webhook_urls(order: Order, url: str | None, makers: Iterable[Row]) -> dict[int, str]:
    """Where the taker, with its ``url``, and the makers of rows of ``MAKERS`` want to be told."""
    urls = {row[2].int: row[-1] for row in makers} | {order.broker_id: url}
    return {broker_id: known for broker_id, known in urls.items() if known is not None}


# Closes an own open order; a closed one, or one that has ended, stays as it is.
CANCEL = compiled(
    update(orders)
    .where(
        orders.c.id == bindparam("order_id", type_=Uuid),
        orders.c.broker_id == broker_of_key,
        still_open,
        orders.c.valid_until > func.clock_timestamp(),
    )
    .values(close_reason=word(CloseReason.CANCELLED), closed_at=func.clock_timestamp())
    .returning(orders.c.id)
)
# Closes orders that have ended, as many at once as do not hold others up. Rows that an order is
# just matching are skipped, so this never waits and nobody waits for it in a circle.
_ended = (
    select(orders.c.id)
    .where(orders.c.closed_at.is_(None), orders.c.valid_until <= func.statement_timestamp())
    .order_by(orders.c.valid_until)
    .limit(literal_column("1000"))
    .with_for_update(skip_locked=True)
)
CLOSE_ENDED = compiled(
    update(orders)
    .where(orders.c.id.in_(_ended.scalar_subquery()))
    .values(close_reason=word(CloseReason.EXPIRED), closed_at=orders.c.valid_until)
)

# ---- what a start reads ----

# Sequence alone gives every level its order.
OPEN_ORDERS = compiled(
    select(*order_columns).where(orders.c.close_reason.is_(None)).order_by(orders.c.sequence)
)
TRADES_OF_OPEN_ORDERS = compiled(
    select(orders.c.id, *trades_of_order.c)
    .join_from(orders, trades_of_order, true())
    .where(orders.c.close_reason.is_(None))
    .order_by(trades_of_order.c.sequence, trades_of_order.c.id)
)
BROKER_BALANCES = compiled(
    select(balances.c.broker_id, func.sum(balances.c.cash)).group_by(balances.c.broker_id)
)
# The symbols come from the few rows of balances, the prices of each from the end of its part of
# the index trades_of_symbol, so that a start does not read the whole history.
_symbol = select(balances.c.symbol).distinct().subquery("symbol")
_recent = (
    select(trades.c.price, trades.c.sequence, trades.c.id)
    .where(trades.c.symbol == _symbol.c.symbol)
    .order_by(trades.c.sequence.desc(), trades.c.id.desc())
    .limit(literal_column(str(AVERAGE_TRADES_MAX)))
    .lateral("recent")
)
RECENT_PRICES = compiled(
    select(_symbol.c.symbol, _recent.c.price)
    .join_from(_symbol, _recent, true())
    .order_by(_symbol.c.symbol, _recent.c.sequence, _recent.c.id)
)
NEWEST_CLOSED_ID = compiled(
    select(orders.c.id)
    .where(orders.c.close_reason.is_not(None))
    .order_by(orders.c.id.desc())
    .limit(literal_column("1"))
)
NEWEST_ORDER = compiled(
    select(orders.c.id, orders.c.created_at).order_by(orders.c.id.desc()).limit(literal_column("1"))
)


def trade_of(row: Row) -> Trade:
    """A trade from the columns of the table, in its order."""
    trade_id, sequence, symbol, price, quantity, taker_side, maker_order, taker_order = row[:8]
    maker_broker, taker_broker, executed_at = row[8:]
    return Trade(
        id=trade_id.int,
        sequence=sequence,
        symbol=symbol,
        price=price,
        quantity=quantity,
        taker_side=Side(taker_side),
        maker_order_id=maker_order.int,
        taker_order_id=taker_order.int,
        maker_broker_id=maker_broker.int,
        taker_broker_id=taker_broker.int,
        executed_at_us=to_us(executed_at),
    )
