"""A tiny exchange in memory, for the harness to be tested against; run it with a port.

It keeps every promise that the audit looks at, unless ``--lose`` makes it forget the last order.
"""

import asyncio
import json
import sys
import uuid
from datetime import datetime
from typing import Any

from aiohttp import web

ADMIN_KEY = "admin"
Json = dict[str, Any]


class FakeExchange:
    """Orders are dictionaries in the shape of the API, with some private keys in ``_``."""

    def __init__(self, lose: bool = False) -> None:
        self.lose = lose
        self.clear()

    def clear(self) -> None:
        self.brokers: dict[str, str] = {}
        self.orders: dict[str, Json] = {}
        self.books: dict[tuple[str, str], list[Json]] = {}
        self.prices: dict[str, list[int]] = {}
        self.trades = 0

    def refresh(self, order: Json) -> Json:
        ends = order["_ends"]
        if order["status"] == "open" and ends and ends <= datetime.now(ends.tzinfo):
            self.close(order, "expired")
        return order

    def close(self, order: Json, reason: str) -> None:
        order["status"], order["close_reason"] = "closed", reason
        book = self.books.get((order["symbol"], order["side"]), [])
        if order in book:
            book.remove(order)

    def open_orders(self, symbol: str, side: str) -> list[Json]:
        book = list(self.books.get((symbol, side), []))
        alive = [o for o in book if self.refresh(o)["status"] == "open"]
        return sorted(alive, key=lambda o: o["price"] if side == "ask" else -o["price"])

    def place(self, broker: str, body: Json) -> Json:
        order: Json = {
            **{name: body.get(name) for name in ("side", "order_type", "symbol", "price")},
            "id": str(uuid.uuid4()),
            "quantity": body["quantity"],
            "remaining_quantity": body["quantity"],
            "status": "open",
            "close_reason": None,
            "trades": [],
            "_broker": broker,
            "_ends": datetime.fromisoformat(body["valid_until"]) if "price" in body else None,
        }
        sign = 1 if order["side"] == "bid" else -1
        for maker in self.open_orders(order["symbol"], "ask" if sign == 1 else "bid"):
            worse = order["price"] is not None and sign * (maker["price"] - order["price"]) > 0
            if worse or not order["remaining_quantity"]:
                break
            self.trade(order, maker)
        if not order["remaining_quantity"]:
            self.close(order, "filled")
        elif order["price"] is None:
            self.close(order, "unfilled")
        else:
            self.books.setdefault((order["symbol"], order["side"]), []).append(order)
        self.orders[order["id"]] = order
        return order

    def trade(self, taker: Json, maker: Json) -> None:
        self.trades += 1
        shares = min(taker["remaining_quantity"], maker["remaining_quantity"])
        trade_id = str(uuid.uuid4())
        self.prices.setdefault(taker["symbol"], []).append(maker["price"])
        for order, other in ((taker, maker), (maker, taker)):
            order["remaining_quantity"] -= shares
            order["trades"].append(
                {
                    "trade_id": trade_id,
                    "price": maker["price"],
                    "quantity": shares,
                    "counterparty_broker": self.brokers[other["_broker"]],
                }
            )
        if not maker["remaining_quantity"]:
            self.close(maker, "filled")

    def owned(self, key: str) -> list[Json]:
        return [self.refresh(o) for o in self.orders.values() if o["_broker"] == key]

    def levels(self, symbol: str, side: str) -> list[Json]:
        levels: dict[int, Json] = {}
        for order in self.open_orders(symbol, side):
            level = levels.setdefault(
                order["price"], {"price": order["price"], "total_quantity": 0, "order_count": 0}
            )
            level["total_quantity"] += order["remaining_quantity"]
            level["order_count"] += 1
        return list(levels.values())[:50]


EXCHANGE = web.AppKey("exchange", FakeExchange)


