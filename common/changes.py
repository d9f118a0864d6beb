"""What commands have changed, and how it is written: a few statements however much it is.

A single new order, which is all that most transactions of casev1 write, is an INSERT of values, and
the few makers that an order meets are an UPDATE each. Otherwise the parameters are one text for
each column, in PostgreSQL's notation for arrays. That costs a quarter of what adapting Python lists
does, and the values need no look-up of types.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.channel import Parameters, Question
from common.database import uuid_of
from common.ids import ID_BYTES
from common.model import Order, Trade
from common.queries import writing
from common.webhooks import Notice

# So many changed orders at most are updated one by one: that needs no planning.
SINGLY_MAX = 4


@dataclass(slots=True)
class Changes:
    """New orders, changed older ones, and trades; an order once, in its latest state."""

    created: dict[int, Order] = field(default_factory=dict)
    changed: dict[int, Order] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    # Those that have an id of their broker's, by broker and id.
    named: dict[tuple[int, str], Order] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.created) + len(self.changed) + len(self.trades)

    def __contains__(self, order_id: int) -> bool:
        return order_id in self.created or order_id in self.changed

    def add(self, order: Order, trades: Sequence[Trade], makers: Iterable[Order]) -> None:
        """A new order and all that it did."""
        self.created[order.id] = order
        if order.client_order_id is not None:
            self.named[order.broker_id, order.client_order_id] = order
        if trades:
            self.trades.extend(trades)
            self.add_changed(makers)

    def add_changed(self, orders: Iterable[Order]) -> None:
        """Orders that are another way than before."""
        for order in orders:
            if order.id not in self.created:
                self.changed[order.id] = order

    def closed(self) -> list[Order]:
        """Those that are closed now."""
        touched = (*self.created.values(), *self.changed.values())
        return [order for order in touched if not order.is_open]

    def statements(self) -> list[Question]:
        """What writes all of it, with parameters that no longer change when the orders do."""
        statements: list[Question] = []
        if len(self.created) == 1:
            [order] = self.created.values()
            statements.append((writing.INSERT_ORDER, _new_order(order)))
        elif self.created:
            statements.append((writing.INSERT_ORDERS, _new_orders(list(self.created.values()))))
        if self.named:
            statements.append((writing.NAME_ORDERS, _names(self.named)))
        changed = list(self.changed.values())
        if len(changed) <= SINGLY_MAX:
            statements.extend((writing.UPDATE_ORDER, _change(order)) for order in changed)
        else:
            statements.append((writing.UPDATE_ORDERS, _changes(changed)))
        if self.trades:
            statements.append((writing.INSERT_TRADES, _trades(self.trades)))
            statements.append((writing.ADD_CASH, _cash(self.trades)))
        return statements


def _new_order(order: Order) -> Parameters:
    return {
        "id": uuid_of(order.id),
        "sequence": order.sequence,
        "broker_id": uuid_of(order.broker_id),
        "document_number": order.document_number,
        "side": order.side,
        "order_type": order.order_type,
        "symbol": order.symbol,
        "price": order.price,
        "quantity": order.quantity,
        "remaining_quantity": order.remaining_quantity,
        "close_reason": order.close_reason,
        "valid_until": order.valid_until_us,
        "created_at": order.created_at_us,
        "closed_at": order.closed_at_us,
    }


def _new_orders(orders: list[Order]) -> dict[str, str]:
    return {
        "id": _ids([order.id for order in orders]),
        "sequence": _numbers([order.sequence for order in orders]),
        "broker_id": _ids([order.broker_id for order in orders]),
        "document_number": _texts([order.document_number for order in orders]),
        "side": _words([order.side for order in orders]),
        "order_type": _words([order.order_type for order in orders]),
        "symbol": _texts([order.symbol for order in orders]),
        "price": _numbers([order.price for order in orders]),
        "quantity": _numbers([order.quantity for order in orders]),
        "valid_until": _numbers([order.valid_until_us for order in orders]),
        "created_at": _numbers([order.created_at_us for order in orders]),
    } | _state(orders)


def _names(named: dict[tuple[int, str], Order]) -> dict[str, str]:
    return {
        "broker_id": _ids([broker_id for broker_id, _ in named]),
        "client_order_id": _texts([own_id for _, own_id in named]),
        "order_id": _ids([order.id for order in named.values()]),
        "created_at": _numbers([order.created_at_us for order in named.values()]),
    }


def _change(order: Order) -> Parameters:
    return {
        "order_id": uuid_of(order.id),
        "remaining": order.remaining_quantity,
        "reason": order.close_reason,
        "closed": order.closed_at_us,
    }


def _changes(orders: list[Order]) -> dict[str, str]:
    return {"id": _ids([order.id for order in orders])} | _state(orders)


def _state(orders: list[Order]) -> dict[str, str]:
    """The columns that change in the life of an order."""
    return {
        "remaining_quantity": _numbers([order.remaining_quantity for order in orders]),
        "close_reason": _words([order.close_reason or "NULL" for order in orders]),
        "closed_at": _numbers([order.closed_at_us for order in orders]),
    }


def _trades(trades: list[Trade]) -> dict[str, str]:
    return {
        "id": _ids([trade.id for trade in trades]),
        "sequence": _numbers([trade.sequence for trade in trades]),
        "symbol": _texts([trade.symbol for trade in trades]),
        "price": _numbers([trade.price for trade in trades]),
        "quantity": _numbers([trade.quantity for trade in trades]),
        "taker_side": _words([trade.taker_side for trade in trades]),
        "maker_order_id": _ids([trade.maker_order_id for trade in trades]),
        "taker_order_id": _ids([trade.taker_order_id for trade in trades]),
        "maker_broker_id": _ids([trade.maker_broker_id for trade in trades]),
        "taker_broker_id": _ids([trade.taker_broker_id for trade in trades]),
        "executed_at": _numbers([trade.executed_at_us for trade in trades]),
    }


def _cash(trades: list[Trade]) -> dict[str, str]:
    """What the trades change in each broker's cash, by symbol."""
    earned: defaultdict[tuple[int, str], int] = defaultdict(int)
    for trade in trades:
        earned[trade.seller_id, trade.symbol] += trade.cash
        earned[trade.buyer_id, trade.symbol] -= trade.cash
    return {
        "broker_id": _ids([broker_id for broker_id, _ in earned]),
        "symbol": _texts([symbol for _, symbol in earned]),
        "cash": _numbers([*earned.values()]),
    }


# PostgreSQL's text of an array. Each is made by what Python does in C for all of a list at once.


def _numbers(numbers: list[int] | list[int | None]) -> str:
    return "{" + repr(numbers)[1:-1].replace("None", "NULL") + "}"


def _ids(ids: list[int]) -> str:
    whole = b"".join([identifier.to_bytes(ID_BYTES) for identifier in ids])
    return "{" + whole.hex(",", ID_BYTES) + "}"


def _words(words: Sequence[str]) -> str:
    """Words that need no quotes; NULL is one of them."""
    return "{" + ",".join(words) + "}"


def _texts(texts: list[str]) -> str:
    """Elements that may hold anything: a word, a comma, a quote, the text NULL."""
    if not texts:
        return "{}"
    # The quotes and backslashes of all of them at once, with a separator that none can hold.
    whole = "\0".join(texts).replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + whole.replace("\0", '","') + '"}'
