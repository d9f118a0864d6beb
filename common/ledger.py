"""What has come of the matching, in memory: orders, balances and prices, ready to be read.

Orders that are closed leave the ledger once they are in the database and have been closed for too
long, or are too many; from then on the database alone knows them.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from common.model import AVERAGE_TRADES_MAX, LOOKED_AT_MAX, Order, OrderQuery, Price, Trade
from common.orders import OrdersById
from common.views import matches

# So many orders at most leave at a time.
EVICTED_MAX = 1000


@dataclass(slots=True)
class _History:
    """The orders of one broker: their ids, ascending, up to half of which have left the ledger, and
    which of them are open."""

    ids: list[int] = field(default_factory=list)
    evicted: int = 0
    open: dict[int, Order] = field(default_factory=dict)


class Ledger:
    """Orders by id and by broker, cash by broker, the last trade prices by symbol."""

    def __init__(self, *, closed_age_max_us: int, closed_count_max: int) -> None:
        self.orders = OrdersById()
        self.balances: defaultdict[int, int] = defaultdict(int)
        self.prices: dict[str, deque[int]] = {}
        self.trade_count = 0
        # The greatest id that is not kept here: older orders may be known to the database only.
        self.evicted_until_id = 0
        self._closed_age_max_us = closed_age_max_us
        self._closed_count_max = closed_count_max
        self._histories: defaultdict[int, _History] = defaultdict(_History)
        self._closed: deque[Order] = deque()

    def record(self, order: Order, trades: Iterable[Trade], makers: Iterable[Order] = ()) -> None:
        """Keep a new order and what it did. Amortised O(1 + trades)."""
        self.add(order)
        for trade in trades:
            cash = trade.cash
            self.balances[trade.seller_id] += cash
            self.balances[trade.buyer_id] -= cash
            self.trade_count += 1
            self.prices_of(trade.symbol).append(trade.price)
        for maker in makers:
            if not maker.is_open:
                self.closed(maker)

    def add(self, order: Order) -> None:
        """Keep an order. Ids arrive ascending for each broker."""
        self.orders[order.id] = order
        history = self._histories[order.broker_id]
        history.ids.append(order.id)
        if order.is_open:
            history.open[order.id] = order

    def closed(self, order: Order) -> None:
        """The order is no longer among the open ones of its broker."""
        self._histories[order.broker_id].open.pop(order.id, None)

    def prices_of(self, symbol: str) -> deque[int]:
        """The last trade prices in cents, newest last, for appending."""
        prices = self.prices.get(symbol)
        if prices is None:
            prices = self.prices[symbol] = deque(maxlen=AVERAGE_TRADES_MAX)
        return prices

    def price(self, symbol: str, trades: int) -> Price | None:
        """Last price and the mean of the last ``trades``, None before the first. O(trades)."""
        prices = self.prices.get(symbol)
        if not prices:
            return None
        latest = list(islice(reversed(prices), trades))
        return Price(symbol, latest[0], sum(latest) // len(latest), len(latest))

    def page(self, broker_id: int, query: OrderQuery, now_us: int) -> tuple[list[Order], int]:
        """The newest kept orders that match at that instant, one more than a page at most, and down
        to which id was looked; 0 where that was all. O(LOOKED_AT_MAX).
        """
        found: list[Order] = []
        looked_at, until_id = self._looked_at(self._histories[broker_id], query)
        for order_id in looked_at:
            order = self.orders.get(order_id)
            if order is not None and matches(order, query, now_us):
                found.append(order)
                if len(found) > query.limit:
                    return found, 0
        return found, until_id

    @staticmethod
    def _looked_at(history: _History, query: OrderQuery) -> tuple[Iterable[int], int]:
        """The ids that a page is chosen from, newest first, and the last if more follow, or 0."""
        if query.status == "open" and len(history.open) <= LOOKED_AT_MAX:
            return (each for each in reversed(history.open) if each < query.before_id), 0
        end = bisect_left(history.ids, query.before_id)
        begin = max(0, end - LOOKED_AT_MAX)
        return reversed(history.ids[begin:end]), history.ids[begin] if begin else 0

    def saved(self, orders: Iterable[Order]) -> None:
        """These orders are in the database as they are now: the closed ones may leave in time."""
        self._closed.extend(order for order in orders if not order.is_open)

    def evict(self, now_us: int) -> int:
        """Drop saved closed orders that are too old or too many; how many. O(EVICTED_MAX).

        Called regularly, it gets to all of them, also where very many were closed at once.
        """
        oldest_kept_us = now_us - self._closed_age_max_us
        count = 0
        while (
            count < EVICTED_MAX
            and self._closed
            and (
                len(self._closed) > self._closed_count_max
                or (self._closed[0].closed_at_us or 0) < oldest_kept_us
            )
        ):
            self._drop(self._closed.popleft())
            count += 1
        return count

    def clear(self) -> None:
        """Forget everything."""
        self.orders.clear()
        self.balances.clear()
        self.prices.clear()
        self.trade_count = 0
        self.evicted_until_id = 0
        self._histories.clear()
        self._closed.clear()

    def _drop(self, order: Order) -> None:
        del self.orders[order.id]
        self.evicted_until_id = max(self.evicted_until_id, order.id)
        history = self._histories[order.broker_id]
        history.evicted += 1
        # Rebuilt when half of it is gone, so that an eviction costs O(1) on average.
        if history.evicted * 2 > len(history.ids):
            history.ids = [order_id for order_id in history.ids if order_id in self.orders]
            history.evicted = 0
