"""When orders end: a timing wheel with one far and one near part, asked for one symbol at a time.

An order due later lies in the bucket of its second and symbol, so that adding and removing it costs
O(1) however many orders rest. When a second begins, its buckets become near as they are; only when
somebody asks for a symbol are its orders put into that symbol's heap, which gives them back at
their exact microsecond. So orders that all end at the close of a day keep nobody waiting who asks
for another symbol, and nothing ever walks the book.
"""

import heapq
from collections.abc import Iterable, Sequence
from itertools import islice

from common.model import Order

_BUCKET_US = 1_000_000

# Most buckets hold a single order, which needs no dict; several lie there by their ids.
_Bucket = Order | dict[int, Order]
# When to look at it, a number that no other one of that instant and symbol has, and what it is.
_Near = tuple[int, int, _Bucket]


class ExpiryWheel:
    """Open orders by the instant at which they end."""

    def __init__(self) -> None:
        self._far: dict[int, dict[str, _Bucket]] = {}
        self._near_until_second = -1
        # For who cannot spare a call: before this instant, and for a symbol that is not near or
        # whose first instant is later, ``pop_due`` gives nothing back.
        self.next_second_us = 0
        self.near: dict[str, list[_Near]] = {}

    def add(self, order: Order) -> None:
        """Remember when the order ends. O(1)."""
        due_us = order.valid_until_us
        assert due_us is not None, "an order without an end never rests"
        second = due_us // _BUCKET_US
        if second <= self._near_until_second:
            self._push(order.symbol, (due_us, order.sequence, order))
            return
        buckets = self._far.get(second)
        if buckets is None:
            self._far[second] = {order.symbol: order}
            return
        bucket = buckets.get(order.symbol)
        if bucket is None:
            buckets[order.symbol] = order
        elif isinstance(bucket, Order):
            buckets[order.symbol] = {bucket.id: bucket, order.id: order}
        else:
            bucket[order.id] = order

    def discard(self, order: Order) -> None:
        """Forget an order that was closed. O(1); one whose second has begun is forgotten when it
        ends."""
        due_us = order.valid_until_us
        assert due_us is not None, "an order without an end never rests"
        buckets = self._far.get(due_us // _BUCKET_US)
        if buckets is None:
            return
        bucket = buckets.get(order.symbol)
        if bucket is not order:
            if not isinstance(bucket, dict):
                return
            bucket.pop(order.id, None)
            if bucket:
                return
        del buckets[order.symbol]
        if not buckets:
            del self._far[due_us // _BUCKET_US]

    def pop_due(self, symbol: str, now_us: int) -> Sequence[Order]:
        """Open orders of a symbol that have ended by ``now_us``, first ended first.

        O(orders given back), and once a second O(symbols of the buckets that begin).
        """
        if now_us >= self.next_second_us:
            self._bring_near(now_us // _BUCKET_US)
        near = self.near.get(symbol)
        if near is None or near[0][0] > now_us:
            return ()
        ended = []
        while near and near[0][0] <= now_us:
            bucket = heapq.heappop(near)[2]
            if isinstance(bucket, dict):
                orders = [(due(order), order.sequence, order) for order in bucket.values()]
                if len(orders) > len(near):
                    # As a list that is sorted they are a heap, and those of one instant are sorted.
                    near += orders
                    near.sort()
                else:  # many seconds have begun; sorting them again for each would be quadratic
                    for item in orders:
                        heapq.heappush(near, item)
            elif bucket.close_reason is None:
                ended.append(bucket)
        if not near:
            del self.near[symbol]
        return ended

    def symbols_due(self, now_us: int, at_most: int) -> list[tuple[str, int]]:
        """For which symbols ``pop_due`` may give something back, and how many orders each of them
        has it look at, or more. O(symbols that are near)."""
        if now_us >= self.next_second_us:
            self._bring_near(now_us // _BUCKET_US)
        symbols = (symbol for symbol, near in self.near.items() if near[0][0] <= now_us)
        return [(symbol, _size(self.near[symbol][0][2])) for symbol in islice(symbols, at_most)]

    def _bring_near(self, second: int) -> None:
        """Let all seconds up to this one begin."""
        begun: Iterable[int] = range(self._near_until_second + 1, second + 1)
        if second - self._near_until_second > len(self._far):  # a gap, as at the start
            begun = [each for each in self._far if each <= second]
        for each in begun:
            for symbol, bucket in self._far.pop(each, {}).items():
                if isinstance(bucket, dict):
                    self._push(symbol, (each * _BUCKET_US, -1, bucket))
                else:
                    self._push(symbol, (due(bucket), bucket.sequence, bucket))
        self._near_until_second = second
        self.next_second_us = (second + 1) * _BUCKET_US

    def _push(self, symbol: str, near: _Near) -> None:
        known = self.near.get(symbol)
        if known is None:
            self.near[symbol] = [near]
        else:
            heapq.heappush(known, near)


def _size(bucket: _Bucket) -> int:
    return len(bucket) if isinstance(bucket, dict) else 1


def due(order: Order) -> int:
    """The instant at which a resting order ends; only orders with an end rest."""
    if order.valid_until_us is None:
        raise ValueError("an order without an end never rests")
    return order.valid_until_us
