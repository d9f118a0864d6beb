"""The matching rule, point by point, and against the reference."""

from collections.abc import Iterable, Iterator
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY
from msgspec.structs import asdict
from reference import ReferenceExchange

from common.book import Book
from common.engine import Engine
from common.matching import Fill, accepts, close, cross, execute, price_of
from common.model import CloseReason, NewOrder, Order, OrderType, Side, TimeInForce, Trade

NOW_US = 1_700_000_000_000_000
END_US = NOW_US + 60_000_000
BID, ASK = Side.BID, Side.ASK


def new_order(
    side: Side, quantity: int, price: int | None, *, symbol: str = "ABC", end_us: int = END_US
) -> NewOrder:
    """A limit order, or a market order when there is no price."""
    order_type = OrderType.LIMIT if price else OrderType.MARKET
    return NewOrder("1", side, order_type, symbol, price, quantity, end_us if price else None)


def accepted(asked: NewOrder, sequence: int) -> Order:
    return asked.accepted(
        order_id=sequence << 32, sequence=sequence, broker_id=sequence % 3, now_us=NOW_US
    )


def order(side: Side, quantity: int, price: int | None, *, sequence: int = 1) -> Order:
    return accepted(new_order(side, quantity, price), sequence)


def taker(side: Side, quantity: int, price: int | None) -> Order:
    return order(side, quantity, price, sequence=99)


def by_priority(makers: Iterable[Order], side: Side) -> list[Order]:
    sign = -1 if side is BID else 1
    return sorted(makers, key=lambda maker: (sign * price_of(maker), maker.sequence))


def other(side: Side) -> Side:
    return ASK if side is BID else BID


# ---- 1: price-time priority ----


@pytest.mark.parametrize(("side", "best_first"), [(BID, [10, 11, 12]), (ASK, [12, 11, 10])])
def test_the_best_price_trades_first(side: Side, best_first: list[int]) -> None:
    engine = Engine()
    for sequence, price in enumerate((11, 12, 10), start=1):
        engine.submit(order(other(side), 1, price, sequence=sequence))
    trades = engine.submit(taker(side, 3, None)).trades
    assert [trade.price for trade in trades] == best_first


@pytest.mark.parametrize("side", Side)
def test_at_one_price_the_order_accepted_first_trades_first(side: Side) -> None:
    engine = Engine()
    for sequence in (1, 2, 3):
        engine.submit(order(other(side), 1, 10, sequence=sequence))
    makers = engine.submit(taker(side, 3, 10)).makers
    assert [maker.sequence for maker in makers] == [1, 2, 3]


def test_a_larger_order_does_not_overtake_an_earlier_one() -> None:
    first, second = order(ASK, 1, 10, sequence=1), order(ASK, 1000, 10, sequence=2)
    assert cross(taker(BID, 2, 10), [first, second]) == [Fill(first, 1), Fill(second, 1)]


# ---- 2: the price of the resting order ----


@pytest.mark.parametrize(("side", "limit"), [(BID, 15), (BID, None), (ASK, 5), (ASK, None)])
def test_a_trade_executes_at_the_price_of_the_resting_order(side: Side, limit: int | None) -> None:
    maker, incoming = order(other(side), 1, 10), taker(side, 1, limit)
    assert [trade.price for trade in execute(incoming, cross(incoming, [maker]))] == [10]


@pytest.mark.parametrize(
    ("side", "limit", "price", "trades"),
    [
        (BID, 10, 9, True),
        (BID, 10, 10, True),
        (BID, 10, 11, False),
        (ASK, 10, 9, False),
        (ASK, 10, 10, True),
        (ASK, 10, 11, True),
        (BID, None, 10**9, True),
        (ASK, None, 1, True),
    ],
)
def test_a_taker_never_trades_through_its_limit(
    side: Side, limit: int | None, price: int, trades: bool
) -> None:
    incoming = taker(side, 1, limit)
    assert accepts(incoming, price) is trades
    assert bool(cross(incoming, [order(other(side), 1, price)])) is trades


# ---- 3: limit orders rest until their end ----


def test_a_limit_order_that_finds_nobody_stays_open() -> None:
    incoming = taker(BID, 5, 10)
    assert execute(incoming, cross(incoming, [])) == []
    assert incoming.is_open
    assert incoming.remaining_quantity == 5


def test_a_limit_order_rests_with_what_is_left() -> None:
    engine = Engine()
    engine.submit(order(ASK, 2, 10))
    incoming = taker(BID, 5, 10)
    engine.submit(incoming)
    assert list(engine.books["ABC"].bids.orders()) == [incoming]
    assert incoming.remaining_quantity == 3


