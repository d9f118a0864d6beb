"""The requests of the exchange's API as bytes, and its replies as types: pure."""

from functools import cache

import msgspec
import numpy as np

from bench.traffic import Floats


class Receipt(msgspec.Struct, frozen=True):
    """The reply to a new order."""

    order_id: str
    status: str
    remaining_quantity: int


class TradeDetail(msgspec.Struct, frozen=True):
    """One trade as one of its two sides sees it."""

    trade_id: str
    price: int
    quantity: int
    counterparty_broker: str


class OrderDetail(msgspec.Struct, frozen=True):
    """An order as its owner sees it."""

    id: str
    side: str
    order_type: str
    symbol: str
    price: int | None
    quantity: int
    remaining_quantity: int
    status: str
    close_reason: str | None
    trades: list[TradeDetail]


class OrderPage(msgspec.Struct, frozen=True):
    """Own orders, newest first."""

    orders: list[OrderDetail]
    next_cursor: str | None


class Level(msgspec.Struct, frozen=True):
    """All that rests at one price of one side."""

    price: int
    total_quantity: int
    order_count: int


class BookDepth(msgspec.Struct, frozen=True):
    """The best levels of a book, best first."""

    symbol: str
    asks: list[Level]
    bids: list[Level]


class Price(msgspec.Struct, frozen=True):
    """What a symbol last traded at, in cents."""

    last_price: int
    average_price: int
    trades_in_average: int


class Balance(msgspec.Struct, frozen=True):
    """Cash of one broker in cents."""

    broker_id: str
    balance: int


class Registration(msgspec.Struct, frozen=True):
    """The reply to POST /register."""

    broker_id: str
    api_key: str


class Health(msgspec.Struct, frozen=True):
    """What /health says about progress; ages in milliseconds."""

    status: str
    sequence: int = 0
    flushed_sequence: int = 0
    flush_age_ms: float = 0.0
    flush_pending: int = 0
    flush_age_ms_max: float = 0.0
    flushes: int = 0
    pool_wait_ms_total: float = 0.0
    pool_waiting: int = 0
    transaction_retries: int = 0
    open_orders: int = 0
    orders_in_memory: int = 0
    wal_records: int = 0
    wal_syncs: int = 0
    wal_sync_ms_p50: float = 0.0

    @property
    def flushed(self) -> bool:
        """Whether all that was accepted is in the database."""
        return self.flushed_sequence >= self.sequence


@cache
def request_end(host: str, key: str) -> bytes:
    """All that follows the target of a request without a body."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return f" HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n".encode()


@cache
def _post_start(host: str, key: str) -> bytes:
    """All that stands before the length of a request with a body."""
    return request_end(host, key)[:-2] + b"Content-Type: application/json\r\nContent-Length: "


def get(host: str, key: str, path: str) -> bytes:
    """GET ``path``; without a key for /health."""
    return b"GET " + path.encode() + request_end(host, key)


def post(host: str, key: str, path: str, body: bytes) -> bytes:
    """POST a JSON body."""
    return b"POST %b%b%d\r\n\r\n%b" % (path.encode(), _post_start(host, key), len(body), body)


@cache
def cancel_end(host: str, key: str) -> bytes:
    """What follows the order id in a cancel."""
    return b"/cancel" + request_end(host, key)[:-2] + b"Content-Length: 0\r\n\r\n"


def order(
    host: str,
    key: str,
    *,
    document_number: int,
    side: str,
    symbol: str,
    price: int,
    quantity: int,
    valid_until: str,
    client_order_id: str | None = None,
) -> bytes:
    """POST /orders; ``price`` 0 means a market order, which has no valid_until."""
    start = f'{{"document_number":"{document_number:011d}","side":"{side}","symbol":"{symbol}"'
    if price:
        terms = f'"order_type":"limit","price":{price},"valid_until":"{valid_until}"'
    else:
        terms = '"order_type":"market"'
    if client_order_id is not None:
        terms += f',"client_order_id":"{client_order_id}"'
    return post(host, key, "/orders", f'{start},"quantity":{quantity},{terms}}}'.encode())


def whole_microseconds(epoch_s: Floats) -> Floats:
    """As an order says its end."""
    return np.where(np.isnan(epoch_s), np.nan, np.floor(epoch_s * 1e6))


def instants(epoch_s: Floats) -> list[str]:
    """Seconds since 1970 as ISO 8601 in UTC; NaN becomes ``NaT``."""
    microseconds = whole_microseconds(epoch_s)
    moments = np.full(len(epoch_s), np.datetime64("NaT", "us"))
    known = ~np.isnan(microseconds)
    moments[known] = microseconds[known].astype(np.int64).astype("datetime64[us]")
    texts: list[str] = np.datetime_as_string(moments, unit="us", timezone="UTC").tolist()
    return texts