def _key(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _reply(content: Json, status: int = 200) -> web.Response:
    return web.json_response(content, status=status)


def _shown(order: Json) -> Json:
    return {name: value for name, value in order.items() if name[0] != "_"}


async def _register(request: web.Request) -> web.Response:
    if _key(request) != ADMIN_KEY:
        return _reply({"code": "unauthorized", "detail": "no"}, 401)
    key = uuid.uuid4().hex
    request.app[EXCHANGE].brokers[key] = (await request.json())["name"]
    return _reply({"broker_id": key, "api_key": key}, 201)


async def _place(request: web.Request) -> web.Response:
    order = request.app[EXCHANGE].place(_key(request), await request.json())
    shown = {name: order[name] for name in ("status", "remaining_quantity")}
    return _reply({"order_id": order["id"], **shown}, 201)


async def _cancel(request: web.Request) -> web.Response:
    exchange = request.app[EXCHANGE]
    order = exchange.refresh(exchange.orders[request.match_info["id"]])
    if order["status"] == "open":
        exchange.close(order, "cancelled")
    return web.Response(status=204)


async def _status(request: web.Request) -> web.Response:
    exchange = request.app[EXCHANGE]
    return _reply(_shown(exchange.refresh(exchange.orders[request.match_info["id"]])))


async def _orders(request: web.Request) -> web.Response:
    exchange = request.app[EXCHANGE]
    owned = exchange.owned(_key(request))[: -1 if exchange.lose else None][::-1]
    limit, start = int(request.query["limit"]), int(request.query.get("cursor", 0))
    after = start + limit
    cursor = str(after) if after < len(owned) else None
    page = [_shown(order) for order in owned[start:after]]
    return _reply({"orders": page, "next_cursor": cursor})


async def _price(request: web.Request) -> web.Response:
    prices = request.app[EXCHANGE].prices.get(request.match_info["symbol"])
    if prices is None:
        return _reply({}, 404)
    latest = prices[-int(request.query.get("trades", 50)) :]
    mean = sum(latest) // len(latest)
    shown = {"last_price": prices[-1], "average_price": mean, "trades_in_average": len(latest)}
    return _reply(shown)


async def _book(request: web.Request) -> web.Response:
    symbol, exchange = request.match_info["symbol"], request.app[EXCHANGE]
    bids, asks = (exchange.levels(symbol, side) for side in ("bid", "ask"))
    return _reply({"symbol": symbol, "bids": bids, "asks": asks})


async def _balance(request: web.Request) -> web.Response:
    cash = 0
    for order in request.app[EXCHANGE].owned(_key(request)):
        value = sum(trade["price"] * trade["quantity"] for trade in order["trades"])
        cash += value if order["side"] == "ask" else -value
    return _reply({"broker_id": _key(request), "balance": cash})


async def _health(request: web.Request) -> web.Response:
    sequence = len(request.app[EXCHANGE].orders)
    return _reply({"status": "ok", "sequence": sequence, "flushed_sequence": sequence})


async def _reset(request: web.Request) -> web.Response:
    request.app[EXCHANGE].clear()
    return _reply({})


async def _trade_count(request: web.Request) -> web.Response:
    return _reply({"count": request.app[EXCHANGE].trades})


def build_app(lose: bool = False) -> web.Application:
    app = web.Application()
    app[EXCHANGE] = FakeExchange(lose)
    app.add_routes(
        [
            web.post("/register", _register),
            web.post("/orders", _place),
            web.get("/orders", _orders),
            web.get("/orders/{id}", _status),
            web.post("/orders/{id}/cancel", _cancel),
            web.get("/stocks/{symbol}/price", _price),
            web.get("/stocks/{symbol}/book", _book),
            web.get("/balance", _balance),
            web.get("/health", _health),
            web.post("/debug/reset", _reset),
            web.get("/debug/trade-count", _trade_count),
        ]
    )
    return app


async def serve(lose: bool) -> None:
    """Serve on a free port until killed; the port is the first line of stdout."""
    runner = web.AppRunner(build_app(lose), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps(runner.addresses[0][1]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve("--lose" in sys.argv))
