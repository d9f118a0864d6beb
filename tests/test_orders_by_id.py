"""Orders by their ids: a mapping like any other, in many parts."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from bench.micro.books import limit_order
from common.ids import Clock
from common.model import Order, Side
from common.orders import PARTS, OrdersById

SEQUENCES = count(1)
ORDERS = [limit_order("TEST", Side.BID, 10, 5, next(SEQUENCES)) for _ in range(20)]


@PROPERTY
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(ORDERS)), max_size=60))
def test_it_holds_what_a_dict_would_hold(steps: list[tuple[bool, Order]]) -> None:
    orders, plain = OrdersById(), dict[int, Order]()
    for adds, order in steps:
        if adds:
            orders[order.id] = plain[order.id] = order
        else:
            assert orders.pop(order.id, None) is plain.pop(order.id, None)
        assert orders.get(order.id) is plain.get(order.id)
        assert (order.id in orders) is (order.id in plain)
        assert len(orders) == len(plain)
    assert orders == plain
    assert set(orders) == set(plain)
    orders.clear()
    assert not orders


def test_the_ids_of_a_service_fill_all_parts_alike() -> None:
    clock = Clock()
    sizes = [0] * PARTS
    for _ in range(100 * PARTS):
        sizes[clock.new_id() % PARTS] += 1
    # A binomial count: 100 with a deviation of 10, so six deviations leave one run of a million.
    assert min(sizes) > 40
    assert max(sizes) < 170