@pytest.mark.parametrize(("late_us", "trades"), [(-1, 1), (0, 0), (1, 0)])
def test_from_its_end_on_an_order_never_trades(late_us: int, trades: int) -> None:
    engine = Engine()
    maker = order(ASK, 1, 10)
    engine.submit(maker)
    incoming = taker(BID, 1, None)
    incoming.created_at_us = END_US + late_us
    engine.expire("ABC", incoming.created_at_us)
    assert len(engine.submit(incoming).trades) == trades
    assert maker.close_reason is (CloseReason.FILLED if trades else CloseReason.EXPIRED)


@pytest.mark.parametrize("late_us", [0, 1])
def test_a_taker_whose_own_end_has_come_meets_nobody(late_us: int) -> None:
    incoming = taker(BID, 1, 10)
    incoming.created_at_us = END_US + late_us
    fills = cross(incoming, [order(ASK, 1, 10)])
    assert fills == []
    execute(incoming, fills)
    assert (incoming.close_reason, incoming.closed_at_us) == (CloseReason.EXPIRED, END_US)


# ---- 4: market orders never rest ----


@pytest.mark.parametrize("side", Side)
def test_what_a_market_order_does_not_find_is_closed_as_unfilled(side: Side) -> None:
    maker, incoming = order(other(side), 2, 10), taker(side, 5, None)
    execute(incoming, cross(incoming, [maker]))
    assert incoming.close_reason is CloseReason.UNFILLED
    assert incoming.closed_at_us == incoming.created_at_us
    assert incoming.remaining_quantity == 3


def test_a_market_order_on_an_empty_book_closes_and_leaves_no_book() -> None:
    engine = Engine()
    incoming = taker(BID, 5, None)
    engine.submit(incoming)
    assert incoming.close_reason is CloseReason.UNFILLED
    assert not engine.books


def test_a_market_order_that_finds_all_is_closed_as_filled() -> None:
    incoming = taker(BID, 2, None)
    execute(incoming, cross(incoming, [order(ASK, 2, 10)]))
    assert incoming.close_reason is CloseReason.FILLED


def test_whether_an_order_rests_is_said_by_its_time_in_force() -> None:
    incoming = taker(BID, 5, 10)
    incoming.time_in_force = TimeInForce.IMMEDIATE_OR_CANCEL
    execute(incoming, cross(incoming, [order(ASK, 2, 10)]))
    assert incoming.close_reason is CloseReason.UNFILLED


# ---- 5: partial fills ----


def test_a_partial_fill_leaves_the_rest_on_both_sides() -> None:
    small, large = order(ASK, 2, 10, sequence=1), order(ASK, 9, 10, sequence=2)
    incoming = taker(BID, 5, 10)
    execute(incoming, cross(incoming, [small, large]))
    assert (small.remaining_quantity, large.remaining_quantity) == (0, 6)
    assert (small.close_reason, large.close_reason) == (CloseReason.FILLED, None)
    assert incoming.close_reason is CloseReason.FILLED


def test_a_partial_fill_keeps_its_place() -> None:
    engine = Engine()
    first, second = order(ASK, 5, 10, sequence=1), order(ASK, 5, 10, sequence=2)
    engine.submit(first)
    engine.submit(second)
    engine.submit(order(BID, 2, 10, sequence=3))
    assert engine.submit(taker(BID, 4, 10)).makers == [first, second]
    assert (first.remaining_quantity, second.remaining_quantity) == (0, 4)


# ---- 6: cancelled orders ----


def test_a_cancelled_order_never_trades() -> None:
    engine = Engine()
    maker = order(ASK, 1, 10)
    engine.submit(maker)
    engine.cancel(maker, NOW_US + 1)
    assert not engine.submit(taker(BID, 1, 10)).trades
    assert (maker.close_reason, maker.closed_at_us) == (CloseReason.CANCELLED, NOW_US + 1)


# ---- 7: one sequence, the same trades ----


def test_the_trade_says_who_met_whom_and_when() -> None:
    maker, incoming = order(ASK, 3, 10, sequence=4), taker(BID, 2, 12)
    trades = execute(incoming, cross(incoming, [maker]))
    expected = Trade(
        id=incoming.id + 1,
        sequence=99,
        symbol="ABC",
        price=10,
        quantity=2,
        taker_side=BID,
        maker_order_id=maker.id,
        taker_order_id=incoming.id,
        maker_broker_id=maker.broker_id,
        taker_broker_id=incoming.broker_id,
        executed_at_us=NOW_US,
    )
    assert trades == maker.trades == incoming.trades == [expected]
    assert (expected.buyer_id, expected.seller_id) == (incoming.broker_id, maker.broker_id)


def test_the_buyer_is_the_maker_when_the_taker_sells() -> None:
    maker, incoming = order(BID, 1, 10), taker(ASK, 1, 10)
    [trade] = execute(incoming, cross(incoming, [maker]))
    assert (trade.buyer_id, trade.seller_id) == (maker.broker_id, incoming.broker_id)


# ---- 8: nothing is created or destroyed ----


def test_a_symbol_trades_with_itself_only() -> None:
    engine = Engine()
    engine.submit(accepted(new_order(ASK, 1, 10, symbol="XYZ"), 1))
    assert not engine.submit(taker(BID, 1, 10)).trades


