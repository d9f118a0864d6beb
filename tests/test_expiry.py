"""The timing wheel against a list that is sorted again for every question."""

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from common.expiry import ExpiryWheel, due
from common.matching import close
from common.model import CloseReason, NewOrder, Order, OrderType, Side

SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
LATEST_US = 253_402_300_799_999_999  # the end of the year 9999


def order(end_us: int | None, sequence: int = 1, symbol: str = "ABC") -> Order:
    asked = NewOrder("1", Side.BID, OrderType.LIMIT, symbol, 10, 5, end_us)
    return asked.accepted(order_id=sequence << 32, sequence=sequence, broker_id=1, now_us=START_US)


def wheel_of(*orders: Order) -> ExpiryWheel:
    wheel = ExpiryWheel()
    for item in orders:
        wheel.add(item)
    return wheel


def cancel(wheel: ExpiryWheel, item: Order) -> None:
    close(item, CloseReason.CANCELLED, START_US)
    wheel.discard(item)


def no_empty_bucket(wheel: ExpiryWheel) -> bool:
    return all(buckets and all(buckets.values()) for buckets in wheel._far.values())


def test_an_empty_wheel_gives_nothing_back() -> None:
    assert list(ExpiryWheel().pop_due("ABC", LATEST_US)) == []


@pytest.mark.parametrize("offset_us", [-SECOND_US, -1, 0, 1, 999_999, SECOND_US])
def test_an_order_ends_at_its_exact_microsecond(offset_us: int) -> None:
    item = order(START_US + offset_us)
    wheel = wheel_of(item)
    assert list(wheel.pop_due("ABC", START_US + offset_us - 1)) == []
    assert list(wheel.pop_due("ABC", START_US + offset_us)) == [item]


def test_an_order_is_given_back_once() -> None:
    wheel = wheel_of(order(START_US))
    assert len(wheel.pop_due("ABC", START_US)) == 1
    assert list(wheel.pop_due("ABC", LATEST_US)) == []


def test_an_order_added_to_a_second_that_has_begun_is_not_lost() -> None:
    wheel = wheel_of(order(START_US, 1), order(START_US + 500, 2))
    wheel.pop_due("ABC", START_US)
    late = order(START_US + 400, 3)
    wheel.add(late)
    assert [item.sequence for item in wheel.pop_due("ABC", START_US + 500)] == [3, 2]


def test_an_order_added_after_its_end_is_given_back_at_once() -> None:
    wheel = wheel_of(order(START_US, 1))
    wheel.pop_due("ABC", START_US + 10 * SECOND_US)
    item = order(START_US + SECOND_US, 2)
    wheel.add(item)
    assert list(wheel.pop_due("ABC", START_US + 10 * SECOND_US)) == [item]


def test_orders_that_end_together_come_in_the_order_of_their_acceptance() -> None:
    orders = [order(START_US, sequence) for sequence in range(1, 50)]
    shuffled = orders.copy()
    Random(1).shuffle(shuffled)
    assert list(wheel_of(*shuffled).pop_due("ABC", START_US)) == orders


def test_a_discarded_order_never_comes_back() -> None:
    kept, gone = order(START_US, 1), order(START_US, 2)
    wheel = wheel_of(kept, gone)
    cancel(wheel, gone)
    assert list(wheel.pop_due("ABC", START_US)) == [kept]


def test_an_order_discarded_in_the_second_of_its_end_never_comes_back() -> None:
    first, second = order(START_US, 1), order(START_US + 1, 2)
    wheel = wheel_of(first, second)
    wheel.pop_due("ABC", START_US)
    cancel(wheel, second)
    assert list(wheel.pop_due("ABC", LATEST_US)) == []


def test_a_symbol_gives_back_its_own_orders_only() -> None:
    mine, other = order(START_US, 1), order(START_US, 2, "XYZ")
    wheel = wheel_of(mine, other)
    assert wheel.symbols_due(START_US - 1, 2) == []
    assert set(wheel.symbols_due(START_US, 2)) == {("ABC", 1), ("XYZ", 1)}
    assert wheel.symbols_due(START_US, 1) == [("ABC", 1)]
    assert list(wheel.pop_due("ABC", START_US)) == [mine]
    assert wheel.symbols_due(START_US, 2) == [("XYZ", 1)]
    assert list(wheel.pop_due("XYZ", START_US)) == [other]


