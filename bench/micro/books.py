"""Books with a given number of resting orders, from which the benchmarks start. Pure."""

import math
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from bench.replay import order_id
from common.engine import Engine
from common.matching import price_of
from common.model import NewOrder, Order, OrderType, Side

OPERATIONS = 100
LOT = 100
BROKERS = 100
ORDERS_PER_S = 700
NOW_US = 1_700_000_000_000_000
# Where the passive orders of the tape rest, as shares of the base price (bench/traffic.py).
BIDS_FROM, ASKS_FROM, WIDTH = 0.80, 1.05, 0.15
BASE_PRICE = 20_000  # cents; so 3,000 prices a side
_SECOND_US = 1_000_000
_DAY_S = 86_400


def limit_order(symbol: str, side: Side, price: int, quantity: int, sequence: int) -> Order:
    """An order that ends a day after it came; orders come as fast as at 100 %."""
    asked = NewOrder(
        document_number="1",
        side=side,
        order_type=OrderType.LIMIT,
        symbol=symbol,
        price=price,
        quantity=quantity,
        valid_until_us=NOW_US + (_DAY_S + sequence // ORDERS_PER_S) * _SECOND_US,
    )
    return asked.accepted(
        order_id=order_id(sequence),
        sequence=sequence,
        broker_id=1 + sequence % BROKERS,
        now_us=NOW_US,
    )


def resting_orders(
    symbol: str, base_price: int, orders: int, sequences: Iterator[int]
) -> Iterator[Order]:
    """As many bids as asks, evenly over the passive prices, which they take in random order."""
    offsets = np.arange(orders // 2) * int(WIDTH * base_price) // (orders // 2)
    prices = [int(share * base_price) + offsets for share in (BIDS_FROM, ASKS_FROM)]
    rows = np.random.default_rng(1).permutation(2 * len(offsets))
    sides = np.where(rows < len(offsets), 0, 1).tolist()
    for side, price in zip(sides, np.concatenate(prices)[rows].tolist(), strict=True):
        yield limit_order(symbol, (Side.BID, Side.ASK)[side], price, LOT, next(sequences))


def _a_price_for_each(orders: int) -> int:
    """Cents: the least base price at which no two orders of a book share a price."""
    return max(BASE_PRICE, math.ceil(orders / 2 / WIDTH) + 1)


# How the orders of a book lie: its base price by the number of orders.
SHAPES: dict[str, Callable[[int], int]] = {
    "3,000 prices a side": lambda _: BASE_PRICE,
    "a price for each order": _a_price_for_each,
}


class Books:
    """Books of ``size`` resting orders each, a power of ten, in one engine.

    There are as many as it takes for ``OPERATIONS`` to be no more than a tenth of all orders, so
    that a round of so many does not make a small book another one.
    """

    def __init__(self, size: int, shape: str) -> None:
        self.size = size
        self.shape = shape
        self.base_price = SHAPES[shape](size)
        self.engine = Engine()
        self.symbols = [f"TEST{n}" for n in range(max(1, 10 * OPERATIONS // size))]
        self.sequences = count(1)
        self.chance = np.random.default_rng(2)
        for symbol in self.symbols:
            for order in resting_orders(symbol, self.base_price, size, self.sequences):
                self.engine.rest(order)

    @property
    def operations(self) -> int:
        """In each book in a round."""
        return OPERATIONS // len(self.symbols)

    def passive_orders(self) -> list[Order]:
        """New orders for a round, which will rest at random passive prices."""
        shape = (len(self.symbols), self.operations)
        sides = self.chance.integers(0, 2, shape)
        share = np.where(sides == 0, BIDS_FROM, ASKS_FROM) + WIDTH * self.chance.random(shape)
        prices = np.floor(share * self.base_price).astype(np.int64)
        return [
            limit_order(symbol, (Side.BID, Side.ASK)[side], price, LOT, next(self.sequences))
            for symbol, row in zip(self.symbols, np.dstack([sides, prices]).tolist(), strict=True)
            for side, price in row
        ]

    def again(self, order: Order) -> Order:
        """The same order as it was when it came, behind all others."""
        price, sequence = price_of(order), next(self.sequences)
        return limit_order(order.symbol, order.side, price, order.quantity, sequence)

    def check(self) -> None:
        """Raise AssertionError unless all is as it was at first. O(orders)."""
        self.engine.check()
        assert self.engine.open_count == self.size * len(self.symbols)
        assert all(order.remaining_quantity == LOT for order in self.engine.resting())