def test_an_order_without_a_price_has_no_place_in_a_book() -> None:
    with pytest.raises(AssertionError, match="never rests"):
        Book().bids.insert(taker(BID, 1, None))


# ---- properties ----

makers_of_one_side = st.lists(
    st.tuples(st.integers(1, 20), st.integers(8, 12)), min_size=0, max_size=12
)
limits = st.none() | st.integers(8, 12)


def makers_and_taker(
    side: Side, sizes: list[tuple[int, int]], quantity: int, limit: int | None
) -> tuple[list[Order], Order]:
    makers = [
        order(other(side), size, price, sequence=sequence)
        for sequence, (size, price) in enumerate(sizes, start=1)
    ]
    return by_priority(makers, other(side)), taker(side, quantity, limit)


@PROPERTY
@given(st.sampled_from(Side), makers_of_one_side, st.integers(1, 100), limits)
def test_cross_changes_nothing(
    side: Side, sizes: list[tuple[int, int]], quantity: int, limit: int | None
) -> None:
    makers, incoming = makers_and_taker(side, sizes, quantity, limit)
    before = deepcopy([asdict(item) for item in (*makers, incoming)])
    fills = cross(incoming, makers)
    assert [asdict(item) for item in (*makers, incoming)] == before
    assert cross(incoming, makers) == fills


@PROPERTY
@given(st.sampled_from(Side), makers_of_one_side, st.integers(1, 100), limits)
def test_cross_reads_no_more_makers_than_the_fills_and_one(
    side: Side, sizes: list[tuple[int, int]], quantity: int, limit: int | None
) -> None:
    makers, incoming = makers_and_taker(side, sizes, quantity, limit)
    read: list[Order] = []

    def watched() -> Iterator[Order]:
        for maker in makers:
            read.append(maker)
            yield maker

    assert len(cross(incoming, watched())) <= len(read) <= len(cross(incoming, makers)) + 1


@PROPERTY
@given(st.sampled_from(Side), makers_of_one_side, st.integers(1, 100), limits)
def test_the_fills_are_a_prefix_of_the_makers_and_stop_only_for_a_reason(
    side: Side, sizes: list[tuple[int, int]], quantity: int, limit: int | None
) -> None:
    makers, incoming = makers_and_taker(side, sizes, quantity, limit)
    fills = cross(incoming, makers)
    assert [fill.maker for fill in fills] == makers[: len(fills)]
    assert all(0 < fill.quantity <= fill.maker.remaining_quantity for fill in fills)
    assert all(fill.quantity == fill.maker.remaining_quantity for fill in fills[:-1])
    wanted = quantity - sum(fill.quantity for fill in fills)
    assert wanted >= 0
    if wanted:
        assert not any(accepts(incoming, maker.price) for maker in makers[len(fills) :])


@PROPERTY
@given(st.sampled_from(Side), makers_of_one_side, st.integers(1, 100), limits)
def test_quantities_are_conserved_and_ids_count_the_fills(
    side: Side, sizes: list[tuple[int, int]], quantity: int, limit: int | None
) -> None:
    makers, incoming = makers_and_taker(side, sizes, quantity, limit)
    trades = execute(incoming, cross(incoming, makers))
    assert [trade.id - incoming.id for trade in trades] == list(range(1, len(trades) + 1))
    for item in (*makers, incoming):
        traded = sum(trade.quantity for trade in item.trades)
        assert item.quantity == item.remaining_quantity + traded
        assert (item.close_reason is CloseReason.FILLED) == (item.remaining_quantity == 0)


@PROPERTY
@given(st.sampled_from(Side), makers_of_one_side, st.integers(1, 100), limits)
def test_a_taker_gets_the_trades_of_the_reference(
    side: Side, sizes: list[tuple[int, int]], quantity: int, limit: int | None
) -> None:
    makers, incoming = makers_and_taker(side, sizes, quantity, limit)
    reference = ReferenceExchange()
    for maker in sorted(makers, key=lambda maker: maker.sequence):
        reference.submit(
            new_order(maker.side, maker.quantity, maker.price),
            order_id=maker.id,
            sequence=maker.sequence,
            broker_id=maker.broker_id,
            now_us=NOW_US,
        )
    expected = reference.submit(
        new_order(side, quantity, limit),
        order_id=incoming.id,
        sequence=incoming.sequence,
        broker_id=incoming.broker_id,
        now_us=NOW_US,
    )
    assert execute(incoming, cross(incoming, makers)) == expected
    assert asdict(incoming) == asdict(reference.orders[incoming.id])


def test_closing_says_why_and_when() -> None:
    item = order(BID, 1, 10)
    close(item, CloseReason.CANCELLED, 7)
    assert (item.is_open, item.close_reason, item.closed_at_us) == (
        False,
        CloseReason.CANCELLED,
        7,
    )
