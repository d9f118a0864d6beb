"""The order model that the three cases share.

Money is integer cents, quantities are integer shares, instants are integer microseconds since
1970-01-01 UTC (``_us``), which is PostgreSQL's own resolution. Ids are 128-bit integers inside the
exchange and UUIDs outside (``common/ids.py``).
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from common.errors import InvalidField

PRICE_MAX_CENTS = 10**9
QUANTITY_MAX = 10**9
BOOK_DEPTH_MAX = 50
AVERAGE_TRADES_MAX = 1000
PAGE_MAX = 500
# So many of a broker's orders are looked at for one page, whatever is asked for: a listing of few
# among very many takes more pages, and never holds up the exchange.
LOOKED_AT_MAX = 2_000
UNTIL_EXPECTED = "valid_until: expected an instant in the future, RFC 3339, at most microseconds"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_us(instant: datetime) -> int:
    """Microseconds since the epoch of a ``datetime`` that knows its offset."""
    return (instant - EPOCH) // MICROSECOND


def to_datetime(instant_us: int) -> datetime:
    """The UTC ``datetime`` of microseconds since the epoch, exact to the microsecond."""
    return EPOCH + timedelta(microseconds=instant_us)


class Side(StrEnum):
    """Which side of the book: a bid buys, an ask sells."""

    BID = "bid"
    ASK = "ask"


class OrderType(StrEnum):
    """A limit order names its worst price, a market order takes any."""

    LIMIT = "limit"
    MARKET = "market"


class TimeInForce(StrEnum):
    """What happens to the quantity that finds no counterparty at once."""

    GOOD_TILL_DATE = "gtd"  # it rests in the book until ``valid_until``
    IMMEDIATE_OR_CANCEL = "ioc"  # it is closed as unfilled


TIME_IN_FORCE = {
    OrderType.LIMIT: TimeInForce.GOOD_TILL_DATE,
    OrderType.MARKET: TimeInForce.IMMEDIATE_OR_CANCEL,
}


class CloseReason(StrEnum):
    """Why an order no longer trades; an open order has none."""

    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNFILLED = "unfilled"


class Broker(Struct, frozen=True):
    """Who may trade. The key itself is known to its holder only; ``key_hash`` is its SHA-256."""

    id: int
    name: str
    webhook_url: str | None
    key_hash: bytes
    created_at_us: int


class Order(Struct, eq=False, gc=False):
    """One order and what has become of it. ``price`` is None for a market order.

    Orders and trades hold no cycles, so the garbage collector need not look at them (``gc=False``):
    with all of a day in memory its rounds would stop the exchange for a good part of a second.
    """

    id: int
    sequence: int
    broker_id: int
    document_number: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    symbol: str
    price: int | None
    quantity: int
    remaining_quantity: int
    valid_until_us: int | None
    created_at_us: int
    close_reason: CloseReason | None = None
    closed_at_us: int | None = None
    # A list from the first trade on; the many orders that never trade share the empty tuple.
    trades: "list[Trade] | tuple[()]" = ()
    client_order_id: str | None = None

    @property
    def is_open(self) -> bool:
        return self.close_reason is None

    def add_trade(self, trade: "Trade") -> None:
        """Remember the latest trade of this order."""
        if isinstance(self.trades, list):
            self.trades.append(trade)
        else:
            self.trades = [trade]


class Trade(Struct, frozen=True, gc=False):
    """One fill: the taker met the maker at the maker's price.

    It names the orders instead of holding them, so that an old trade keeps no old order in memory.
    ``sequence`` is the taker's; trades of one taker are in the order of their ids.
    """

    id: int
    sequence: int
    symbol: str
    price: int
    quantity: int
    taker_side: Side
    maker_order_id: int
    taker_order_id: int
    maker_broker_id: int
    taker_broker_id: int
    executed_at_us: int

    @property
    def cash(self) -> int:
        """Cents that go from the buyer to the seller."""
        return self.price * self.quantity

    @property
    def buyer_id(self) -> int:
        return self.taker_broker_id if self.taker_side is Side.BID else self.maker_broker_id

    @property
    def seller_id(self) -> int:
        return self.maker_broker_id if self.taker_side is Side.BID else self.taker_broker_id


class NewOrder(Struct, frozen=True):
    """What a broker asks for, checked: all that is known before the exchange accepts it.

    With a ``client_order_id`` it may be sent again without being placed again.
    """

    document_number: str
    side: Side
    order_type: OrderType
    symbol: str
    price: int | None
    quantity: int
    valid_until_us: int | None
    client_order_id: str | None = None

    def check_end(self, now_us: int) -> None:
        """Raises InvalidField if the end of the order has come."""
        if self.valid_until_us is not None and self.valid_until_us <= now_us:
            raise InvalidField(f"{UNTIL_EXPECTED}; it is in the past")

    def asks_for(self, order: Order) -> bool:
        """Whether the order is what would come of this, whatever has become of it since."""
        return (
            self.document_number == order.document_number
            and self.side == order.side
            and self.order_type == order.order_type
            and self.symbol == order.symbol
            and self.price == order.price
            and self.quantity == order.quantity
            and self.valid_until_us == order.valid_until_us
        )

    def accepted(self, *, order_id: int, sequence: int, broker_id: int, now_us: int) -> Order:
        """The order that enters the engine, with the id, place in the sequence and time given."""
        return Order(
            id=order_id,
            sequence=sequence,
            broker_id=broker_id,
            document_number=self.document_number,
            side=self.side,
            order_type=self.order_type,
            time_in_force=TIME_IN_FORCE[self.order_type],
            symbol=self.symbol,
            price=self.price,
            quantity=self.quantity,
            remaining_quantity=self.quantity,
            valid_until_us=self.valid_until_us,
            created_at_us=now_us,
            client_order_id=self.client_order_id,
        )


class OrderQuery(Struct, frozen=True):
    """Which of the own orders to list: those below the id ``before_id``, newest first.

    A page holds ``limit`` of them at most, and is made by looking at ``LOOKED_AT_MAX`` orders.
    """

    status: Literal["open", "closed"] | None
    symbol: str | None
    limit: int
    before_id: int


class Registration(Struct, frozen=True):
    """The reply to a new broker: the only time that the key is shown."""

    broker_id: str
    api_key: str


class Receipt(Struct, frozen=True):
    """The reply to a new order."""

    order_id: str
    status: Literal["open", "closed"]
    remaining_quantity: int


class Replayed(Receipt, frozen=True):
    """The reply to an order that came before: how that one stands now."""


class TradeDetail(Struct, frozen=True):
    """One trade as one of its two sides sees it. ``counterparty_broker`` is the other's name."""

    trade_id: str
    price: int
    quantity: int
    counterparty_broker: str
    executed_at: datetime


class OrderDetail(Struct, frozen=True):
    """An order as its owner sees it, oldest trade first."""

    id: str
    side: str
    order_type: str
    symbol: str
    price: int | None
    quantity: int
    remaining_quantity: int
    status: Literal["open", "closed"]
    close_reason: str | None
    valid_until: datetime | None
    created_at: datetime
    trades: list[TradeDetail]


class OrderPage(Struct, frozen=True):
    """Own orders, newest first. ``next_cursor`` is None on the last page.

    A page before the last may hold less than it could: few matched of those that were looked at.
    """

    orders: list[OrderDetail]
    next_cursor: str | None


class Price(Struct, frozen=True):
    """Cents. ``average_price`` is the mean of the last trades, rounded down."""

    symbol: str
    last_price: int
    average_price: int
    trades_in_average: int


class Level(Struct, frozen=True):
    """All that rests at one price of one side."""

    price: int
    total_quantity: int
    order_count: int


class BookDepth(Struct, frozen=True):
    """The best levels of a book, best first on both sides."""

    symbol: str
    depth: int
    asks: list[Level]
    bids: list[Level]


class Balance(Struct, frozen=True):
    """Cash from all own trades in cents: sells minus buys."""

    broker_id: str
    broker_name: str
    balance: int
