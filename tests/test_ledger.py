"""The ledger: balances, prices, listings, and what leaves memory when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from common.ledger import Ledger
from common.matching import close
from common.model import (
    AVERAGE_TRADES_MAX,
    CloseReason,
    NewOrder,
    Order,
    OrderQuery,
    OrderType,
    Price,
    Side,
    Trade,
)
from common.views import matches

NOW_US = 1_700_000_000_000_000
ID_END = 1 << 128
AGE_MAX_US = 1000


def ledger_of(closed_count_max: int = 1_000_000) -> Ledger:
    return Ledger(closed_age_max_us=AGE_MAX_US, closed_count_max=closed_count_max)


def order(number: int, *, broker_id: int = 1, symbol: str = "ABC") -> Order:
    asked = NewOrder("1", Side.BID, OrderType.LIMIT, symbol, 10, 5, NOW_US + 1)
    return asked.accepted(order_id=number, sequence=number, broker_id=broker_id, now_us=NOW_US)


def trade(
    price: int, *, symbol: str = "ABC", quantity: int = 1, taker_side: Side = Side.BID
) -> Trade:
    return Trade(
        id=1,
        sequence=1,
        symbol=symbol,
        price=price,
        quantity=quantity,
        taker_side=taker_side,
        maker_order_id=1,
        taker_order_id=2,
        maker_broker_id=1,
        taker_broker_id=2,
        executed_at_us=NOW_US,
    )


def end(ledger: Ledger, item: Order, closed_at_us: int = NOW_US) -> None:
    close(item, CloseReason.CANCELLED, closed_at_us)
    ledger.closed(item)


def filled(ledger: Ledger, numbers: range) -> list[Order]:
    """Orders that are kept, closed and saved, the n-th closed at NOW_US + n."""
    orders = [order(number) for number in numbers]
    for item in orders:
        ledger.add(item)
        end(ledger, item, NOW_US + item.id)
    ledger.saved(orders)
    return orders


def listed(
    ledger: Ledger,
    *,
    broker_id: int = 1,
    status: str | None = None,
    symbol: str | None = None,
    before_id: int = ID_END,
    now_us: int = NOW_US,
) -> list[int]:
    """The ids that a listing shows, as an exchange reads it."""
    query = OrderQuery(status, symbol, 500, before_id)  # type: ignore[arg-type]
    orders, until_id = ledger.page(broker_id, query, now_us)
    assert until_id == 0
    return [item.id for item in orders]


# ---- balances ----


@pytest.mark.parametrize(("taker_side", "maker_cash"), [(Side.BID, 60), (Side.ASK, -60)])
def test_cash_goes_from_the_buyer_to_the_seller(taker_side: Side, maker_cash: int) -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(10, quantity=6, taker_side=taker_side)])
    assert dict(ledger.balances) == {1: maker_cash, 2: -maker_cash}
    assert ledger.trade_count == 1


def test_a_balance_has_no_bound() -> None:
    ledger = ledger_of()
    for number in range(1, 21):
        ledger.record(order(number), [trade(10**9, quantity=10**9)])
    assert ledger.balances[1] == 20 * 10**18 > 1 << 64


def test_trading_with_oneself_changes_no_balance() -> None:
    ledger = ledger_of()
    own = Trade(1, 1, "ABC", 10, 6, Side.BID, 1, 2, 7, 7, NOW_US)
    ledger.record(order(1), [own])
    assert ledger.balances[7] == 0


# ---- prices ----


def test_there_is_no_price_before_the_first_trade() -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(10, symbol="XYZ")])
    assert ledger.price("ABC", 1) is None


def test_the_average_is_of_the_last_trades_and_rounded_down() -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(1), trade(10), trade(11), trade(11)])
    assert ledger.price("ABC", 3) == Price("ABC", 11, 10, 3)


def test_the_average_counts_trades_and_not_shares() -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(10, quantity=1000), trade(20)])
    assert ledger.price("ABC", 2) == Price("ABC", 20, 15, 2)


def test_the_average_of_more_trades_than_there_are_says_of_how_many_it_is() -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(10), trade(20)])
    assert ledger.price("ABC", 1000) == Price("ABC", 20, 15, 2)


def test_a_thousand_prices_are_kept() -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(price) for price in range(1, AVERAGE_TRADES_MAX + 2)])
    mean = sum(range(2, AVERAGE_TRADES_MAX + 2)) // AVERAGE_TRADES_MAX
    expected = Price("ABC", AVERAGE_TRADES_MAX + 1, mean, AVERAGE_TRADES_MAX)
    assert ledger.price("ABC", AVERAGE_TRADES_MAX) == expected
    assert ledger.price("ABC", 2 * AVERAGE_TRADES_MAX) == expected
    assert ledger.trade_count == AVERAGE_TRADES_MAX + 1


@PROPERTY
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.integers(1, 40))
def test_the_average_is_the_floor_of_the_mean(prices: list[int], trades: int) -> None:
    ledger = ledger_of()
    ledger.record(order(1), [trade(price) for price in prices])
    last = prices[-trades:]
    expected = Price("ABC", prices[-1], sum(last) // len(last), len(last))
    assert ledger.price("ABC", trades) == expected


# ---- listings ----


def test_orders_are_listed_newest_first() -> None:
    ledger = ledger_of()
    for number in (1, 2, 3):
        ledger.add(order(number))
    assert listed(ledger) == [3, 2, 1]


def test_a_broker_sees_its_own_orders_only() -> None:
    ledger = ledger_of()
    ledger.add(order(1, broker_id=1))
    ledger.add(order(2, broker_id=2))
    assert listed(ledger, broker_id=2) == [2]
    assert listed(ledger, broker_id=3) == []


@pytest.mark.parametrize("status", [None, "open", "closed"])
def test_a_page_begins_below_the_cursor(status: str | None) -> None:
    ledger = ledger_of()
    orders = [order(number) for number in range(1, 9)]
    for item in orders:
        ledger.add(item)
        if item.id % 2:
            end(ledger, item)
    expected = {None: [5, 4, 3, 2, 1], "open": [4, 2], "closed": [5, 3, 1]}[status]
    assert listed(ledger, status=status, before_id=6) == expected
    assert listed(ledger, status=status, before_id=1) == []


def test_a_cursor_needs_not_be_an_id_of_the_broker() -> None:
    ledger = ledger_of()
    for number in (10, 20, 30):
        ledger.add(order(number))
    assert listed(ledger, before_id=25) == listed(ledger, before_id=21) == [20, 10]


@pytest.mark.parametrize("status", [None, "open", "closed"])
@pytest.mark.parametrize("symbol", [None, "ABC"])
@pytest.mark.parametrize("limit", [1, 3])
def test_pages_that_each_look_at_few_orders_show_all_that_match_once(
    monkeypatch: pytest.MonkeyPatch, status: str | None, symbol: str | None, limit: int
) -> None:
    monkeypatch.setattr("common.ledger.LOOKED_AT_MAX", 4)
    ledger = ledger_of()
    orders = [order(n, symbol="XYZ" if n % 3 else "ABC") for n in range(1, 31)]
    for item in orders:
        ledger.add(item)
        if item.id % 4 == 0 or item.id > 22:
            end(ledger, item)
    shown: list[int] = []
    before_id = ID_END
    while before_id:
        query = OrderQuery(status, symbol, limit, before_id)  # type: ignore[arg-type]
        found, until_id = ledger.page(1, query, NOW_US)
        ids = [item.id for item in found][:limit]
        shown += ids
        before_id = ids[-1] if len(found) > limit else until_id
    everything = OrderQuery(status, symbol, 500, ID_END)  # type: ignore[arg-type]
    assert shown == [item.id for item in reversed(orders) if matches(item, everything, NOW_US)]


def test_a_listing_can_be_of_one_symbol() -> None:
    ledger = ledger_of()
    for number, symbol in enumerate(("ABC", "XYZ", "ABC"), start=1):
        ledger.add(order(number, symbol=symbol))
    assert listed(ledger, symbol="ABC") == [3, 1]
    assert listed(ledger, symbol="ABC", status="open") == [3, 1]


def test_an_order_is_listed_as_closed_from_its_end_on_though_nobody_has_noticed() -> None:
    ledger = ledger_of()
    item = order(1)
    ledger.add(item)
    assert item.valid_until_us is not None
    for late_us, status in ((-1, "open"), (0, "closed"), (1, "closed")):
        for asked in ("open", "closed"):
            expected = [1] if asked == status else []
            assert listed(ledger, status=asked, now_us=item.valid_until_us + late_us) == expected
    assert item.is_open


def test_an_order_that_closed_at_once_is_never_listed_as_open() -> None:
    ledger = ledger_of()
    item = order(1)
    close(item, CloseReason.FILLED, NOW_US)
    ledger.record(item, [])
    assert listed(ledger, status="open") == []
    assert listed(ledger, status="closed") == [1]


def test_a_maker_that_was_filled_is_no_longer_open_and_one_with_a_rest_is() -> None:
    ledger = ledger_of()
    full, part = order(1), order(2)
    for maker in (full, part):
        ledger.add(maker)
    close(full, CloseReason.FILLED, NOW_US)
    ledger.record(order(3, broker_id=2), [], [full, part])
    assert listed(ledger, status="open") == [2]


# ---- what leaves memory ----


def test_a_closed_order_leaves_when_it_is_older_than_the_bound() -> None:
    ledger = ledger_of()
    filled(ledger, range(1, 4))
    assert ledger.evict(NOW_US + AGE_MAX_US + 2) == 1
    assert set(ledger.orders) == {2, 3}
    assert ledger.evict(NOW_US + AGE_MAX_US + 4) == 2
    assert not ledger.orders


def test_the_oldest_closed_orders_leave_when_there_are_too_many() -> None:
    ledger = ledger_of(closed_count_max=2)
    filled(ledger, range(1, 6))
    assert ledger.evict(NOW_US) == 3
    assert set(ledger.orders) == {4, 5}
    assert ledger.evict(NOW_US) == 0


def test_of_very_many_that_may_leave_some_leave_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.ledger.EVICTED_MAX", 2)
    ledger = ledger_of(closed_count_max=0)
    filled(ledger, range(1, 6))
    assert [ledger.evict(NOW_US) for _ in range(4)] == [2, 2, 1, 0]


def test_an_open_order_never_leaves() -> None:
    ledger = ledger_of(closed_count_max=0)
    item = order(1)
    ledger.add(item)
    ledger.saved([item])
    assert ledger.evict(NOW_US + 10**12) == 0
    assert listed(ledger) == [1]


def test_a_closed_order_that_is_not_saved_never_leaves() -> None:
    ledger = ledger_of(closed_count_max=0)
    item = order(1)
    ledger.add(item)
    end(ledger, item)
    assert ledger.evict(NOW_US + 10**12) == 0
    assert listed(ledger, status="closed") == [1]


def test_the_greatest_id_that_left_is_remembered() -> None:
    ledger = ledger_of(closed_count_max=0)
    orders = [order(number) for number in (1, 2, 3)]
    for item in orders:
        ledger.add(item)
    assert ledger.evicted_until_id == 0
    for item, greatest in ((orders[1], 2), (orders[0], 2), (orders[2], 3)):
        end(ledger, item)
        ledger.saved([item])
        ledger.evict(NOW_US)
        assert ledger.evicted_until_id == greatest


def test_a_listing_skips_what_has_left() -> None:
    ledger = ledger_of()
    filled(ledger, range(1, 4))
    ledger.add(order(4))
    ledger.evict(NOW_US + AGE_MAX_US + 2)
    assert listed(ledger) == [4, 3, 2]
    assert listed(ledger, before_id=3) == [2]


def test_eviction_keeps_balances_and_prices() -> None:
    ledger = ledger_of(closed_count_max=0)
    item = order(1)
    close(item, CloseReason.FILLED, NOW_US)
    ledger.record(item, [trade(10)])
    ledger.saved([item])
    ledger.evict(NOW_US)
    assert ledger.balances[1] == 10
    assert ledger.price("ABC", 1) == Price("ABC", 10, 10, 1)
    assert ledger.trade_count == 1


def test_what_has_left_takes_no_more_room_than_what_is_kept() -> None:
    ledger = ledger_of(closed_count_max=10)
    for number in range(1, 1001):
        filled(ledger, range(number, number + 1))
        ledger.evict(NOW_US)
        assert len(ledger._histories[1].ids) <= 2 * len(ledger.orders) + 1
    assert listed(ledger) == list(range(1000, 990, -1))


def test_a_cleared_ledger_knows_nothing() -> None:
    ledger = ledger_of(closed_count_max=1)
    filled(ledger, range(1, 4))
    ledger.evict(NOW_US)
    ledger.record(order(4), [trade(10)])
    ledger.clear()
    assert listed(ledger) == []
    assert ledger.price("ABC", 1) is None
    assert (ledger.balances, ledger.trade_count, ledger.evicted_until_id) == ({}, 0, 0)
    assert ledger.evict(NOW_US + 10**12) == 0


steps = st.lists(
    st.tuples(st.sampled_from(["add", "close", "save", "evict"]), st.integers(0, 100)), max_size=60
)


@PROPERTY
@given(steps, st.integers(0, 5))
def test_listings_agree_with_a_plain_list(steps: list[tuple[str, int]], count_max: int) -> None:
    ledger, kept, saved, now_us = ledger_of(count_max), list[Order](), list[Order](), NOW_US
    unsaved = dict[int, Order]()
    for number, (step, choice) in enumerate(steps, start=1):
        still_open = [item for item in kept if item.is_open]
        if step == "add":
            kept.append(order(number, broker_id=1 + choice % 2, symbol="AX"[choice % 3 == 0]))
            ledger.add(kept[-1])
        elif step == "close" and still_open:
            item = still_open[choice % len(still_open)]
            end(ledger, item, now_us)
            unsaved[item.id] = item
        elif step == "save":
            ledger.saved(unsaved.values())
            saved.extend(unsaved.values())
            unsaved.clear()
        elif step == "evict":
            now_us += choice * AGE_MAX_US // 50
            before = len(kept)
            while saved and (
                len(saved) > count_max or (saved[0].closed_at_us or 0) < now_us - AGE_MAX_US
            ):
                kept.remove(saved.pop(0))
            assert ledger.evict(now_us) == before - len(kept)
        for status in (None, "open", "closed"):
            query = OrderQuery(status, None, 500, ID_END)
            for broker_id in (1, 2):
                own = [item for item in reversed(kept) if item.broker_id == broker_id]
                expected = [item.id for item in own if matches(item, query, NOW_US)]
                assert listed(ledger, broker_id=broker_id, status=status) == expected
