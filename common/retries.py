"""Orders by the ids that their brokers gave them, so that none is placed twice.

A client whose connection died does not know whether its order arrived. It sends the order again
with the same ``client_order_id`` and is told of the one that there is. An id is remembered for a
window from the acceptance of its order; afterwards it may name a new one.
"""

from collections import Counter, OrderedDict

from msgspec import structs

from common.errors import IdReused, Overloaded
from common.ids import format_id
from common.model import NewOrder, Order, Replayed
from common.views import receipt_of


def replayed(new_order: NewOrder, earlier: Order) -> Replayed:
    """The reply to an order that came before. Raises IdReused when it is another one."""
    if not new_order.asks_for(earlier):
        raise IdReused(
            f"client_order_id: it names the order {format_id(earlier.id)}, which differs from this "
            "one; send the same order again, or a new one with a new id"
        )
    return Replayed(*structs.astuple(receipt_of(earlier)))


class Retries:
    """What the cases that match in memory remember. Every method is O(1), amortised."""

    def __init__(self, *, window_us: int, count_max: int) -> None:
        self.window_us = window_us
        self._count_max = count_max
        # In the order of acceptance.
        self._orders: OrderedDict[tuple[int, str], Order] = OrderedDict()
        self._of_broker = Counter[int]()

    def __len__(self) -> int:
        return len(self._orders)

    def earlier(self, broker_id: int, new_order: NewOrder, now_us: int) -> Order | None:
        """The order of this id, None when there is none. Raises Overloaded, and InvalidField where
        the order would be a new one and has ended.

        None is forgotten within the window: when there is no room, new ids are refused. Nobody may
        have more than what is still free, so that one broker alone never leaves none to the others.
        """
        if new_order.client_order_id is None:
            return None
        self._forget(now_us - self.window_us)
        earlier = self._orders.get((broker_id, new_order.client_order_id))
        if earlier is None:
            new_order.check_end(now_us)
            if self._of_broker[broker_id] >= self._count_max - len(self._orders):
                raise Overloaded(
                    "client_order_id: too many are remembered; retry later, or without"
                )
        return earlier

    def add(self, order: Order) -> None:
        """Remember an accepted order, if it has an id of its broker's."""
        if order.client_order_id is not None:
            key = order.broker_id, order.client_order_id
            self._of_broker[order.broker_id] += key not in self._orders
            self._orders[key] = order
            self._orders.move_to_end(key)

    def clear(self) -> None:
        """Forget everything."""
        self._orders.clear()
        self._of_broker.clear()

    def _forget(self, until_us: int) -> None:
        """Drop what was accepted until then."""
        while self._orders:
            key = next(iter(self._orders))
            if self._orders[key].created_at_us > until_us:
                return
            del self._orders[key]
            self._of_broker[key[0]] -= 1
