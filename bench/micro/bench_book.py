"""One operation on books of 10 to 1,000,000 resting orders, and orders with many fills."""

import tracemalloc
from itertools import count, groupby, islice

import pytest

from bench.micro.books import (
    BASE_PRICE,
    LOT,
    NOW_US,
    OPERATIONS,
    SHAPES,
    Books,
    limit_order,
    resting_orders,
)
from bench.micro.measuring import Benchmark, as_in_service, decades, measure, name
from common.book import BookSide
from common.engine import Engine
from common.ids import FILL_BITS
from common.ledger import Ledger
from common.matching import price_of
from common.model import CloseReason, Level, NewOrder, Order, OrderType, Side

ROUNDS = 50
SIZES = decades(10, 1_000_000)
DEPTH = 5  # levels a side, ten in all: what the smallest book has
FILLS = 1000
FILL_PRICES = 100
WITH_LEDGER = "engine and ledger"
on_books = pytest.mark.parametrize(
    "books",
    [pytest.param((size, shape), id=f"{shape}-{size}") for shape in SHAPES for size in SIZES],
    indirect=True,
    scope="session",  # so that the four benchmarks follow each other on the same books
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
        assert len(engine.open_orders) == books.size * len(books.symbols) + OPERATIONS
        for order in reversed(orders):
            side = engine.books[order.symbol].side_of(order)
            level = side.levels[side.sign * price_of(order)]
            assert next(reversed(level.orders.values())) is order, "behind those before"
            engine.cancel(order, NOW_US)

    name(benchmark, "insert", books.shape, books.size)
    measure(benchmark, books.passive_orders, insert, check, rounds=ROUNDS, operations=OPERATIONS)
    books.check()


@on_books
def bench_cancel(benchmark: Benchmark, books: Books) -> None:
    """A random resting order leaves."""
    engine = books.engine
    resting = [
        order
        for book in engine.books.values()
        for order in (*book.bids.orders(), *book.asks.orders())
    ]

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
        assert len(engine.open_orders) == len(resting) - OPERATIONS
        for place, order in picked.items():
            assert order.close_reason is CloseReason.CANCELLED
            assert order.id not in engine.open_orders
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


@pytest.mark.parametrize("size", decades(1, FILLS))
def bench_fills(benchmark: Benchmark, size: int) -> None:
    """A market order that takes ``size`` resting orders, ten of which share a price."""
    engine, sequences = Engine(), count(1)

    def fill() -> list[Order]:
        """Takers that take the whole book, one after the other."""
        assert not engine.books, "those before have taken everything"
        for number in range(FILLS):
            price = BASE_PRICE + number * FILL_PRICES // FILLS
            engine.rest(limit_order("TEST", Side.ASK, price, LOT, next(sequences)))
        return [market_order("TEST", size * LOT, next(sequences)) for _ in range(FILLS // size)]

    def take(takers: list[Order]) -> None:
        for taker in takers:
            engine.submit(taker)

    def check(takers: list[Order]) -> None:
        engine.check()
        assert not engine.open_orders
        prices = [trade.price for taker in takers for trade in taker.trades]
        assert len(prices) == FILLS
        assert prices == sorted(prices), "best first"
        assert all(taker.close_reason is CloseReason.FILLED for taker in takers)

    name(benchmark, "fills", "", size)
    with as_in_service():
        measure(benchmark, fill, take, check, rounds=20, operations=FILLS // size)


@pytest.mark.parametrize("size", decades(1000, 1_000_000))
@pytest.mark.parametrize("keeper", ["engine", WITH_LEDGER])
def bench_memory(benchmark: Benchmark, size: int, keeper: str) -> None:
    """The memory that a resting order takes, itself included; its time is of no use."""

    def nothing() -> tuple[Engine, Ledger]:
        tracemalloc.start()
        return Engine(), Ledger(closed_age_max_us=0, closed_count_max=0)

    def fill(kept: tuple[Engine, Ledger]) -> None:
        engine, ledger = kept
        for order in resting_orders("TEST", BASE_PRICE, size, count(1)):
            engine.rest(order)
            if keeper == WITH_LEDGER:
                ledger.add(order)

    def check(kept: tuple[Engine, Ledger]) -> None:
        engine, ledger = kept
        in_use, _ = tracemalloc.get_traced_memory()
        benchmark.extra_info["bytes_per_order"] = in_use / size
        engine.check()
        assert len(engine.open_orders) == size
        assert len(ledger.orders) == (size if keeper == WITH_LEDGER else 0)

    name(benchmark, "memory", keeper, size)
    try:
        measure(benchmark, nothing, fill, check, rounds=1, warmup_rounds=0)
    finally:
        tracemalloc.stop()


def market_order(symbol: str, quantity: int, sequence: int) -> Order:
    """An order to buy at any price."""
    asked = NewOrder("1", Side.BID, OrderType.MARKET, symbol, None, quantity, None)
    return asked.accepted(
        order_id=sequence << FILL_BITS, sequence=sequence, broker_id=2, now_us=NOW_US
    )


def levels_of(side: BookSide, depth: int) -> list[Level]:
    """The best levels, from the orders alone."""
    found = []
    for price, orders in islice(groupby(side.orders(), key=price_of), depth):
        quantities = [order.remaining_quantity for order in orders]
        found.append(Level(price, sum(quantities), len(quantities)))
    return found
