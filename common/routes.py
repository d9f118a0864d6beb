"""The one list of routes: what there is, for whom, what goes in and what comes out.

``common/api.py`` serves it and ``common/openapi.py`` describes it, so the two cannot differ.
"""

from enum import StrEnum
from typing import Any, NamedTuple

from common.model import (
    AVERAGE_TRADES_DEFAULT,
    AVERAGE_TRADES_MAX,
    BOOK_DEPTH_DEFAULT,
    BOOK_DEPTH_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    Balance,
    BookDepth,
    OrderDetail,
    OrderPage,
    Price,
    Receipt,
    Registration,
)
from common.wire import OrderBody, RegisterBody


class Access(StrEnum):
    """Whose key a route asks for."""

    EVERYONE = "everyone"
    BROKER = "broker"
    ADMIN = "admin"
    DEBUG = "admin, with EXCHANGE_DEBUG=1"


class Route(NamedTuple):
    """One method on one path. ``query`` maps a parameter to its JSON schema; another is refused,
    except where everyone may ask: who watches a service adds what he likes.

    What has a ``replay`` may be sent again: then that is what the reply 200 means.
    """

    name: str
    method: str
    path: str
    access: Access
    summary: str
    success: int
    reply: Any = None
    body: Any = None
    query: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (a NamedTuple's default, never changed)
    replay: str = ""


def _count(default: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}


_LISTING: dict[str, dict[str, Any]] = {
    "status": {"enum": ["open", "closed"]},
    "symbol": {"type": "string"},
    "limit": _count(PAGE_DEFAULT, PAGE_MAX),
    "cursor": {"type": "string", "description": "next_cursor of the page before"},
}

ROUTES = (
    Route("root", "GET", "/", Access.EVERYONE, "Where to go from here", 200),
    Route("docs", "GET", "/docs", Access.EVERYONE, "This API for people", 200),
    Route("openapi", "GET", "/openapi.json", Access.EVERYONE, "This API for programs", 200),
    Route("health", "GET", "/health", Access.EVERYONE, "Whether it can serve, and figures", 200),
    Route("metrics", "GET", "/metrics", Access.EVERYONE, "The figures for Prometheus", 200),
    Route(
        "register",
        "POST",
        "/register",
        Access.ADMIN,
        "A new broker; its key is shown this once",
        201,
        Registration,
        RegisterBody,
    ),
    Route(
        "submit",
        "POST",
        "/orders",
        Access.BROKER,
        "A new order, matched before the reply; with a client_order_id it can be sent again",
        201,
        Receipt,
        OrderBody,
        replay="the order was there already (Idempotent-Replay: true): how it stands now",
    ),
    Route(
        "orders",
        "GET",
        "/orders",
        Access.BROKER,
        "Own orders, newest first; a page chosen from many may be short and still have a next one",
        200,
        OrderPage,
        query=_LISTING,
    ),
    Route(
        "order",
        "GET",
        "/orders/{order_id}",
        Access.BROKER,
        "An own order with its trades",
        200,
        OrderDetail,
    ),
    Route(
        "cancel",
        "POST",
        "/orders/{order_id}/cancel",
        Access.BROKER,
        "Close an own order; again, or an unknown one, is fine",
        204,
    ),
    Route(
        "price",
        "GET",
        "/stocks/{symbol}/price",
        Access.BROKER,
        "Last price and the mean of the last trades; 404 before the first trade",
        200,
        Price,
        query={"trades": _count(AVERAGE_TRADES_DEFAULT, AVERAGE_TRADES_MAX)},
    ),
    Route(
        "book",
        "GET",
        "/stocks/{symbol}/book",
        Access.BROKER,
        "The best levels of both sides, best first",
        200,
        BookDepth,
        query={"depth": _count(BOOK_DEPTH_DEFAULT, BOOK_DEPTH_MAX)},
    ),
    Route(
        "balance",
        "GET",
        "/balance",
        Access.BROKER,
        "Cash from all own trades: sells minus buys",
        200,
        Balance,
    ),
    Route("reset", "POST", "/debug/reset", Access.DEBUG, "Empty everything, brokers too", 200),
    Route("trade_count", "GET", "/debug/trade-count", Access.DEBUG, "How many trades", 200),
)
