"""What every case can do, and what it promises. The three ``exchange.py`` have these methods.

No verb knows about HTTP. A verb of a broker takes the hash of the broker's key and raises
Unauthorized when nobody holds it; every verb may raise Unavailable.
"""

from typing import Protocol

from msgspec import Struct

from common.model import (
    Balance,
    BookDepth,
    Broker,
    NewOrder,
    OrderDetail,
    OrderPage,
    OrderQuery,
    Price,
    Receipt,
    Registration,
)
from common.settling import Settling


class Health(Struct, frozen=True):
    """Whether the exchange can serve, why not, and figures by name (units at the names' ends).

    ``durability`` says when an order is acknowledged: after its ``commit``, before its ``flush``,
    or when it is in the write-ahead log (``wal``).
    """

    durability: str
    reason: str | None
    figures: dict[str, float]


class Exchange(Protocol):
    """The verbs of an exchange."""

    async def register(self, name: str, webhook_url: str | None) -> Registration:
        """A new broker. Durable when it returns. Raises InvalidField for a refused webhook."""
        ...

    async def authenticate(self, key_hash: bytes) -> Broker:
        """Who holds the key."""
        ...

    async def submit(self, key_hash: bytes, new_order: NewOrder) -> Receipt:
        """Accept an order and match it. What was matched is final once ``settling`` ends.

        An order that came before, by its ``client_order_id``, is ``Replayed``. Raises IdReused.
        """
        ...

    async def cancel(self, key_hash: bytes, order_id: int) -> None:
        """Close an own order if it is open. Raises Forbidden for another broker's."""
        ...

    async def order(self, key_hash: bytes, order_id: int) -> OrderDetail:
        """An own order with its trades. Raises NotFound, Forbidden."""
        ...

    async def orders(self, key_hash: bytes, query: OrderQuery) -> OrderPage:
        """Own orders, newest first."""
        ...

    async def price(self, key_hash: bytes, symbol: str, trades: int) -> Price:
        """The last price and the mean of the last ``trades``. Raises NotFound before the first."""
        ...

    async def book(self, key_hash: bytes, symbol: str, depth: int) -> BookDepth:
        """The best ``depth`` levels of each side; none for a symbol without orders."""
        ...

    async def balance(self, key_hash: bytes) -> Balance:
        """Cash from all own trades."""
        ...

    async def sweep(self) -> None:
        """Close orders that have ended, though nobody asks for them, some at a time; called
        regularly."""
        ...

    def settling(self) -> Settling | None:
        """The write by which all that the verbs have answered by now becomes as durable as
        ``durability`` promises; None if it is. Raises Unavailable when nobody can say when."""
        ...

    async def health(self) -> Health:
        """Whether it can serve."""
        ...

    async def trade_count(self) -> int:
        """How many trades there are."""
        ...

    async def reset(self) -> None:
        """Empty everything, brokers too."""
        ...
