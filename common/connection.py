"""A short way through aiohttp for plain requests.

aiohttp gives each request a task, a writer and a request object, and goes three times through the
event loop for it: to wake the connection's own task, to start the request's, and to wake the first
again. A request that asks for nothing special is answered here, in the call that brought the last
of its bytes. A request that comes whole, while nothing else of its connection is under way, is not
even parsed by aiohttp (``common/request.py``). Limits, keep-alive and every other request stay with
aiohttp.

This reaches below aiohttp's public names, so its version is pinned; what it must not change is
held by the contract tests, which send requests both ways.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage

from common.reply import CLOSE, Reply, Response
from common.request import BODY_MAX_BYTES, Request, path_asked, request_of, whole_request

LOOK_AT_CLIENTS_S = 0.25
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _prebuilt(head: bytes, body: bytes) -> bytes:
    """A reply of JSON; ``head`` is its status line and the headers of its own."""
    more = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + more + body


# What a service says that has no time to look at a request; as short as it can be.
_TOO_MUCH = b'{"code":"overloaded","detail":"more requests come than can be answered; retry later"}'
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
_OVERLOADED = _prebuilt(_BUSY, _TOO_MUCH)
_TURNED_AWAY = _prebuilt(_BUSY + CLOSE, _TOO_MUCH)
_NO_HTTP_SAID = b'{"code":"malformed_request","detail":"these bytes are no request of HTTP/1.1"}'
_NO_HTTP = _prebuilt(b"HTTP/1.1 400 Bad Request\r\n" + CLOSE, _NO_HTTP_SAID)
# With more than a thousand connections ready, libuv may read from them again and again, for
# seconds, before anything else of the event loop runs, the flush among it. After so many answers
# the rest of the loop is asked to run; after twice as many it goes first.
HALF_TURN = 128

Answering = Coroutine[Any, Any, Reply]
Answer = Callable[[Request], Answering]
Refuses = Callable[[str], bool]


class Server(web.Server):
    """aiohttp's low-level server; ``answer`` is asked for what can go the short way, unless the
    service ``refuses`` what asks for such a path, since more comes than it can answer.

    ``stopping`` says whether replies that leave close their connections. A client has
    ``patience_s`` for a request to arrive and for a reply to be read, and ``connections_max`` is
    how many may be open at once.
    """

    def __init__(
        self,
        handler: Any,
        *,
        answer: Answer,
        refuses: Refuses,
        stopping: Callable[[], bool],
        options: dict[str, Any],
        patience_s: float,
        connections_max: int,
        **more: Any,
    ):
        super().__init__(handler, **more, **options)
        self._answer = answer
        self.refuses = refuses
        self.stopping = stopping
        self._options = options
        self._answers = 0
        self._patience_s = patience_s
        self._connections_max = connections_max

    def is_full(self) -> bool:
        """Whether there are more connections than may be."""
        return len(self._connections) > self._connections_max

    def turned_away(self, first: bytes) -> bytes | None:
        """What a new connection gets if it cannot be had, by the ``first`` bytes that it brought.

        While more comes than can be answered, each connection more makes all others wait longer.
        """
        return _TURNED_AWAY if first and self.refuses(path_asked(first)) else None

    async def drop_slow(self) -> None:
        """Close the connections that keep us waiting; to be called regularly."""
        since_s = self._loop.time() - self._patience_s
        for connection in self.connections:
            assert isinstance(connection, Connection)
            connection.drop_if_slow(since_s)

    def may_answer(self) -> bool:
        """Whether one more may be answered before the rest of the event loop has had its turn."""
        self._answers += 1
        if self._answers == HALF_TURN:
            self._loop.call_soon(self._rest_had_its_turn)
        return self._answers < 2 * HALF_TURN

    def _rest_had_its_turn(self) -> None:
        self._answers = 0

    def __call__(self) -> "Connection":
        return Connection(self, self._answer, self._loop, self._options)


class Connection(web.RequestHandler):
    """One connection. While it is ``_busy``, a request of it is being answered the short way;
    ``_mixed`` says that others went aiohttp's way. While it is ``_between`` two requests for sure,
    its parser holds nothing of the next one. When it has ``_ended`` its client sends no more."""

    __slots__ = (
        "_answer", "_arriving_s", "_between", "_busy", "_ended", "_held", "_leaving", "_mixed",
        "_server", "_task", "_unread_s",
    )  # fmt: skip

    def __init__(
        self,
        manager: Server,
        answer: Answer,
        loop: asyncio.AbstractEventLoop,
        options: dict[str, Any],
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._server = manager
        self._answer = answer
        self._busy = False
        self._mixed = False
        self._between = True
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        # The reply that waits until what it says is durable.
        self._held: Reply | None = None
        # The transport that closes when all that it still has to send has been read.
        self._leaving: asyncio.Transport | None = None
        # Since when a request has been arriving, and a reply has been waiting to be read.
        self._arriving_s: float | None = None
        self._unread_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._server.is_full():
            # The transports of uvloop have the methods but not the base class.
            cast(asyncio.WriteTransport, transport).write(_TURNED_AWAY)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._leaving = None
        # Their bodies hold the connection. Who has gone before aiohttp's task began leaves some.
        self._messages.clear()

    def force_close(self) -> None:
        """Close it. aiohttp forgets the transport, of which much may not have been read yet."""
        self._leaving = self.transport or self._leaving
        super().force_close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Nothing more will come. What has come whole is answered, then the connection closes."""
        self._ended = True
        self._lingering_time = 0.0  # there is no rest of a body to wait for
        if not self._busy and not self._has_whole():
            # Not at once: aiohttp may have taken a request with which it begins in the next turn.
            self._loop.call_soon(self._close_unless_asked)
        return True

    def _close_unless_asked(self) -> None:
        asked = self._current_request
        if self.transport is not None and (asked is None or not asked.content.is_eof()):
            self.transport.close()

    def _has_whole(self) -> bool:
        """Whether a request waits that is here whole; only the last one may not be."""
        return bool(self._messages) and self._messages[0][1].is_eof()

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        """aiohttp has written a reply. Behind the last one to who has half-closed it closes."""
        super().log_access(request, response, time)
        if not self._messages:
            # It may have stopped parsing early: of a request that it takes before it is whole it
            # counts one too many as waiting.
            super().data_received(b"")
        if self._ended and not self._has_whole():
            self._close = True

    def pause_writing(self) -> None:
        """More waits to be read than the transport likes to keep."""
        super().pause_writing()
        self._unread_s = self._loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_s = None

    def _process_keepalive(self) -> None:
        """Close it if it is idle, which to aiohttp it is while it is answered the short way."""
        if self._busy:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def drop_if_slow(self, since_s: float) -> None:
        """Close it if its request or its reply has been on the way since before then."""
        transport = self.transport or self._leaving
        if transport is None:
            return
        if self._unread_s is None and transport.is_closing():
            self._unread_s = self._loop.time()  # it closes when the rest has been read
        if self._unread_s is not None and self._unread_s < since_s:
            transport.abort()
        elif (
            self._arriving_s is not None
            and self._arriving_s < since_s
            and not transport.is_closing()
        ):
            transport.write(_TOO_SLOW)
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse, and answer what is whole; replies leave in the order of the requests."""
        request = whole_request(data) if self._is_at_rest() else None
        # What looks like one may end a head that had begun before; so a parser that has seen
        # anything sees it too. Then it holds nothing, or waits for the body of what is in
        # ``_messages``, and such a connection is not at rest.
        between, self._between = self._between, request is not None
        if between and request is not None and self._takes(request):
            return
        waiter = self._waiter
        if waiter is None or waiter.done():  # aiohttp is at work on a request, or about to be
            is_first, self._mixed = not self._mixed, True
            super().data_received(data)
            if self._messages and self._current_request is None:
                first = self._messages[0][0]
                if not isinstance(first, RawRequestMessage):
                    self._part_from(first.exc)
                    return
            if self._messages or self._current_request is not None:
                self._arriving_s = None  # whole, or its handler waits for the rest
            elif is_first and self._arriving_s is None:
                self._arriving_s = self._loop.time()  # else it may be a body that nobody wants
            self._hold_what_is_too_large()
            return
        self._waiter = None  # so that aiohttp parses and does not wake its own way
        super().data_received(data)
        self._waiter = waiter
        if self._busy:
            self._hold_what_is_too_large()
            return
        if not self._messages and self._arriving_s is None:
            self._arriving_s = self._loop.time()
        if self._server.may_answer():
            self._serve()
        else:
            self._busy = True
            self._loop.call_soon(self._take_turn)

    def _hold_what_is_too_large(self) -> None:
        """Read no more of it before its turn comes: of each that waits aiohttp would take half a
        megabyte. It reads on when it takes the next message, and so do we."""
        waiting = self._messages
        if waiting and waiting[-1][1].total_bytes > BODY_MAX_BYTES and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _is_at_rest(self) -> bool:
        """Whether no request is under way, and none ever went aiohttp's way."""
        return not (self._mixed or self._busy or self._messages)

    def _takes(self, request: Request) -> bool:
        """Answer a request of which aiohttp has seen nothing, or refuse it."""
        if self._server.refuses(request.path):
            self._send(_OVERLOADED)
            return True
        # Without a waiter aiohttp's task has not begun, and would take what has to wait for a turn.
        if self._waiter is None or self._close or self._force_close:
            return False
        self._busy = True
        if self._server.may_answer():
            self._go_on(self._answer(request))
        else:
            self._loop.call_soon(self._take_turn_of, request)
        return True

    def _take_turn_of(self, request: Request) -> None:
        if self.transport is not None:
            self._reply_to(request)
            self._wait_for_turn()

    def _take_turn(self) -> None:
        self._busy = False
        self._serve()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for this after each body, and parses the rest of what has come."""
        if self._reading_paused or not self._busy:
            super().resume_reading(resume_parser)

    def _serve(self) -> None:
        """Answer what came first, unless it is not here whole, or is aiohttp's.

        The request behind it takes its turn after the other connections have had theirs, else who
        sends many at once would keep all others waiting.
        """
        messages, parser = self._messages, self._parser
        if self._busy or self.transport is None or parser is None:
            return
        if self._ended and not self._has_whole():
            self.transport.close()
            return
        if not messages:
            return
        message, content = messages[0]
        if not isinstance(message, RawRequestMessage):
            self._part_from(message.exc)
            return
        if not is_plain(message):
            self._leave_to_aiohttp()
            return
        if not content.is_eof():
            if self._arriving_s is None:
                self._arriving_s = self._loop.time()
            # The rest brings us back here, unless it will not be taken or is not understood.
            if content.total_bytes > BODY_MAX_BYTES or content.exception() is not None:
                self._leave_to_aiohttp()
            return
        messages.popleft()
        parser.message_consumed()
        self._busy = True
        self._arriving_s = None
        if self._buffer_paused and len(messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        elif self._mixed and not messages:
            # Of a request that it takes before it is whole aiohttp counts one too many as
            # waiting, so it may have stopped parsing early.
            self.data_received(b"")
        self._reply_to(request_of(message, content.read_nowait()))
        self._wait_for_turn()

    def _reply_to(self, request: Request) -> None:
        if self._server.refuses(request.path):
            self._send(_OVERLOADED)
        else:
            self._go_on(self._answer(request))

    def _wait_for_turn(self) -> None:
        """Have the next request answered, if there is one, when the others have had their turn,
        or the connection closed, if there will be none."""
        if (self._messages or self._ended) and not self._busy:
            self._busy = True
            self._loop.call_soon(self._take_turn)

    def _part_from(self, no_http: BaseException) -> None:
        """End a connection on which something else than HTTP comes.

        aiohttp's own answer would leave a cycle for the garbage collector, and names versions.
        """
        no_http.__traceback__ = None
        self._messages.clear()
        if self.transport is not None:
            self.transport.write(_NO_HTTP)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The reply to what is no HTTP behind a request that aiohttp is at work on, and to an error
        of ours there. aiohttp's own names versions, and shows what was sent."""
        if status != 400:
            return super().handle_error(request, status, exc, message)
        reply = Reply(_NO_HTTP_SAID, status)
        reply.closes = True
        return Response(reply)

    def _leave_to_aiohttp(self) -> None:
        self._mixed = True
        self._arriving_s = None  # what has not come yet, its handler waits for
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _go_on(self, answering: Answering) -> None:
        """Run to the next wait, which most requests never reach, and go on from there after it.

        As a task would do it, at less cost; so nothing that an answer waits for may ask for the
        current task, which ``asyncio.timeout`` does (see ``common/waiting.py``).
        """
        try:
            future = answering.send(None)
        except StopIteration as end:
            self._end(end.value)
            return
        if future is None:
            self._loop.call_soon(self._resume, answering)
            return
        future._asyncio_future_blocking = False  # by which a future knows that it was awaited
        future.add_done_callback(partial(self._resume, answering))

    def _resume(self, answering: Answering, _: object = None) -> None:
        self._go_on(answering)
        self._serve()

    def _end(self, reply: Reply) -> None:
        if reply.settling is None:
            self._leave(reply)
        else:
            self._held = reply
            reply.settling.tell(self._told)

    def _told(self, error: Exception | None) -> None:
        """What the reply that is held says is durable, or nobody knows."""
        reply, self._held = self._held, None
        if error is not None:
            if self.transport is not None:
                self.transport.abort()  # as a crash would leave the client
            return
        assert reply is not None, "it was held until now"
        self._leave(reply)
        self._wait_for_turn()

    def _leave(self, reply: Reply) -> None:
        reply.closes = self._server.stopping()
        self._send(reply.encode(), closes=reply.closes)

    def _send(self, reply: bytes, *, closes: bool = False) -> None:
        """The reply to a request; the next one waits for who is slow to read."""
        self._busy = False
        if self.transport is None:
            return  # the client has gone
        self.transport.write(reply)
        if closes:
            self.force_close()
        elif self.writing_paused:
            self._busy = True
            self._task = self._loop.create_task(self._caught_up())
        else:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    async def _caught_up(self) -> None:
        with suppress(ConnectionError):  # the client has gone
            await self._drain_helper()
        self._busy = False
        self._serve()


def is_plain(message: RawRequestMessage) -> bool:
    """Whether a request needs nothing but an answer."""
    return (
        message.version == HttpVersion11
        and message.method in ("GET", "POST")
        and not message.should_close
        and not message.upgrade
        and "Expect" not in message.headers
    )
