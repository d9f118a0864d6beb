"""The matching engine of the cases that match in memory: a deterministic state machine.

Sequence number, id and time come in with each command. The engine has no clock, no chance and no
I/O, so the same commands give the same trades, ids and books: on replay, on a replica, in a test.
An order closes as expired at its ``valid_until`` exactly, no matter when that is noticed; therefore
reading at any moment changes nothing either, and each book needs to notice only when it is used.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.book import NO_RANK, Book, BookSide
from common.expiry import ExpiryWheel, due
from common.matching import close, close_what_may_not_rest, cross, execute
from common.model import CloseReason, Order, Trade

# Globals are read at once; before Python 3.12 a member of an enum is found by code.
_CANCELLED, _EXPIRED = CloseReason.CANCELLED, CloseReason.EXPIRED


class Execution(NamedTuple):
    """What a new order did: its trades, and the makers it met in the same order."""

    trades: Sequence[Trade]
    makers: Sequence[Order]


NO_TRADES = Execution((), ())
# A sweep ends when it has looked at so many orders, so that it keeps nobody waiting.
SWEPT_AT_LEAST = 300


class Engine:
    """All books, and when what rests in them ends. Who looks for an order by its id keeps it."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.open_count = 0
        self._expiry = ExpiryWheel()

    def submit(self, order: Order) -> Execution:
        """Match a new order and let the rest of it rest, if it may.

        The caller has closed what ended before: ``expire(order.symbol, order.created_at_us)``.
        """
        book = self.books.get(order.symbol)
        if book is None:
            close_what_may_not_rest(order)
            if order.close_reason is None:
                self.rest(order)
            return NO_TRADES
        own, makers = book.sides(order)
        if makers.may_meet(order):
            execution = self._trade(order, makers)
            if order.close_reason is None:
                self.rest(order)  # the fills may have emptied the book and dropped it
            return execution
        close_what_may_not_rest(order)
        if order.close_reason is None:
            self._enter(own, order)
        return NO_TRADES

    def rest(self, order: Order) -> None:
        """Put an open order into its book, behind all that rest at its price."""
        book = self.books.get(order.symbol)
        if book is None:
            book = self.books[order.symbol] = Book()
        own, _ = book.sides(order)
        self._enter(own, order)

    def _enter(self, side: BookSide, order: Order) -> None:
        side.insert(order)
        self.open_count += 1
        self._expiry.add(order)

    def cancel(self, order: Order, now_us: int) -> None:
        """Take an open order out of its book at once."""
        close(order, _CANCELLED, now_us)
        self._expiry.discard(order)
        self._take_out(order, order.remaining_quantity)

    def expire(self, symbol: str, now_us: int) -> Sequence[Order]:
        """Close every order of a book whose end has come by ``now_us``; these, first ended first.

        Two comparisons when there is none, however many orders rest.
        """
        expiry = self._expiry
        if now_us < expiry.next_second_us:
            near = expiry.near.get(symbol)
            if near is None or now_us < near[0][0]:
                return ()
        ended = expiry.pop_due(symbol, now_us)
        for order in ended:
            close(order, _EXPIRED, due(order))
            self._take_out(order, order.remaining_quantity)
        return ended

    def sweep(self, now_us: int, at_least: int = SWEPT_AT_LEAST) -> list[Order]:
        """Close what has ended in books that nobody asks for, one after the other, until so many
        orders were looked at, or all that may have ended."""
        ended: list[Order] = []
        looked_at = 0
        for symbol, count in self._expiry.symbols_due(now_us, at_least):
            if looked_at >= at_least:
                break
            closed = self.expire(symbol, now_us)
            # What ends later in a second that has begun costs as much as what has ended.
            looked_at += max(count, len(closed))
            ended += closed
        return ended

    def clear(self) -> None:
        """Forget every order."""
        self.books.clear()
        self.open_count = 0
        self._expiry = ExpiryWheel()

    def resting(self) -> Iterator[Order]:
        """Every open order, book by book."""
        for book in self.books.values():
            yield from book.orders()

    def check(self) -> None:
        """Raise AssertionError when an invariant does not hold. O(open orders)."""
        for symbol, book in self.books.items():
            book.check()
            assert not book.is_empty(), "a book without orders is dropped"
            assert all(order.symbol == symbol for order in book.orders())
        ids = {order.id for order in self.resting()}
        assert len(ids) == self.open_count, "every open order rests, once, and nothing else"

    def _trade(self, taker: Order, side: BookSide) -> Execution:
        """Fill the taker from a side of which at least one order is within its limit."""
        fills = cross(taker, side.orders())
        trades = execute(taker, fills)
        for maker, quantity in fills:
            if maker.close_reason is None:
                side.reduce(maker, quantity)
            else:
                self._expiry.discard(maker)
                self._take_out(maker, quantity)
        return Execution(trades, [maker for maker, _ in fills])

    def _take_out(self, order: Order, quantity: int) -> None:
        """Remove a closed order, of which ``quantity`` was still counted in its level."""
        self.open_count -= 1
        book = self.books[order.symbol]
        side, _ = book.sides(order)
        side.remove(order, quantity)
        if side.best_rank == NO_RANK and book.is_empty():
            del self.books[order.symbol]
