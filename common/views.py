"""What the exchange keeps, as its readers see it."""

from collections.abc import Iterable, Mapping

from common.ids import format_id
from common.model import (
    Broker,
    CloseReason,
    Order,
    OrderDetail,
    OrderPage,
    OrderQuery,
    Receipt,
    Trade,
    TradeDetail,
    to_datetime,
)


def receipt_of(order: Order) -> Receipt:
    """The reply to a new order."""
    return Receipt(
        format_id(order.id), "open" if order.is_open else "closed", order.remaining_quantity
    )


def reason_at(order: Order, now_us: int) -> CloseReason | None:
    """Why an order is closed by then, None if it is open: what has ended may be noticed later."""
    until_us = order.valid_until_us
    if order.is_open and until_us is not None and until_us <= now_us:
        return CloseReason.EXPIRED
    return order.close_reason


def detail_of(order: Order, brokers: Mapping[int, Broker], now_us: int) -> OrderDetail:
    """An order in memory as it is at that instant, with its trades."""
    until_us, reason = order.valid_until_us, reason_at(order, now_us)
    return OrderDetail(
        id=format_id(order.id),
        side=order.side,
        order_type=order.order_type,
        symbol=order.symbol,
        price=order.price,
        quantity=order.quantity,
        remaining_quantity=order.remaining_quantity,
        status="open" if reason is None else "closed",
        close_reason=reason,
        valid_until=None if until_us is None else to_datetime(until_us),
        created_at=to_datetime(order.created_at_us),
        trades=[_side_of(trade, order, brokers) for trade in order.trades],
    )


def _side_of(trade: Trade, order: Order, brokers: Mapping[int, Broker]) -> TradeDetail:
    made = trade.maker_order_id == order.id
    counterparty = brokers[trade.taker_broker_id if made else trade.maker_broker_id]
    return TradeDetail(
        trade_id=format_id(trade.id),
        price=trade.price,
        quantity=trade.quantity,
        counterparty_broker=counterparty.name,
        executed_at=to_datetime(trade.executed_at_us),
    )


def matches(order: Order, query: OrderQuery, now_us: int) -> bool:
    """Whether a listing at that instant shows the order."""
    if query.symbol is not None and order.symbol != query.symbol:
        return False
    return query.status is None or (reason_at(order, now_us) is None) == (query.status == "open")


def page_of(details: Iterable[OrderDetail], limit: int, until_id: int) -> OrderPage:
    """The newest ``limit`` of the given orders, which are one more when another page follows.

    Nobody has looked at what is older than ``until_id``, so the page ends there at the latest; 0
    where all was looked at.
    """
    end = format_id(until_id)
    newest = sorted((each for each in details if each.id >= end), key=_id_of, reverse=True)
    if len(newest) > limit:
        return OrderPage(newest[:limit], newest[limit - 1].id)
    return OrderPage(newest, end if until_id else None)


def _id_of(detail: OrderDetail) -> str:
    return detail.id
