"""The order book of one symbol, in memory.

Each side is a ``SortedDict`` from rank to price level. The rank is the price for asks and the
negative price for bids, so that on both sides the first level is the best and one piece of code
serves both. A level is a queue in order of acceptance that also finds any of its orders by id.

Costs, with L price levels on a side: insert O(log L) for a new level and O(1) for a known one,
remove and reduce O(1) however long the level is (O(log L) when it empties), best price O(1),
depth O(levels shown).
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from sortedcontainers import SortedDict

from common.matching import price_of
from common.model import Level, Order, Side


class PriceLevel:
    """All that rests at one price, in order of acceptance."""

    __slots__ = ("orders", "price", "total_quantity")

    def __init__(self, price: int) -> None:
        self.price = price
        self.total_quantity = 0
        # An OrderedDict and not a dict: taking the first of a dict walks over all that was removed.
        self.orders: OrderedDict[int, Order] = OrderedDict()


class BookSide:
    """The resting orders of one side."""

    __slots__ = ("levels", "side", "sign")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.sign = -1 if side is Side.BID else 1
        self.levels: SortedDict[int, PriceLevel] = SortedDict()

    def insert(self, order: Order) -> None:
        """Queue the order behind all others of its price."""
        price = price_of(order)
        level = self.levels.get(self.sign * price)
        if level is None:
            level = self.levels[self.sign * price] = PriceLevel(price)
        level.orders[order.id] = order
        level.total_quantity += order.remaining_quantity

    def remove(self, order: Order, quantity: int) -> None:
        """Take the order out, of which ``quantity`` was still counted in its level."""
        rank = self.sign * price_of(order)
        level = self.levels[rank]
        del level.orders[order.id]
        level.total_quantity -= quantity
        if not level.orders:
            del self.levels[rank]

    def reduce(self, order: Order, quantity: int) -> None:
        """Count ``quantity`` less in the order's level; the order keeps its place."""
        self.levels[self.sign * price_of(order)].total_quantity -= quantity

    def best_price(self) -> int | None:
        """Cents, None when nothing rests here. O(1)."""
        rank = next(iter(self.levels), None)
        return None if rank is None else self.sign * rank

    def orders(self) -> Iterator[Order]:
        """All orders in priority. The side must not change while this is read."""
        levels = self.levels
        for rank in levels:
            yield from levels[rank].orders.values()

    def depth(self, depth: int) -> list[Level]:
        """The best ``depth`` levels, best first."""
        best = [self.levels[rank] for rank in islice(self.levels, depth)]
        return [Level(level.price, level.total_quantity, len(level.orders)) for level in best]

    def check(self) -> None:
        """Raise AssertionError when an invariant of this side does not hold."""
        for rank, level in self.levels.items():
            resting = list(level.orders.values())
            assert resting, "no empty level"
            assert rank == self.sign * level.price, "rank follows price"
            assert level.total_quantity == sum(o.remaining_quantity for o in resting)
            sequences = [order.sequence for order in resting]
            assert sequences == sorted(sequences), "first come, first served"
            for order_id, order in level.orders.items():
                assert order.id == order_id
                assert order.side is self.side
                assert order.price == level.price
                assert order.is_open
                assert 0 < order.remaining_quantity <= order.quantity


class Book:
    """Both sides of one symbol."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = BookSide(Side.BID)
        self.asks = BookSide(Side.ASK)

    def side_of(self, order: Order) -> BookSide:
        """Where the order rests."""
        return self.bids if order.side is Side.BID else self.asks

    def makers(self, taker: Order) -> Iterator[Order]:
        """The opposite side in priority."""
        return (self.asks if taker.side is Side.BID else self.bids).orders()

    def is_empty(self) -> bool:
        return not self.bids.levels and not self.asks.levels

    def check(self) -> None:
        """Raise AssertionError when an invariant of the book does not hold. O(orders)."""
        self.bids.check()
        self.asks.check()
        best_bid, best_ask = self.bids.best_price(), self.asks.best_price()
        assert best_bid is None or best_ask is None or best_bid < best_ask, "never crossed at rest"
