"""An exchange so simple that it is believed at sight: what every faster one must agree with.

Resting orders are one plain list. Whatever is asked, the list is scanned from end to end.
"""

from common.model import (
    TIME_IN_FORCE,
    BookDepth,
    CloseReason,
    Level,
    NewOrder,
    Order,
    OrderType,
    Price,
    Side,
    TimeInForce,
    Trade,
)


class ReferenceExchange:
    """Takes commands that bring their sequence number, id and time along."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.trades: list[Trade] = []
        self.resting: list[Order] = []

    def submit(
        self, asked: NewOrder, *, order_id: int, sequence: int, broker_id: int, now_us: int
    ) -> list[Trade]:
        """Accept an order; its trades, in the order in which they happen."""
        self.expire(now_us)
        taker = asked.accepted(
            order_id=order_id, sequence=sequence, broker_id=broker_id, now_us=now_us
        )
        self.orders[order_id] = taker
        if taker.valid_until_us is not None and taker.valid_until_us <= now_us:
            self._close(taker, CloseReason.EXPIRED, taker.valid_until_us)
            return []
        trades: list[Trade] = []
        for maker in self._makers(taker):
            if taker.remaining_quantity > 0 and _agree(taker, maker):
                trades.append(self._trade(taker, maker, order_id + len(trades) + 1))
        if taker.is_open and TIME_IN_FORCE[taker.order_type] is TimeInForce.IMMEDIATE_OR_CANCEL:
            self._close(taker, CloseReason.UNFILLED, now_us)
        if taker.is_open:
            self.resting.append(taker)
        self.trades.extend(trades)
        return trades

    def cancel(self, order_id: int, now_us: int) -> None:
        """Close an order, unless it is closed already."""
        self.expire(now_us)
        order = self.orders[order_id]
        if order.is_open:
            self._close(order, CloseReason.CANCELLED, now_us)

    def expire(self, now_us: int) -> list[Order]:
        """Close what has ended by now; these, first ended first."""
        ended = [order for order in self.resting if _end(order) <= now_us]
        ended.sort(key=lambda order: (_end(order), order.sequence))
        for order in ended:
            self._close(order, CloseReason.EXPIRED, _end(order))
        return ended

    def side(self, symbol: str, side: Side) -> list[Order]:
        """What rests on one side of a book: best price first, at one price first come first."""
        found = [order for order in self.resting if order.symbol == symbol and order.side is side]
        sign = -1 if side is Side.BID else 1
        return sorted(found, key=lambda order: (sign * _limit(order), order.sequence))

    def book(self, symbol: str, depth: int) -> BookDepth:
        """The best levels of both sides."""
        return BookDepth(
            symbol,
            depth,
            asks=self._levels(symbol, Side.ASK)[:depth],
            bids=self._levels(symbol, Side.BID)[:depth],
        )

    def balance(self, broker_id: int) -> int:
        """Cents from all sells minus cents from all buys."""
        sold = [trade.cash for trade in self.trades if trade.seller_id == broker_id]
        bought = [trade.cash for trade in self.trades if trade.buyer_id == broker_id]
        return sum(sold) - sum(bought)

    def price(self, symbol: str, trades: int) -> Price | None:
        """The last price and the mean of the last ``trades``, None before the first trade."""
        prices = [trade.price for trade in self.trades if trade.symbol == symbol][-trades:]
        if not prices:
            return None
        return Price(symbol, prices[-1], sum(prices) // len(prices), len(prices))

    def orders_of(self, broker_id: int) -> list[Order]:
        """All orders of a broker, newest first."""
        own = [order for order in self.orders.values() if order.broker_id == broker_id]
        return sorted(own, key=lambda order: order.sequence, reverse=True)

    def _makers(self, taker: Order) -> list[Order]:
        return self.side(taker.symbol, Side.ASK if taker.side is Side.BID else Side.BID)

    def _levels(self, symbol: str, side: Side) -> list[Level]:
        orders = self.side(symbol, side)
        levels = []
        for price in dict.fromkeys(_limit(order) for order in orders):
            left = [order.remaining_quantity for order in orders if order.price == price]
            levels.append(Level(price, sum(left), len(left)))
        return levels

    def _trade(self, taker: Order, maker: Order, trade_id: int) -> Trade:
        trade = Trade(
            id=trade_id,
            sequence=taker.sequence,
            symbol=taker.symbol,
            price=_limit(maker),
            quantity=min(taker.remaining_quantity, maker.remaining_quantity),
            taker_side=taker.side,
            maker_order_id=maker.id,
            taker_order_id=taker.id,
            maker_broker_id=maker.broker_id,
            taker_broker_id=taker.broker_id,
            executed_at_us=taker.created_at_us,
        )
        for order in (maker, taker):
            order.add_trade(trade)
            order.remaining_quantity -= trade.quantity
            if order.remaining_quantity == 0:
                self._close(order, CloseReason.FILLED, taker.created_at_us)
        return trade

    def _close(self, order: Order, reason: CloseReason, now_us: int) -> None:
        order.close_reason = reason
        order.closed_at_us = now_us
        self.resting = [other for other in self.resting if other is not order]


def _agree(taker: Order, maker: Order) -> bool:
    """Whether the taker may trade at the maker's price."""
    if taker.order_type is OrderType.MARKET:
        return True
    if taker.side is Side.BID:
        return _limit(maker) <= _limit(taker)
    return _limit(maker) >= _limit(taker)


def _limit(order: Order) -> int:
    assert order.price is not None, "only a limit order has a limit"
    return order.price


def _end(order: Order) -> int:
    assert order.valid_until_us is not None, "only an order with an end rests"
    return order.valid_until_us
