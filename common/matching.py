"""The matching rule as pure functions: price-time priority, at the price of the resting order."""

from collections.abc import Iterable
from typing import NamedTuple

from common.ids import trade_id
from common.model import CloseReason, Order, Side, TimeInForce, Trade

# Globals are read at once; before Python 3.12 a member of an enum is found by code.
_BID = Side.BID
_FILLED, _EXPIRED, _UNFILLED = CloseReason.FILLED, CloseReason.EXPIRED, CloseReason.UNFILLED
_IMMEDIATE_OR_CANCEL = TimeInForce.IMMEDIATE_OR_CANCEL


class Fill(NamedTuple):
    """The taker meets ``maker`` for ``quantity`` shares, at the maker's price."""

    maker: Order
    quantity: int


def cross(taker: Order, makers: Iterable[Order]) -> list[Fill]:
    """Who trades with the taker, and for how much. Nothing is changed.

    ``makers`` are the open orders of the opposite side in priority: best price first, at one price
    the one accepted first. No more of them is read than the fills need, and one. A taker whose own
    end has come meets nobody.
    """
    fills: list[Fill] = []
    if taker.valid_until_us is not None and taker.valid_until_us <= taker.created_at_us:
        return fills
    wanted = taker.remaining_quantity
    for maker in makers:
        if not accepts(taker, maker.price):
            break
        quantity = min(wanted, maker.remaining_quantity)
        fills.append(Fill(maker, quantity))
        wanted -= quantity
        if not wanted:
            break
    return fills


def accepts(taker: Order, price: int | None) -> bool:
    """Whether the taker trades at ``price``; a market order trades at any."""
    if taker.price is None or price is None:
        return True
    return price <= taker.price if taker.side is _BID else price >= taker.price


def execute(taker: Order, fills: list[Fill]) -> list[Trade]:
    """Carry the fills out on both sides and say what happened, in the order of the fills.

    Afterwards an order with nothing left is closed as filled, and the taker may rest if it is open
    (see ``close_what_may_not_rest``). Time and ids come from the taker, so the same fills give the
    same trades.
    """
    now_us = taker.created_at_us
    trades = []
    for number, (maker, quantity) in enumerate(fills, start=1):
        trade = Trade(
            id=trade_id(taker, number),
            sequence=taker.sequence,
            symbol=taker.symbol,
            price=price_of(maker),
            quantity=quantity,
            taker_side=taker.side,
            maker_order_id=maker.id,
            taker_order_id=taker.id,
            maker_broker_id=maker.broker_id,
            taker_broker_id=taker.broker_id,
            executed_at_us=now_us,
        )
        trades.append(trade)
        for order in (maker, taker):
            order.add_trade(trade)
            order.remaining_quantity -= quantity
            if not order.remaining_quantity:
                close(order, _FILLED, now_us)
    close_what_may_not_rest(taker)
    return trades


def close_what_may_not_rest(taker: Order) -> None:
    """Close a taker after its fills: as unfilled, or as expired when it had already ended."""
    if taker.close_reason is not None:
        return
    if taker.time_in_force is _IMMEDIATE_OR_CANCEL:
        close(taker, _UNFILLED, taker.created_at_us)
    elif (end_us := taker.valid_until_us) is not None and end_us <= taker.created_at_us:
        close(taker, _EXPIRED, end_us)


def close(order: Order, reason: CloseReason, now_us: int) -> None:
    """From ``now_us`` on the order no longer trades."""
    order.close_reason = reason
    order.closed_at_us = now_us


def price_of(resting: Order) -> int:
    """The limit of an order that rests; only limit orders do."""
    if resting.price is None:
        raise ValueError("a market order never rests")
    return resting.price
