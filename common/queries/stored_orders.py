"""What several statements say of stored orders, and orders from their rows."""

from typing import Any

from sqlalchemy import ColumnElement, Text, and_, case, func, literal_column, select, union_all

from common.channel import Row
from common.model import TIME_IN_FORCE, CloseReason, Order, OrderType, Side, to_us
from common.tables import client_orders, orders, trades


def word(constant: str) -> ColumnElement[str]:
    """One of our own words as a constant of the statement, not a parameter."""
    return literal_column(f"'{constant}'", Text)


# What ``order_of`` reads.
order_columns = (
    orders.c.id,
    orders.c.sequence,
    orders.c.broker_id,
    orders.c.document_number,
    orders.c.side,
    orders.c.order_type,
    orders.c.symbol,
    orders.c.price,
    orders.c.quantity,
    orders.c.remaining_quantity,
    orders.c.valid_until,
    orders.c.created_at,
)

# Whether a row that is looked up by its id is open. No index has this condition in these words, so
# that a planner without statistics does not look through all open orders for it.
still_open = func.coalesce(orders.c.close_reason, word("")) == word("")


def close_reason_at(instant: ColumnElement[Any]) -> ColumnElement[Any]:
    """An order that has ended reads as expired from then on, though nothing has closed it yet."""
    return case(
        (
            and_(orders.c.close_reason.is_(None), orders.c.valid_until <= instant),
            word(CloseReason.EXPIRED),
        ),
        else_=orders.c.close_reason,
    )


# The trades of an order of the outer query, from the indexes trades_of_maker and trades_of_taker.
# Each is looked into for itself: where one condition names both, PostgreSQL may read all trades, if
# it knew of few when it made the plan.
trades_of_order = union_all(
    select(trades).where(trades.c.maker_order_id == orders.c.id),
    select(trades).where(trades.c.taker_order_id == orders.c.id),
).lateral("own")

# The order that a broker's own id for it names.
of_client = orders.c.id == client_orders.c.order_id


def order_of(row: Row) -> Order:
    """An open order, without its trades, from a row that begins with ``order_columns``."""
    (order_id, sequence, broker_id, document_number, side, order_type) = row[:6]
    (symbol, price, quantity, remaining, valid_until, created_at) = row[6:12]
    return Order(
        id=order_id.int,
        sequence=sequence,
        broker_id=broker_id.int,
        document_number=document_number,
        side=Side(side),
        order_type=OrderType(order_type),
        time_in_force=TIME_IN_FORCE[OrderType(order_type)],
        symbol=symbol,
        price=price,
        quantity=quantity,
        remaining_quantity=remaining,
        valid_until_us=None if valid_until is None else to_us(valid_until),
        created_at_us=to_us(created_at),
    )


def earlier_order_of(row: Row) -> Order:
    """An order, open or closed, without its trades, from ``order_columns`` and a close reason."""
    order = order_of(row)
    close_reason = row[12]
    order.close_reason = None if close_reason is None else CloseReason(close_reason)
    return order
