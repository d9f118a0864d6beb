"""The memory of ids against a list of all orders, for any commands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IdReused, Overloaded
from common.model import NewOrder, Order, OrderType, Side
from common.retries import Retries, replayed

WINDOW_US = 100
COUNT_MAX = 4


def asked(own_id: str | None, quantity: int = 1) -> NewOrder:
    return NewOrder("1", Side.BID, OrderType.LIMIT, "ABC", 10, quantity, 10**15, own_id)


def accepted(new_order: NewOrder, number: int, broker_id: int, now_us: int) -> Order:
    return new_order.accepted(order_id=number, sequence=number, broker_id=broker_id, now_us=now_us)


commands = st.lists(
    st.tuples(
        st.integers(0, 60),  # microseconds since the command before
        st.integers(1, 2),  # broker
        st.sampled_from([None, "a", "b", "c"]),
    ),
    max_size=60,
)


@given(commands)
def test_an_id_names_its_last_order_for_a_window_and_no_more_than_fit(
    given_commands: list[tuple[int, int, str | None]],
) -> None:
    retries = Retries(window_us=WINDOW_US, count_max=COUNT_MAX)
    all_orders: list[Order] = []
    now_us = 1_000
    for number, (later_us, broker_id, own_id) in enumerate(given_commands, 1):
        now_us += later_us
        recent = [
            order
            for order in all_orders
            if order.client_order_id is not None and order.created_at_us > now_us - WINDOW_US
        ]
        expected = [
            order
            for order in recent
            if (order.broker_id, order.client_order_id) == (broker_id, own_id)
        ]
        new_order = asked(own_id)
        own = sum(order.broker_id == broker_id for order in recent)
        if own_id is not None and not expected and own >= COUNT_MAX - len(recent):
            with pytest.raises(Overloaded):
                retries.earlier(broker_id, new_order, now_us)
            continue
        earlier = retries.earlier(broker_id, new_order, now_us)
        assert earlier is (expected[0] if expected else None)
        if earlier is None:
            order = accepted(new_order, number, broker_id, now_us)
            all_orders.append(order)
            retries.add(order)
        assert len(retries) <= COUNT_MAX


@given(st.integers(1, 200), st.integers(1, 5))
def test_one_broker_alone_never_leaves_no_room_to_the_others(count_max: int, others: int) -> None:
    retries = Retries(window_us=WINDOW_US, count_max=count_max)

    def fill(broker_id: int) -> int:
        for number in range(1_000):
            new_order = asked(str(number))
            try:
                retries.earlier(broker_id, new_order, 1_000)
            except Overloaded:
                return number
            retries.add(accepted(new_order, number, broker_id, 1_000))
        raise AssertionError("no end")

    taken = [fill(broker_id) for broker_id in range(1, 2 + others)]
    assert taken[0] == (count_max + 1) // 2
    free = count_max
    for each in taken:
        assert each == (free + 1) // 2
        free -= each


def test_another_order_is_no_replay() -> None:
    order = accepted(asked("a"), 1, 1, 1_000)
    assert replayed(asked("a"), order).remaining_quantity == 1
    with pytest.raises(IdReused, match="client_order_id"):
        replayed(asked("a", quantity=2), order)
