"""HTTP: one list of routes, one mapping of errors, and the handlers between bytes and verbs."""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus

from aiohttp import web

from common import wire
from common.brokers import hash_key, same_key
from common.errors import (
    ExchangeError,
    Forbidden,
    InvalidField,
    MalformedBody,
    NotFound,
    Unauthorized,
    Unavailable,
)
from common.exchange import Exchange
from common.ids import parse_id
from common.metrics import render_metrics
from common.model import AVERAGE_TRADES_MAX, BOOK_DEPTH_MAX
from common.openapi import describe, render_docs
from common.routes import ROUTES, Access
from common.settings import Settings

BODY_MAX_BYTES = 16 * 1024
AVERAGE_TRADES_DEFAULT = 50
DEPTH_DEFAULT = 10

EXCHANGE: web.AppKey[Exchange] = web.AppKey("exchange")
SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
ANSWERED: web.AppKey[Counter[tuple[str, int]]] = web.AppKey("answered")

OpenExchange = Callable[[Settings, str], AbstractAsyncContextManager[Exchange]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BrokerHandler = Callable[[web.Request, Exchange, bytes], Awaitable[web.Response]]

STATUS_OF: dict[type[ExchangeError], HTTPStatus] = {
    MalformedBody: HTTPStatus.BAD_REQUEST,
    InvalidField: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

log = logging.getLogger(__name__)


def build_app(
    open_exchange: OpenExchange, settings: Settings, database_url: str
) -> web.Application:
    """The application around one exchange, which it opens at start and drains at the end."""
    app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[answer_errors])
    app[SETTINGS] = settings
    app[ANSWERED] = Counter()

    @asynccontextmanager
    async def exchange_of(app: web.Application) -> AsyncIterator[None]:
        async with open_exchange(settings, database_url) as exchange:
            app[EXCHANGE] = exchange
            yield

    app.cleanup_ctx.append(exchange_of)
    handlers = {
        "register": post_register,
        "submit": for_broker(post_order),
        "order": for_broker(get_order),
        "orders": for_broker(get_orders),
        "cancel": for_broker(post_cancel),
        "price": for_broker(get_price),
        "book": for_broker(get_book),
        "balance": for_broker(get_balance),
        "health": get_health,
        "metrics": get_metrics,
        "reset": post_reset,
        "trade_count": get_trade_count,
        "openapi": get_openapi,
        "docs": get_docs,
        "root": get_root,
    }
    for route in ROUTES:
        if route.access is not Access.DEBUG or settings.debug:
            app.router.add_route(route.method, route.path, handlers[route.name])
    return app


# ---- errors and keys ----


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into its reply, and count the replies."""
    try:
        response = await handler(request)
    except ExchangeError as error:
        response = error_response(error)
    except web.HTTPException as error:
        response = http_error_response(error)
    except Exception:
        log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        response = json_error(
            HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "an error on our side; it is logged"
        )
    request.app[ANSWERED][request.method, response.status] += 1
    return response


def error_response(error: ExchangeError) -> web.Response:
    """The reply to an error of the exchange."""
    status = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    response = json_error(status, error.code, error.detail)
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="exchange"'
    return response


def http_error_response(error: web.HTTPException) -> web.Response:
    """The reply to an error that aiohttp itself has found: 404, 405 and 413 above all."""
    details = {
        HTTPStatus.NOT_FOUND: "no such path; /docs lists them",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"the body is larger than {BODY_MAX_BYTES} bytes",
    }
    status = HTTPStatus(error.status)
    detail = details.get(status, error.reason)
    if isinstance(error, web.HTTPMethodNotAllowed):
        detail = f"allowed here: {', '.join(sorted(error.allowed_methods))}"
    response = json_error(status, status.name.lower(), detail)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def json_error(status: HTTPStatus, code: str, detail: str) -> web.Response:
    return json_response(wire.encode(wire.ErrorBody(code, detail)), status)


def json_response(body: bytes, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def bearer_key(request: web.Request) -> str:
    """The key that the request shows. Raises Unauthorized when it shows none."""
    scheme, _, api_key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not api_key:
        raise Unauthorized("expected the header Authorization: Bearer <API key>")
    return api_key.strip()


def for_broker(handler: BrokerHandler) -> Handler:
    """Give a handler the exchange and the hash of the key.

    The verbs look the key up themselves. What is wrong with a request is said to brokers only, so
    an error of ours from before the look-up gives way to 401.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        exchange = request.app[EXCHANGE]
        key_hash = hash_key(bearer_key(request))
        try:
            return await handler(request, exchange, key_hash)
        except (MalformedBody, InvalidField, NotFound):
            await exchange.authenticate(key_hash)
            raise

    return handle


def require_admin(request: web.Request) -> None:
    """Raise Unauthorized unless the request shows the admin key, Unavailable if there is none."""
    admin_key = request.app[SETTINGS].admin_api_key
    if admin_key is None:
        raise Unavailable("no admin key is set on this server (EXCHANGE_ADMIN_API_KEY)")
    if not same_key(hash_key(bearer_key(request)), admin_key):
        raise Unauthorized("expected the admin key")


# ---- brokers ----


async def post_order(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    new_order = wire.decode_order(await request.read(), time.time_ns() // 1000)
    receipt = await exchange.submit(key_hash, new_order)
    return json_response(wire.encode(receipt), HTTPStatus.CREATED)


async def get_order(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    order_id = parse_id(request.match_info["order_id"])
    if order_id is None:
        raise NotFound("no such order")
    return json_response(wire.encode(await exchange.order(key_hash, order_id)))


async def get_orders(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    query = wire.decode_order_query(request.query)
    return json_response(wire.encode(await exchange.orders(key_hash, query)))


async def post_cancel(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    order_id = parse_id(request.match_info["order_id"])
    if order_id is None:  # it names no order, and cancelling what is not there succeeds
        await exchange.authenticate(key_hash)
    else:
        await exchange.cancel(key_hash, order_id)
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def get_price(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    symbol = wire.decode_symbol(request.match_info["symbol"])
    trades = wire.decode_count(
        request.query, "trades", default=AVERAGE_TRADES_DEFAULT, most=AVERAGE_TRADES_MAX
    )
    return json_response(wire.encode(await exchange.price(key_hash, symbol, trades)))


async def get_book(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    symbol = wire.decode_symbol(request.match_info["symbol"])
    depth = wire.decode_count(request.query, "depth", default=DEPTH_DEFAULT, most=BOOK_DEPTH_MAX)
    return json_response(wire.encode(await exchange.book(key_hash, symbol, depth)))


async def get_balance(request: web.Request, exchange: Exchange, key_hash: bytes) -> web.Response:
    return json_response(wire.encode_balance(await exchange.balance(key_hash)))


# ---- the admin ----


async def post_register(request: web.Request) -> web.Response:
    require_admin(request)
    asked = wire.decode_register(await request.read())
    registration = await request.app[EXCHANGE].register(asked.name, asked.webhook_url)
    return json_response(wire.encode(registration), HTTPStatus.CREATED)


async def post_reset(request: web.Request) -> web.Response:
    require_admin(request)
    await request.app[EXCHANGE].reset()
    return json_response(wire.encode({"status": "empty"}))


async def get_trade_count(request: web.Request) -> web.Response:
    require_admin(request)
    return json_response(wire.encode({"count": await request.app[EXCHANGE].trade_count()}))


# ---- everyone ----


async def get_health(request: web.Request) -> web.Response:
    health = await request.app[EXCHANGE].health()
    about = {"durability": health.durability, **health.figures}
    if health.reason is None:
        return json_response(wire.encode({"status": "ok", **about}))
    response = json_response(
        wire.encode({"status": "unavailable", "reason": health.reason, **about}),
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    response.headers["Retry-After"] = "1"
    return response


async def get_metrics(request: web.Request) -> web.Response:
    health = await request.app[EXCHANGE].health()
    body, content_type = render_metrics(health.figures, request.app[ANSWERED])
    return web.Response(body=body, headers={"Content-Type": content_type})


async def get_openapi(request: web.Request) -> web.Response:
    return json_response(wire.encode(describe(debug=request.app[SETTINGS].debug)))


async def get_docs(request: web.Request) -> web.Response:
    page = render_docs(describe(debug=request.app[SETTINGS].debug))
    return web.Response(text=page, content_type="text/html")


async def get_root(request: web.Request) -> web.Response:
    links = {"name": "Mini Stock Exchange", "docs": "/docs", "openapi": "/openapi.json"}
    return json_response(wire.encode({**links, "health": "/health", "metrics": "/metrics"}))
