"""Orders as their owners see them: one by its id, and pages of all."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.sql.selectable import Select, Subquery

from common.channel import Row, Statement, compiled
from common.database import uuid_of
from common.ids import format_id
from common.model import LOOKED_AT_MAX, OrderDetail, OrderQuery, TradeDetail, to_datetime
from common.queries.accounts import broker_of_key
from common.queries.stored_orders import close_reason_at, trades_of_order, word
from common.tables import brokers, orders

_counterparty = case(
    (trades_of_order.c.maker_order_id == orders.c.id, trades_of_order.c.taker_broker_id),
    else_=trades_of_order.c.maker_broker_id,
)

# Where the tables are behind what was done, an order that has ended may have been filled before:
# what is not ``known`` yet is not said. Without that they are the truth.
_close_reason = close_reason_at(
    func.coalesce(
        bindparam("known_until", type_=DateTime(timezone=True)), func.statement_timestamp()
    )
)


def _details(chosen: Subquery | None = None) -> Any:
    """Orders with one row for each of their trades, or one with nulls where there is none.

    A statement of its own snapshot sees an order and its trades at one moment.
    """
    source = orders if chosen is None else orders.join(chosen, chosen.c.id == orders.c.id)
    return (
        select(
            orders.c.id,
            orders.c.broker_id,
            orders.c.side,
            orders.c.order_type,
            orders.c.symbol,
            orders.c.price,
            orders.c.quantity,
            orders.c.remaining_quantity,
            _close_reason,
            orders.c.valid_until,
            orders.c.created_at,
            trades_of_order.c.id,
            trades_of_order.c.price,
            trades_of_order.c.quantity,
            trades_of_order.c.executed_at,
            brokers.c.name,
        )
        .select_from(source.outerjoin(trades_of_order, true()))
        .outerjoin(brokers, brokers.c.id == _counterparty)
        .order_by(orders.c.id.desc(), trades_of_order.c.sequence, trades_of_order.c.id)
    )


ORDER_DETAIL = compiled(_details().where(orders.c.id == bindparam("order_id", type_=Uuid)))


def detail_parameters(order_id: int, known_until_us: int | None = None) -> dict[str, Any]:
    """For this; the instant up to which the tables hold everything, None where they always do."""
    return {"order_id": uuid_of(order_id), "known_until": _as_instant(known_until_us)}


def _as_instant(instant_us: int | None) -> datetime | None:
    return None if instant_us is None else to_datetime(instant_us)


# The newest orders of a broker below an id: index orders_of_broker, or orders_open_of_broker for
# what is open, read backwards.
def _below(*conditions: ColumnElement[bool]) -> Select[Any]:
    """The ids of the broker's orders below one, newest first."""
    smaller = orders.c.id < bindparam("before_id", type_=Uuid)
    return (
        select(orders.c.id)
        .where(orders.c.broker_id == broker_of_key, smaller, *conditions)
        .order_by(orders.c.id.desc())
    )


def _page_end(own: Select[Any]) -> Statement:
    """The last order that is looked at for a page and the next one, as far as there are so many."""
    last = own.offset(literal_column(str(LOOKED_AT_MAX - 1))).limit(literal_column("2"))
    return compiled(last)


def _page(own: Select[Any], *conditions: ColumnElement[bool]) -> Statement:
    """A page of those from an id on that meet the conditions too."""
    chosen = own.where(
        orders.c.id >= bindparam("until_id", type_=Uuid),
        func.coalesce(bindparam("symbol", type_=Text), orders.c.symbol) == orders.c.symbol,
        *conditions,
    ).limit(bindparam("limit", type_=BigInteger))
    return compiled(_details(chosen.subquery("page")))


# What the index orders_open_of_broker holds, in the words that it is made with.
_in_open_of_broker = func.coalesce(orders.c.close_reason, word("open")) == word("open")
_all, _open = _below(), _below(_in_open_of_broker)
_all_end = _page_end(_all)
PAGE_END = {None: _all_end, "open": _page_end(_open), "closed": _all_end}
OWN_ORDERS = {
    None: _page(_all),
    "open": _page(_open, _close_reason.is_(None)),
    "closed": _page(_all, _close_reason.is_not(None)),
}


def page_parameters(
    key_hash: bytes, query: OrderQuery, known_until_us: int | None
) -> dict[str, Any]:
    """For these: one order more than a page, to see whether another page follows."""
    return {
        "key_hash": key_hash,
        "before_id": uuid_of(query.before_id),
        "symbol": query.symbol,
        "limit": query.limit + 1,
        "known_until": _as_instant(known_until_us),
    }


ORDER_OWNER = compiled(
    select(orders.c.broker_id).where(orders.c.id == bindparam("order_id", type_=Uuid))
)


def details_of(rows: Iterable[Row]) -> Iterator[tuple[int, OrderDetail]]:
    """The orders, each with its owner's id, from rows of ``_details``."""
    for order_id, group in groupby(rows, key=lambda row: row[0]):
        own = list(group)
        _, broker_id, side, order_type, symbol, price, quantity, remaining = own[0][:8]
        close_reason, valid_until, created_at = own[0][8:11]
        yield (
            broker_id.int,
            OrderDetail(
                id=format_id(order_id.int),
                side=side,
                order_type=order_type,
                symbol=symbol,
                price=price,
                quantity=quantity,
                remaining_quantity=remaining,
                status="open" if close_reason is None else "closed",
                close_reason=close_reason,
                valid_until=valid_until,
                created_at=created_at,
                trades=[
                    TradeDetail(format_id(trade_id.int), price, quantity, name or "", executed_at)
                    for trade_id, price, quantity, executed_at, name in (row[11:] for row in own)
                    if trade_id is not None
                ],
            ),
        )