def test_who_asks_for_a_symbol_does_not_wait_for_the_orders_of_another() -> None:
    orders = [order(START_US + n, n, "XYZ") for n in range(1, 1000)]
    wheel = wheel_of(order(START_US + 500), *orders)
    assert len(wheel.pop_due("ABC", START_US + 999)) == 1
    [untouched] = wheel.near["XYZ"]
    assert untouched[2] == {item.id: item for item in orders}


def test_discarding_the_last_order_of_a_second_leaves_no_empty_bucket() -> None:
    orders = [order(START_US + n * SECOND_US // 2, n) for n in range(1, 100)]
    wheel = wheel_of(*orders)
    for item in orders:
        cancel(wheel, item)
        assert no_empty_bucket(wheel)
    assert not wheel._far


def test_discarding_twice_does_no_harm() -> None:
    kept, gone = order(START_US, 1), order(START_US, 2)
    wheel = wheel_of(kept, gone)
    cancel(wheel, gone)
    cancel(wheel, gone)
    assert list(wheel.pop_due("ABC", START_US)) == [kept]


def test_what_has_ended_is_kept_nowhere() -> None:
    orders = [order(START_US + n, n) for n in range(1, 100)]
    wheel = wheel_of(*orders)
    cancel(wheel, orders[50])
    assert len(wheel.pop_due("ABC", START_US + SECOND_US)) == 98
    assert not wheel._far
    assert not wheel.near


def test_orders_of_very_many_seconds_that_end_together_take_no_longer_than_those_of_one() -> None:
    def popped_s(seconds: int) -> float:
        ends = [START_US + n % seconds * SECOND_US for n in range(40_000)]
        wheel = wheel_of(*(order(end_us, n) for n, end_us in enumerate(ends, 1)))
        begin_s = time.process_time()
        ended = wheel.pop_due("ABC", LATEST_US)
        took_s = time.process_time() - begin_s
        assert [due(item) for item in ended] == sorted(ends)
        return took_s

    assert popped_s(20_000) < 10 * popped_s(1)


def test_an_order_without_an_end_has_no_place_in_the_wheel() -> None:
    with pytest.raises(AssertionError, match="never rests"):
        ExpiryWheel().add(order(None))


# ---- property: any sequence of commands ----

instants = st.builds(
    lambda second, offset_us: START_US + second * SECOND_US + offset_us,
    st.integers(-1, 4),
    st.sampled_from([0, 1, 2, 500_000, 999_998, 999_999]),
) | st.just(LATEST_US)
SYMBOLS = ("ABC", "XYZ")
commands = st.one_of(
    st.tuples(st.just("add"), instants, st.sampled_from(SYMBOLS)),
    st.tuples(st.just("discard"), st.integers(0, 30), st.none()),
    st.tuples(st.just("pop"), instants, st.sampled_from(SYMBOLS)),
)
Steps = list[tuple[str, int, str | None]]


def play(steps: Steps, *, time_goes_on: bool) -> None:
    """Every answer of the wheel is that of the sorted list, and nothing is left in the end."""
    wheel, waiting, everything, now_us = ExpiryWheel(), list[Order](), list[Order](), 0
    for command, argument, symbol in [*steps, *(("pop", LATEST_US, each) for each in SYMBOLS)]:
        if command == "add":
            everything.append(order(argument, len(everything) + 1, str(symbol)))
            waiting.append(everything[-1])
            wheel.add(everything[-1])
        elif command == "discard" and waiting:
            cancel(wheel, waiting.pop(argument % len(waiting)))
        elif command == "pop":
            now_us = max(now_us, argument) if time_goes_on else argument
            late = [item for item in waiting if due(item) <= now_us]
            ended = [item for item in late if item.symbol == symbol]
            ended.sort(key=lambda item: (due(item), item.sequence))
            due_now = {name for name, _ in wheel.symbols_due(now_us, len(SYMBOLS))}
            assert {item.symbol for item in late} <= due_now
            waiting = [item for item in waiting if item not in ended]
            assert list(wheel.pop_due(str(symbol), now_us)) == ended
        assert no_empty_bucket(wheel)
    assert not wheel._far
    assert not wheel.near


@PROPERTY
@given(st.lists(commands, max_size=60))
def test_the_wheel_agrees_with_a_sorted_list(steps: Steps) -> None:
    play(steps, time_goes_on=True)


@PROPERTY
@given(st.lists(commands, max_size=60))
def test_the_wheel_agrees_with_a_sorted_list_even_when_time_jumps_back(
    steps: Steps,
) -> None:
    play(steps, time_goes_on=False)
