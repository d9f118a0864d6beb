"""The order book of one symbol, in memory.

Each side is a ``SortedList`` of ranks and a ``dict`` from rank to price level (a ``SortedDict`` is
the same in one, and spends 8 % of the engine's time on keeping both together). The rank is the
price for asks and the negative price for bids, so that on both sides the first level is the best
and one piece of code serves both. A level is a queue in order of acceptance, in which closed orders
stay for a while.

Costs, with L price levels on a side: insert O(log L) for a new level and O(1) for a known one,
remove O(1) amortised however long the level is (O(log L) when it empties), reduce O(1), best price
O(1), depth O(levels shown).
"""

from collections.abc import Iterator
from itertools import islice

from msgspec import Struct
from sortedcontainers import SortedList

from common.matching import price_of
from common.model import Level, Order, Side

# Globals are read at once; before Python 3.12 a member of an enum is found by code.
_BID, _ASK = Side.BID, Side.ASK
# Of the best level where there is none, behind every rank; and the last rank that can be.
NO_RANK = 1 << 62
_ANY = NO_RANK - 1
# So many closed orders may lie in any queue; in a longer one as many as open ones.
_CLOSED_KEPT = 16


class PriceLevel(Struct, eq=False, gc=False):
    """All that rests at one price: ``queue`` from ``head`` on, without what has been closed there.

    Most levels hold one order, so they are as light as they can be: a list costs a third of a
    mapping in time and in memory. Taking an order out of its middle would move all behind it;
    therefore it stays until it is at the head, or until half of the queue is closed.
    """

    price: int
    queue: list[Order]
    total_quantity: int
    order_count: int = 1
    head: int = 0

    def remove(self, quantity: int) -> None:
        """Count one order less, which is closed by now; ``quantity`` of it was still counted."""
        self.order_count -= 1
        self.total_quantity -= quantity
        queue, head = self.queue, self.head
        end = len(queue)
        while head < end and queue[head].close_reason is not None:
            head += 1
        if end > 2 * self.order_count + _CLOSED_KEPT:
            queue[:] = [order for order in queue[head:] if order.close_reason is None]
            head = 0
        self.head = head

    def orders(self) -> Iterator[Order]:
        """The open orders, first accepted first."""
        for index in range(self.head, len(self.queue)):
            order = self.queue[index]
            if order.close_reason is None:
                yield order


class BookSide:
    """The resting orders of one side: ``levels`` by rank, and their ``ranks`` in order.

    ``best_rank`` is that of the first level, or NO_RANK.
    """

    __slots__ = ("best_rank", "levels", "ranks", "side", "sign")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.sign = -1 if side is _BID else 1
        self.levels: dict[int, PriceLevel] = {}
        self.ranks: SortedList[int] = SortedList()
        self.best_rank = NO_RANK

    def insert(self, order: Order) -> None:
        """Queue the order behind all others of its price."""
        price = order.price
        assert price is not None, "a market order never rests"
        rank = self.sign * price
        level = self.levels.get(rank)
        if level is not None:
            # Here, and not in a method: one call is 5 % of all that the engine does for a command.
            level.queue.append(order)
            level.order_count += 1
            level.total_quantity += order.remaining_quantity
            return
        self.levels[rank] = PriceLevel(price, [order], order.remaining_quantity)
        self.ranks.add(rank)
        if rank < self.best_rank:  # noqa: PLR1730 - a call of min() for every order that rests
            self.best_rank = rank

    def remove(self, order: Order, quantity: int) -> None:
        """Take a closed order out, of which ``quantity`` was still counted in its level."""
        price = order.price
        assert price is not None, "a market order never rests"
        rank = self.sign * price
        level = self.levels[rank]
        if level.order_count > 1:
            level.remove(quantity)
            return
        del self.levels[rank]
        self.ranks.remove(rank)
        if rank == self.best_rank:
            self.best_rank = next(iter(self.ranks), NO_RANK)

    def reduce(self, order: Order, quantity: int) -> None:
        """Count ``quantity`` less in the order's level; the order keeps its place."""
        self.levels[self.sign * price_of(order)].total_quantity -= quantity

    def best_price(self) -> int | None:
        """Cents, None when nothing rests here. O(1)."""
        return None if self.best_rank == NO_RANK else self.sign * self.best_rank

    def may_meet(self, taker: Order) -> bool:
        """Whether the best order here is within the limit of a taker of the other side. O(1)."""
        price = taker.price
        return self.best_rank <= (_ANY if price is None else self.sign * price)

    def orders(self) -> Iterator[Order]:
        """All orders in priority. The side must not change while this is read."""
        levels = self.levels
        for rank in self.ranks:
            yield from levels[rank].orders()

    def depth(self, depth: int) -> list[Level]:
        """The best ``depth`` levels, best first."""
        best = [self.levels[rank] for rank in islice(self.ranks, depth)]
        return [Level(level.price, level.total_quantity, level.order_count) for level in best]

    def check(self) -> None:
        """Raise AssertionError when an invariant of this side does not hold."""
        assert self.best_rank == next(iter(self.ranks), NO_RANK)
        assert list(self.ranks) == sorted(self.levels)
        for rank, level in self.levels.items():
            resting = list(level.orders())
            assert resting, "no empty level"
            assert rank == self.sign * level.price, "rank follows price"
            assert level.order_count == len(resting)
            assert level.total_quantity == sum(o.remaining_quantity for o in resting)
            assert all(not order.is_open for order in level.queue[: level.head])
            assert len(level.queue) <= 2 * level.order_count + _CLOSED_KEPT
            sequences = [order.sequence for order in resting]
            assert sequences == sorted(sequences), "first come, first served"
            for order in resting:
                assert order.side is self.side
                assert order.price == level.price
                assert 0 < order.remaining_quantity <= order.quantity


class Book:
    """Both sides of one symbol."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = BookSide(_BID)
        self.asks = BookSide(_ASK)

    def sides(self, order: Order) -> tuple[BookSide, BookSide]:
        """Where the order rests, and where its makers do if it is a taker."""
        return (self.bids, self.asks) if order.side is _BID else (self.asks, self.bids)

    def orders(self) -> Iterator[Order]:
        """All orders, bids before asks, each side in priority."""
        yield from self.bids.orders()
        yield from self.asks.orders()

    def is_empty(self) -> bool:
        return not self.bids.levels and not self.asks.levels

    def check(self) -> None:
        """Raise AssertionError when an invariant of the book does not hold. O(orders)."""
        self.bids.check()
        self.asks.check()
        best_bid, best_ask = self.bids.best_price(), self.asks.best_price()
        assert best_bid is None or best_ask is None or best_bid < best_ask, "never crossed at rest"
