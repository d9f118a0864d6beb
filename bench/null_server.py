"""An aiohttp application that does nothing: ``python -m bench.null_server PORT``.

It has the routes of the exchange, reads each body and gives a fixed reply: what an aiohttp
application can carry on this machine that does nothing. Only the ids of orders differ, because the
generator asks for them again. The cases answer plain requests below that level
(common/connection.py), so it is a yardstick for them and no ceiling.

With ``--bare`` it is no application at all: it answers whatever arrives, one reply for each
request, without reading it. That is faster than the generator and shows what the generator can do.
"""

import asyncio
import signal
import sys
from collections.abc import Iterator
from itertools import count
from typing import cast

import uvloop
from aiohttp import web

_NUMBERS = web.AppKey("numbers", Iterator[int])
_BACKLOG = 4096
_ORDER = '"status":"open","remaining_quantity":100'
_DETAIL = (
    '{"id":"%s","side":"bid","order_type":"limit","symbol":"PETR4","price":3150,"quantity":100,'
    + _ORDER
    + ',"close_reason":null,"trades":[]}'
)
_PRICE = '{"symbol":"PETR4","last_price":3150,"average_price":3150.0,"trades":50}'
_LEVELS = ",".join(
    f'{{"price":{price},"total_quantity":500,"order_count":1}}' for price in range(10)
)
_BOOK = f'{{"symbol":"PETR4","depth":10,"asks":[{_LEVELS}],"bids":[{_LEVELS}]}}'
_BALANCE = '{"broker_id":"00000000-0000-7000-8000-000000000000","name":"null","balance":0}'


async def _place(request: web.Request) -> web.Response:
    await request.read()
    numbers: Iterator[int] = request.app[_NUMBERS]
    order_id = f"00000000-0000-7000-8000-{next(numbers):012d}"
    return web.Response(
        text=f'{{"order_id":"{order_id}",{_ORDER}}}', status=201, content_type="application/json"
    )


async def _cancel(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=204)


async def _order(request: web.Request) -> web.Response:
    return _reply(_DETAIL % request.match_info["order_id"])


async def _price(_: web.Request) -> web.Response:
    return _reply(_PRICE)


async def _book(_: web.Request) -> web.Response:
    return _reply(_BOOK)


async def _balance(_: web.Request) -> web.Response:
    return _reply(_BALANCE)


async def _health(_: web.Request) -> web.Response:
    return _reply('{"status":"ok"}')


def _reply(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def build_app() -> web.Application:
    """The application."""
    app = web.Application()
    app[_NUMBERS] = count(1)
    app.add_routes(
        [
            web.post("/orders", _place),
            web.post("/orders/{order_id}/cancel", _cancel),
            web.get("/orders/{order_id}", _order),
            web.get("/stocks/{symbol}/price", _price),
            web.get("/stocks/{symbol}/book", _book),
            web.get("/balance", _balance),
            web.get("/health", _health),
            web.get("/", _health),
        ]
    )
    return app


class Bare(asyncio.Protocol):
    """Answers each piece of input with the receipt of one and the same order.

    The generator has one request under way on a connection, and each fits into one piece.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop have the methods but not the base class.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /orders "):
            self._transport.write(_BARE_ORDER)
        elif data.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            self._transport.write(_BARE_READ)


def _bare(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


_BARE_ORDER = _bare("201 Created", f'{{"order_id":"{"0" * 36}",{_ORDER}}}')
_BARE_READ = _bare("200 OK", '{"status":"ok"}')


async def serve(port: int, bare: bool) -> None:
    """Serve on this machine until SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if bare:
        server = await loop.create_server(Bare, "127.0.0.1", port, backlog=_BACKLOG)
        await stop.wait()
        server.close()
        return
    runner = web.AppRunner(build_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=_BACKLOG).start()
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), "--bare" in sys.argv))
