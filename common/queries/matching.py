"""Matching in the database: what only casev1 asks."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    Uuid,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    update,
)

from common.channel import Row, Statement, compiled
from common.model import PRICE_MAX_CENTS, CloseReason, NewOrder, Order, Side
from common.queries.accounts import broker_of_key, has_key
from common.queries.stored_orders import close_reason_at, of_client, order_columns, still_open, word
from common.tables import brokers, client_orders, orders


def _lock(kind: str, name: str) -> ColumnElement[Any]:
    """Wait for the lock of a kind on the parameter of that name; it is held until the commit."""
    return func.pg_advisory_xact_lock(
        literal_column(kind), func.hashtext(bindparam(name, type_=Text))
    )


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

# Whoever matches in the book of a symbol holds its lock; a cancel and the sweep lock only the rows
# that they close. To an order the rows that it finds are not enough: of two that cross each other
# and come at once, neither would see the other's row, and both would rest.
#
# What an order is stamped with once it holds the lock: whose it is, its place, and the time. The
# columns of a row are evaluated in their order.
ACCEPT = compiled(
    select(
        _lock("1", "symbol"),
        brokers.c.id,
        brokers.c.webhook_url,
        func.nextval(literal_column("'order_sequence'")),
        func.clock_timestamp(),
    ).where(has_key)
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
