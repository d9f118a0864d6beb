"""Orders that take many resting ones."""

from itertools import count

import pytest

from bench.micro.books import BASE_PRICE, LOT, NOW_US, limit_order
from bench.micro.measuring import Benchmark, as_in_service, decades, measure, name
from bench.replay import order_id
from common.engine import Engine
from common.model import CloseReason, NewOrder, Order, OrderType, Side

ROUNDS = 10
FILLS = 1000  # in a round
PRICES = 100


@pytest.mark.parametrize("size", decades(1, FILLS))
def bench_fills(benchmark: Benchmark, size: int) -> None:
    """A market order that takes ``size`` resting orders, ten of which share a price."""
    engine, sequences = Engine(), count(1)

    def fill() -> list[Order]:
        """Takers that take the whole book, one after the other."""
        assert not engine.books, "those before have taken everything"
        for number in range(FILLS):
            price = BASE_PRICE + number * PRICES // FILLS
            engine.rest(limit_order("TEST", Side.ASK, price, LOT, next(sequences)))
        return [market_order("TEST", size * LOT, next(sequences)) for _ in range(FILLS // size)]

    def take(takers: list[Order]) -> None:
        for taker in takers:
            engine.submit(taker)

    def check(takers: list[Order]) -> None:
        engine.check()
        assert not engine.open_count
        prices = [trade.price for taker in takers for trade in taker.trades]
        assert len(prices) == FILLS
        assert prices == sorted(prices), "best first"
        assert all(taker.close_reason is CloseReason.FILLED for taker in takers)

    name(benchmark, "fills", "", size)
    with as_in_service():
        measure(benchmark, fill, take, check, rounds=ROUNDS, operations=FILLS // size)


def market_order(symbol: str, quantity: int, sequence: int) -> Order:
    """An order to buy at any price."""
    asked = NewOrder("1", Side.BID, OrderType.MARKET, symbol, None, quantity, None)
    return asked.accepted(
        order_id=order_id(sequence), sequence=sequence, broker_id=2, now_us=NOW_US
    )
