"""One operation on books of 10 to 1,000,000 resting orders."""

from itertools import groupby, islice

import pytest

from bench.micro.books import LOT, NOW_US, OPERATIONS, SHAPES, Books, limit_order
from bench.micro.measuring import Benchmark, decades, measure, name
from common.book import BookSide
from common.matching import price_of
from common.model import CloseReason, Level, Order, Side

ROUNDS = 20
SIZES = decades(10, 1_000_000)
DEPTH = 5  # levels a side, ten in all: what the smallest book has
on_books = pytest.mark.parametrize(
    "books",
    [pytest.param((size, shape), id=f"{shape}-{size}") for shape in SHAPES for size in SIZES],
    indirect=True,
    scope="module",  # so that the four benchmarks follow each other on the same books
)
Shown = list[tuple[list[Level], list[Level]]]  # asks and bids of books


@on_books
def bench_insert(benchmark: Benchmark, books: Books) -> None:
    """A new order that meets nobody and rests."""
    engine = books.engine

    def insert(orders: list[Order]) -> None:
        for order in orders:
            engine.submit(order)

    def check(orders: list[Order]) -> None:
        assert engine.open_count == books.size * len(books.symbols) + OPERATIONS
        for order in reversed(orders):
            side, _ = engine.books[order.symbol].sides(order)
            level = side.levels[side.sign * price_of(order)]
            assert list(level.orders())[-1] is order, "behind those before"
            engine.cancel(order, NOW_US)

    name(benchmark, "insert", books.shape, books.size)
    measure(benchmark, books.passive_orders, insert, check, rounds=ROUNDS, operations=OPERATIONS)
    books.check()


@on_books
def bench_cancel(benchmark: Benchmark, books: Books) -> None:
    """A random resting order leaves."""
    engine = books.engine
    resting = list(engine.resting())

    def pick() -> dict[int, Order]:
        """By their places in ``resting``, from each book as many."""
        places = [
            first + int(place)
            for first in range(0, len(resting), books.size)
            for place in books.chance.choice(books.size, books.operations, replace=False)
        ]
        return {place: resting[place] for place in places}

    def cancel(picked: dict[int, Order]) -> None:
        for order in picked.values():
            engine.cancel(order, NOW_US)

    def check(picked: dict[int, Order]) -> None:
        assert engine.open_count == len(resting) - OPERATIONS
        for place, order in picked.items():
            assert order.close_reason is CloseReason.CANCELLED
            resting[place] = books.again(order)
            engine.rest(resting[place])

    name(benchmark, "cancel", books.shape, books.size)
    measure(benchmark, pick, cancel, check, rounds=ROUNDS, operations=OPERATIONS)
    books.check()


@on_books
def bench_cross(benchmark: Benchmark, books: Books) -> None:
    """A new order that takes exactly the best resting one."""
    engine = books.engine

    def meet() -> list[tuple[Order, Order]]:
        """Takers with the makers that they shall meet."""
        return [
            (limit_order(symbol, Side.BID, price_of(maker), LOT, next(books.sequences)), maker)
            for symbol in books.symbols
            for maker in islice(engine.books[symbol].asks.orders(), books.operations)
        ]

    def cross(pairs: list[tuple[Order, Order]]) -> None:
        for taker, _ in pairs:
            engine.submit(taker)

    def check(pairs: list[tuple[Order, Order]]) -> None:
        for taker, maker in pairs:
            trades = [(trade.maker_order_id, trade.price, trade.quantity) for trade in taker.trades]
            assert trades == [(maker.id, maker.price, LOT)]
            assert taker.close_reason is maker.close_reason is CloseReason.FILLED
            engine.rest(books.again(maker))

    name(benchmark, "cross", books.shape, books.size)
    measure(benchmark, meet, cross, check, rounds=ROUNDS, operations=OPERATIONS)
    books.check()


@on_books
def bench_depth(benchmark: Benchmark, books: Books) -> None:
    """Ten levels, five a side, from the best on."""
    all_books = [books.engine.books[symbol] for symbol in books.symbols] * books.operations
    expected = [(levels_of(book.asks, DEPTH), levels_of(book.bids, DEPTH)) for book in all_books]

    def nothing() -> Shown:
        return []

    def read(shown: Shown) -> None:
        for book in all_books:
            shown.append((book.asks.depth(DEPTH), book.bids.depth(DEPTH)))

    def check(shown: Shown) -> None:
        assert shown == expected

    name(benchmark, "depth", books.shape, books.size)
    measure(benchmark, nothing, read, check, rounds=ROUNDS, operations=OPERATIONS)


def levels_of(side: BookSide, depth: int) -> list[Level]:
    """The best levels, from the orders alone."""
    found = []
    for price, orders in islice(groupby(side.orders(), key=price_of), depth):
        quantities = [order.remaining_quantity for order in orders]
        found.append(Level(price, sum(quantities), len(quantities)))
    return found
