"""HTTP: from the bytes of a request to its handler, and what the service tells about itself.

This stands on aiohttp's low-level server: finding one of fifteen routes and mapping errors takes a
page here, and a third less time than the framework for applications above it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from common import wire
from common.brokers import same_key
from common.call import BodyOf, Call, rest_of_body
from common.connection import Server
from common.errors import (
    ExchangeError,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    Unavailable,
)
from common.exchange import Exchange
from common.handlers import (
    OF_BROKERS,
    Handler,
    error_reply,
    for_broker,
    get_health,
    get_root,
    json_error,
)
from common.metrics import render_metrics
from common.openapi import describe, render_docs
from common.overload import BEAT_S, Overload
from common.reply import Reply, Response
from common.request import BODY_MAX_BYTES, Request, request_of
from common.routes import ROUTES, Access
from common.settings import Settings

KEEP_ALIVE_S = 75.0

# What tells how a service does must be answered above all when it does badly.
NEVER_REFUSED = ("/health", "/metrics")

log = logging.getLogger(__name__)


class Api:
    """Finds the handler of a request and turns every error into its reply."""

    def __init__(self, exchange: Exchange, settings: Settings) -> None:
        self._exchange = exchange
        self._settings = settings
        self._answered: Counter[int] = Counter()
        self._in_flight = 0
        self._stopping = False
        self._stopped = False
        self._idle = asyncio.Event()
        self._overload = Overload(time.monotonic(), time.process_time())
        # Made once: anybody may ask, and each time it would take a millisecond.
        description = describe(debug=settings.debug)
        self._openapi = wire.encode(description)
        self._docs = render_docs(description).encode()
        # By path, and for paths with a variable second part by what stands around it.
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._variable: dict[tuple[str, str], dict[str, Handler]] = {}
        handlers = self._handlers()
        for route in ROUTES:
            if route.access is Access.DEBUG and not settings.debug:
                continue
            if "{" in route.path:
                first, _, last = split(route.path)
                methods = self._variable.setdefault((first, last), {})
            else:
                methods = self._fixed.setdefault(route.path, {})
            methods[route.method] = handlers[route.name]

    def server(self) -> Server:
        """The HTTP server to run this on."""
        loop = asyncio.get_running_loop()

        def bounded(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
            parts = (message, payload, protocol, writer, task, loop)
            return web.BaseRequest(*parts, client_max_size=BODY_MAX_BYTES)

        options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": KEEP_ALIVE_S,
            # For the rest of a body after its reply.
            "lingering_time": float(self._settings.client_patience_s),
            # Bodies of 16 KiB need no compression, and what is not unpacked is no bomb.
            "auto_decompress": False,
        }
        return Server(
            self,
            answer=self.answer,
            refuses=self.refuses,
            stopping=lambda: self._stopping,
            options=options,
            patience_s=self._settings.client_patience_s,
            connections_max=self._settings.connections_max,
            request_factory=bounded,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notice in the block whether the event loop comes round in time.

        By a timer, not a task: a task is woken behind all requests that have come until then.
        """
        loop = asyncio.get_running_loop()

        def beat() -> None:
            self._overload.beat(time.monotonic(), time.process_time())
            beats[:] = [loop.call_later(BEAT_S, beat)]

        self._overload.begin(time.monotonic(), time.process_time())
        beats = [loop.call_later(BEAT_S, beat)]
        try:
            yield
        finally:
            beats[0].cancel()

    async def drained(self, patience_s: float) -> None:
        """Wait until the requests that have arrived are answered, also those still arriving.

        From now on each reply closes its connection, so that this comes to an end. What comes after
        it is refused: nobody would wait until it is durable.
        """
        self._stopping = True
        try:
            with suppress(TimeoutError, OSError, Unavailable):
                async with asyncio.timeout(patience_s):
                    while True:  # those who are answered may have asked for more before they go
                        await asyncio.sleep(0)  # to read what waits in the sockets
                        if self._in_flight:
                            self._idle.clear()
                            await self._idle.wait()
                        elif (settling := self._exchange.settling()) is not None:
                            await settling.wait()
                        else:
                            return
        finally:
            self._stopped = True

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The reply to a request that came aiohttp's way."""
        body, body_of = b"", None
        if request.content.is_eof():
            body = request.content.read_nowait()
        else:
            body_of = partial(rest_of_body, request, self._settings.client_patience_s)
        reply = await self.answer(request_of(request._message, body), body_of)
        if reply.settling is not None:
            try:
                await reply.settling.wait()
            except Exception:
                if request.transport is not None:
                    request.transport.abort()  # nobody knows what became of it, as after a crash
                raise
        # Of an upgrade that it does not know aiohttp drops what came behind it.
        reply.closes = self._stopping or request._message.upgrade
        return Response(reply)

    async def answer(self, request: Request, body_of: BodyOf | None = None) -> Reply:
        """The reply to any request; ``body_of`` brings the body of one that did not come whole.

        It may leave once what it is ``settling`` is durable.
        """
        self._in_flight += 1
        try:
            if self._stopped:
                raise Unavailable("the service is stopping; retry later")
            path = request.path
            if "%" in path:
                path = unquote(path)
            handler, name = self._find(request.method, path)
            reply = await handler(Call(request, body_of, self._exchange, name))
        except ExchangeError as error:
            reply = error_reply(error)
        except ConnectionError:
            raise  # the client went away: there is nobody to answer
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            reply = json_error(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "our error; it is logged"
            )
        finally:
            self._in_flight -= 1
            if self._stopping and not self._in_flight:
                self._idle.set()
        self._answered[reply.status] += 1
        return reply

    def refuses(self, path: str) -> bool:
        """Whether who asks for this is told to come later, since more come than can be answered."""
        if not self._overload.is_behind or path in NEVER_REFUSED:
            return False
        refused = not self._overload.admits(time.monotonic())
        if refused:
            self._answered[503] += 1
        return refused

    def _find(self, method: str, path: str) -> tuple[Handler, str]:
        """The handler, and the variable part of the path. Raises NotFound, MethodNotAllowed."""
        name = ""
        methods = self._fixed.get(path)
        if methods is None:
            first, name, last = split(path)
            methods = self._variable.get((first, last)) if name else None
        if methods is None:
            raise NotFound("no such path; /docs lists them")
        handler = methods.get(method)
        if handler is None:
            raise MethodNotAllowed(sorted(methods))
        return handler, name

    def _handlers(self) -> dict[str, Handler]:
        query = {route.name: route.query for route in ROUTES}
        return {
            **{name: for_broker(handler, query[name]) for name, handler in OF_BROKERS.items()},
            "health": get_health,
            "metrics": self._get_metrics,
            "register": self._post_register,
            "reset": self._post_reset,
            "trade_count": self._get_trade_count,
            "openapi": self._get_openapi,
            "docs": self._get_docs,
            "root": get_root,
        }

    # ---- the admin ----

    def _require_admin(self, call: Call) -> None:
        """Raise Unauthorized unless the request shows the admin key, Unavailable if none is set.

        No request of the admin has parameters: InvalidField for one that does.
        """
        admin_key = self._settings.admin_api_key
        if admin_key is None:
            raise Unavailable("no admin key is set on this server (EXCHANGE_ADMIN_API_KEY)")
        if not same_key(call.key_hash(), admin_key):
            raise Unauthorized("expected the admin key")
        call.read_query(())

    async def _post_register(self, call: Call) -> Reply:
        self._require_admin(call)
        asked = wire.decode_register(await call.body())
        registration = await self._exchange.register(asked.name, asked.webhook_url)
        return Reply(wire.encode(registration), HTTPStatus.CREATED)

    async def _post_reset(self, call: Call) -> Reply:
        self._require_admin(call)
        await self._exchange.reset()
        return Reply(wire.encode({"status": "empty"}))

    async def _get_trade_count(self, call: Call) -> Reply:
        self._require_admin(call)
        return Reply(wire.encode({"count": await self._exchange.trade_count()}))

    # ---- about this service ----

    async def _get_metrics(self, call: Call) -> Reply:
        health = await self._exchange.health()
        body, content_type = render_metrics(health.figures, self._answered)
        return Reply(body, content_type=content_type)

    async def _get_openapi(self, call: Call) -> Reply:
        return Reply(self._openapi)

    async def _get_docs(self, call: Call) -> Reply:
        return Reply(self._docs, content_type="text/html; charset=utf-8")


def split(path: str) -> tuple[str, str, str]:
    """``/orders/7/cancel`` as ``orders``, ``7``, ``cancel``; parts that are not there are empty."""
    first, _, rest = path[1:].partition("/")
    name, slash, last = rest.partition("/")
    # A slash at the end belongs to no path of ours.
    return first, name, last if last or not slash else "/"
