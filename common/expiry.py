"""When orders end: a timing wheel with one far and one near part.

An order due later lies in the bucket of its second, a dict, so that adding and removing it costs
O(1) however many orders rest. Only when its second begins are the orders of that bucket put into
a heap, which gives them back at their exact microsecond. Nothing ever walks the book.
"""

import heapq
from collections.abc import Sequence

from sortedcontainers import SortedDict

from common.model import Order

_BUCKET_US = 1_000_000
_NEVER_US = 1 << 63


class ExpiryWheel:
    """Open orders by the instant at which they end."""

    def __init__(self) -> None:
        self._far: SortedDict[int, dict[int, Order]] = SortedDict()
        self._near: list[tuple[int, int, Order]] = []
        self._near_until_bucket = -1
        self._next_due_us = _NEVER_US

    def add(self, order: Order) -> None:
        """Remember when the order ends. O(1), O(log seconds) for the first of its second."""
        due_us = due(order)
        bucket = due_us // _BUCKET_US
        if bucket <= self._near_until_bucket:
            heapq.heappush(self._near, (due_us, order.sequence, order))
        elif bucket in self._far:
            self._far[bucket][order.id] = order
        else:
            self._far[bucket] = {order.id: order}
        self._next_due_us = min(self._next_due_us, due_us)

    def discard(self, order: Order) -> None:
        """Forget an order that was closed. O(1); one that ends this second is forgotten then."""
        bucket = due(order) // _BUCKET_US
        orders = self._far.get(bucket)
        if orders is not None and orders.pop(order.id, None) and not orders:
            del self._far[bucket]

    def pop_due(self, now_us: int) -> Sequence[Order]:
        """Open orders that have ended by ``now_us``, first ended first. O(orders given back)."""
        if now_us < self._next_due_us:
            return ()
        while self._far and self._far.keys()[0] <= now_us // _BUCKET_US:
            self._near_until_bucket, orders = self._far.popitem(0)
            for order in orders.values():
                heapq.heappush(self._near, (due(order), order.sequence, order))
        ended = []
        while self._near and self._near[0][0] <= now_us:
            order = heapq.heappop(self._near)[2]
            if order.is_open:
                ended.append(order)
        self._next_due_us = self._first_due_us()
        return ended

    def _first_due_us(self) -> int:
        """Not later than the end of the next order that ends."""
        if self._near:
            return self._near[0][0]
        return self._far.keys()[0] * _BUCKET_US if self._far else _NEVER_US


def due(order: Order) -> int:
    """The instant at which a resting order ends; only orders with an end rest."""
    if order.valid_until_us is None:
        raise ValueError("an order without an end never rests")
    return order.valid_until_us
