"""From a request to a verb and from its result to a reply, and one mapping of errors."""

import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from common import wire
from common.call import Call
from common.errors import (
    ExchangeError,
    Forbidden,
    IdReused,
    InvalidField,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooSlow,
    Unauthorized,
    Unavailable,
)
from common.ids import parse_id
from common.model import (
    AVERAGE_TRADES_DEFAULT,
    AVERAGE_TRADES_MAX,
    BOOK_DEPTH_DEFAULT,
    BOOK_DEPTH_MAX,
    Replayed,
)
from common.reply import Reply

Handler = Callable[[Call], Awaitable[Reply]]
BrokerHandler = Callable[[Call, bytes], Awaitable[Reply]]

STATUS_OF: dict[type[ExchangeError], HTTPStatus] = {
    MalformedBody: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    IdReused: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    InvalidField: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

# What may be found before the key of a request is looked up.
BEFORE_THE_KEY = (MalformedBody, InvalidField, NotFound, TooLarge)


# ---- errors and keys ----


def error_reply(error: ExchangeError) -> Reply:
    """The reply to an error of the exchange."""
    status = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="exchange"'
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    return json_error(status, error.code, error.detail, headers)


def json_error(
    status: HTTPStatus, code: str, detail: str, headers: dict[str, str] | None = None
) -> Reply:
    return Reply(wire.encode(wire.ErrorBody(code, detail)), status, headers=headers or None)


def for_broker(handler: BrokerHandler, known: Collection[str]) -> Handler:
    """Give a handler the hash of the key, and a query with ``known`` parameters only.

    The verbs look the key up themselves. What is wrong with a request is said to brokers only, so
    an error of ours from before the look-up gives way to 401.
    """

    async def handle(call: Call) -> Reply:
        key_hash = call.key_hash()
        try:
            call.read_query(known)
            reply = await handler(call, key_hash)
        except ExchangeError as error:
            if isinstance(error, BEFORE_THE_KEY):
                await call.exchange.authenticate(key_hash)
            reply = error_reply(error)
        # Reads too: what they show must not be undone by a crash.
        reply.settling = call.exchange.settling()
        return reply

    return handle


# ---- brokers ----


async def post_order(call: Call, key_hash: bytes) -> Reply:
    new_order = wire.decode_order(await call.body(), time.time_ns() // 1000)
    receipt = await call.exchange.submit(key_hash, new_order)
    if isinstance(receipt, Replayed):
        return Reply(wire.encode(receipt), headers={"Idempotent-Replay": "true"})
    return Reply(wire.encode(receipt), HTTPStatus.CREATED)


async def get_order(call: Call, key_hash: bytes) -> Reply:
    order_id = parse_id(call.name)
    if order_id is None:
        raise NotFound("no such order")
    return Reply(wire.encode(await call.exchange.order(key_hash, order_id)))


async def get_orders(call: Call, key_hash: bytes) -> Reply:
    query = wire.decode_order_query(call.query)
    return Reply(wire.encode(await call.exchange.orders(key_hash, query)))


async def post_cancel(call: Call, key_hash: bytes) -> Reply:
    order_id = parse_id(call.name)
    if order_id is None:  # it names no order, and cancelling what is not there succeeds
        await call.exchange.authenticate(key_hash)
    else:
        await call.exchange.cancel(key_hash, order_id)
    return Reply(status=HTTPStatus.NO_CONTENT)


async def get_price(call: Call, key_hash: bytes) -> Reply:
    symbol = wire.decode_symbol(call.name)
    trades = wire.decode_count(
        call.query, "trades", default=AVERAGE_TRADES_DEFAULT, most=AVERAGE_TRADES_MAX
    )
    return Reply(wire.encode(await call.exchange.price(key_hash, symbol, trades)))


async def get_book(call: Call, key_hash: bytes) -> Reply:
    symbol = wire.decode_symbol(call.name)
    depth = wire.decode_count(call.query, "depth", default=BOOK_DEPTH_DEFAULT, most=BOOK_DEPTH_MAX)
    return Reply(wire.encode(await call.exchange.book(key_hash, symbol, depth)))


async def get_balance(call: Call, key_hash: bytes) -> Reply:
    return Reply(wire.encode_balance(await call.exchange.balance(key_hash)))


# By the names of their routes.
OF_BROKERS: dict[str, BrokerHandler] = {
    "submit": post_order,
    "order": get_order,
    "orders": get_orders,
    "cancel": post_cancel,
    "price": get_price,
    "book": get_book,
    "balance": get_balance,
}


# ---- everyone ----


async def get_health(call: Call) -> Reply:
    health = await call.exchange.health()
    about = {"durability": health.durability, **health.figures}
    if health.reason is None:
        return Reply(wire.encode({"status": "ok", **about}))
    return Reply(
        wire.encode({"status": "unavailable", "reason": health.reason, **about}),
        HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Retry-After": "1"},
    )


async def get_root(call: Call) -> Reply:
    links = {"name": "Mini Stock Exchange", "docs": "/docs", "openapi": "/openapi.json"}
    return Reply(wire.encode({**links, "health": "/health", "metrics": "/metrics"}))
