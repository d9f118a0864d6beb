"""A small HTTP/1.1 client on ``asyncio.Protocol``: no task, no future, no copy per request.

One request is outstanding per connection. A request that finds no idle connection waits in line
while another one is opened; nothing is dropped and nothing is sent twice.
"""

import asyncio
import re
import resource
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from bench.outcomes import MALFORMED, NO_CONNECTION, RESET

_HEAD_MAX_BYTES = 64 * 1024
_FILES_KEPT_BACK = 64
_OPENED_TOGETHER = 64  # fewer than any listen backlog
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n")
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n")


class Address(NamedTuple):
    """Where a service listens: a numeric host, so that connecting never asks a resolver."""

    host: str
    port: int


class Malformed(Exception):
    """The peer does not speak the HTTP this client understands."""


class Reply(NamedTuple):
    """One complete response."""

    status: int
    body: bytes
    keep_alive: bool


class ResponseParser:
    """Responses out of a byte stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._buffer = b""
        self._total_bytes = 0  # of the response at hand, 0 until its head is complete
        self._body_start = 0
        self._status = 0
        self._keep_alive = True

    def feed(self, data: bytes) -> Reply | None:
        """Take bytes in; the response if it is complete now. Raises Malformed."""
        if self._buffer:
            data = self._buffer + data
        if not self._total_bytes and not self._read_head(data):
            self._buffer = data
            return None
        if len(data) < self._total_bytes:
            self._buffer = data
            return None
        if len(data) > self._total_bytes:
            raise Malformed("bytes after the end of the response")
        self._buffer = b""
        self._total_bytes = 0
        return Reply(self._status, data[self._body_start :], self._keep_alive)

    def _read_head(self, data: bytes) -> bool:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _HEAD_MAX_BYTES:
                raise Malformed("the head never ends")
            return False
        head = data[: end + 2].lower()
        if not head.startswith((b"http/1.1 ", b"http/1.0 ")) or not head[9:12].isdigit():
            raise Malformed("no HTTP/1 status line")
        self._status = int(head[9:12])
        self._keep_alive = head[7] == ord("1") and _CLOSE.search(head) is None
        length = _CONTENT_LENGTH.search(head)
        if length is None and self._status != 204:
            raise Malformed("no Content-Length")
        self._body_start = end + 4
        self._total_bytes = end + 4 + (int(length[1]) if length else 0)
        return True


class _Connection(asyncio.Protocol):
    """One TCP connection, busy with the request ``token`` or idle (-1)."""

    __slots__ = ("feed", "pool", "token", "transport")

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.token = -1
        self.feed = ResponseParser().feed
        self.transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop have the methods but not the base class.
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        token = self.token
        try:
            reply = self.feed(data)
            if token < 0:
                raise Malformed("a response that nothing asked for")
        except Malformed:
            self.token = -1
            self.transport.abort()
            if token >= 0:
                self.pool.on_reply(token, MALFORMED, b"")
            return
        if reply is not None:
            self.token = -1
            # First the line, then the reply: a waiting request must not wait for its handling.
            if reply.keep_alive:
                self.pool.released(self)
            else:
                self.transport.abort()
            self.pool.on_reply(token, reply.status, reply.body)

    def connection_lost(self, error: Exception | None) -> None:
        token, self.token = self.token, -1
        self.pool.lost(self)
        if token >= 0:
            self.pool.on_reply(token, RESET, b"")


class Pool:
    """Keep-alive connections to one address, opened as they are needed, up to ``limit``.

    ``on_reply(token, status, body)`` is called exactly once per request unless the pool is closed
    before; ``on_sent(token)`` is called when a request that had to wait leaves.
    """

    def __init__(
        self,
        address: Address,
        limit: int,
        on_reply: Callable[[int, int, bytes], None],
        on_sent: Callable[[int], None] = lambda token: None,
    ) -> None:
        self.address = address
        self.limit = limit
        self.on_reply = on_reply
        self.on_sent = on_sent
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.size = 0  # open or being opened
        self._connections: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """Open connections before there is load. Raises OSError when that is impossible."""
        for begin in range(0, count, _OPENED_TOGETHER):
            batch = min(_OPENED_TOGETHER, count - begin)
            self.size += batch
            await asyncio.gather(*(self._connect() for _ in range(batch)))

    def send(self, token: int, data: bytes) -> bool:
        """Send a complete request; True when it left at once, False when it waits in line."""
        if self._idle:
            # The one used last: as few connections are busy as the load needs. Going round all of
            # them makes the service touch thousands of cold ones, which costs it a third of its
            # capacity and looks like no client that keeps its connections.
            connection = self._idle.pop()
            connection.token = token
            connection.transport.write(data)
            return True
        self.waiting.append((token, data))
        self._grow()
        return False

    def released(self, connection: _Connection) -> None:
        """A connection is free: the request that has waited longest takes it."""
        if self.waiting:
            token, data = self.waiting.popleft()
            connection.token = token
            connection.transport.write(data)
            self.on_sent(token)
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection is gone; the line, if there is one, gets another."""
        self.size -= 1
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()

    def close(self) -> None:
        """Drop everything; nothing is called back any more."""
        self.on_reply = _ignore
        self.waiting.clear()
        for task in self._opening:
            task.cancel()
        for connection in self._connections:
            connection.transport.abort()

    def _grow(self) -> None:
        # A few at a time: a storm of connections would cost more than the line it is to shorten.
        wanted = min(len(self.waiting), _OPENED_TOGETHER)
        if self.size < self.limit and len(self._opening) < wanted:
            self.size += 1
            task = asyncio.get_running_loop().create_task(self._open_for_line())
            self._opening.add(task)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), *self.address)
        except BaseException:
            self.size -= 1
            raise
        self._connections.add(connection)
        self.released(connection)

    async def _open_for_line(self) -> None:
        try:
            await self._connect()
        except OSError:
            if self.waiting:
                token, _ = self.waiting.popleft()
                self.on_reply(token, NO_CONNECTION, b"")
        finally:
            self._opening.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self._grow()


def connection_limit() -> int:
    """How many connections this process may have open, its other files left aside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FILES_KEPT_BACK)


def _ignore(token: int, status: int, body: bytes) -> None:
    """The answer to a request that nobody waits for any more."""
