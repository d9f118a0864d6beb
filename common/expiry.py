"""When orders end: a timing wheel with one far and one near part.

An order due later lies in the bucket of its second, a dict, so that adding and removing it costs
O(1) however many orders rest. Only when its second begins are the orders of that bucket put into
a heap, which gives them back at their exact microsecond. As time goes on there is one bucket to
look up each second, so the buckets need no order, and nothing ever walks the book.
"""

import heapq
from collections.abc import Iterable, Sequence

from common.model import Order

_BUCKET_US = 1_000_000


class ExpiryWheel:
    """Open orders by the instant at which they end."""

    def __init__(self) -> None:
        self._far: dict[int, dict[int, Order]] = {}
        self._near: list[tuple[int, int, Order]] = []
        self._near_until_bucket = -1
        self.next_look_us = 0

    def add(self, order: Order) -> None:
        """Remember when the order ends. O(1)."""
        due_us = order.valid_until_us
        assert due_us is not None, "an order without an end never rests"
        bucket = due_us // _BUCKET_US
        if bucket <= self._near_until_bucket:
            heapq.heappush(self._near, (due_us, order.sequence, order))
            self.next_look_us = min(self.next_look_us, due_us)
            return
        orders = self._far.get(bucket)
        if orders is None:
            self._far[bucket] = {order.id: order}
        else:
            orders[order.id] = order

    def discard(self, order: Order) -> None:
        """Forget an order that was closed. O(1); one that ends this second is forgotten then."""
        due_us = order.valid_until_us
        assert due_us is not None, "an order without an end never rests"
        orders = self._far.get(due_us // _BUCKET_US)
        if orders is None:
            return
        orders.pop(order.id, None)
        if not orders:
            del self._far[due_us // _BUCKET_US]

    def pop_due(self, now_us: int) -> Sequence[Order]:
        """Open orders that have ended by ``now_us``, first ended first. O(orders given back).

        There are none before ``next_look_us``, so who is in a hurry looks at that first.
        """
        bucket = now_us // _BUCKET_US
        if bucket > self._near_until_bucket:
            self._bring_near(bucket)
        near, ended = self._near, []
        while near and near[0][0] <= now_us:
            order = heapq.heappop(near)[2]
            if order.close_reason is None:
                ended.append(order)
        # What lies near ends before the next bucket begins.
        self.next_look_us = near[0][0] if near else (self._near_until_bucket + 1) * _BUCKET_US
        return ended

    def _bring_near(self, bucket: int) -> None:
        """Put the orders of all buckets up to this one into the heap."""
        begun: Iterable[int] = range(self._near_until_bucket + 1, bucket + 1)
        if bucket - self._near_until_bucket > len(self._far):  # a gap, as at the start
            begun = [each for each in self._far if each <= bucket]
        for each in begun:
            for order in self._far.pop(each, {}).values():
                heapq.heappush(self._near, (due(order), order.sequence, order))
        self._near_until_bucket = max(self._near_until_bucket, bucket)


def due(order: Order) -> int:
    """The instant at which a resting order ends; only orders with an end rest."""
    if order.valid_until_us is None:
        raise ValueError("an order without an end never rests")
    return order.valid_until_us
