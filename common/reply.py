"""A reply that leaves in one piece.

``web.Response`` builds a dictionary of headers for every reply and writes head and body apart; that
is a third of what an empty aiohttp service does for a request. Ours have a handful of heads, so
their bytes are made once a second and sent together with the body.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web

from common.settling import Settling

JSON = "application/json"
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"


class _Heads:
    """The first bytes of a reply by status and content type, renewed each second for the Date."""

    def __init__(self) -> None:
        self._second = 0
        self._known: dict[tuple[int, str], bytes] = {}

    def head(self, status: int, content_type: str) -> bytes:
        """Status line, Date and content type, each with its line end."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._known.clear()
        head = self._known.get((status, content_type))
        if head is None:
            lines = [
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                f"Date: {formatdate(second, usegmt=True)}",
            ]
            if content_type:
                lines.append(f"Content-Type: {content_type}")
            head = self._known[status, content_type] = "\r\n".join([*lines, ""]).encode()
        return head


_heads = _Heads()


class Reply:
    """Status, body and the few headers beyond length, type and date.

    ``closes`` is set, as it leaves, on a reply of a service that is stopping, so that its clients
    let go of it. ``settling`` is what it has to wait for before it may leave.
    """

    __slots__ = ("body", "closes", "content_type", "headers", "settling", "status")

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = int(status)  # a member of HTTPStatus hashes in Python, twice for a reply
        self.content_type = content_type if body else ""
        self.headers = headers
        self.closes = False
        self.settling: Settling | None = None

    def encode(self, connection: bytes | None = None, *, with_body: bool = True) -> bytes:
        """All of it; ``connection`` is the header of that name, for who needs to be told."""
        # Content-Length says where the reply ends; a 204 has no body by definition.
        length = b"" if self.status == 204 else b"Content-Length: %d\r\n" % len(self.body)
        if connection is None:
            connection = CLOSE if self.closes else b""
        return b"".join(
            (
                _heads.head(self.status, self.content_type),
                length,
                _lines(self.headers) if self.headers else b"",
                connection,
                b"\r\n",
                self.body if with_body else b"",
            )
        )


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


class Response(web.StreamResponse):
    """A reply as aiohttp sends it.

    aiohttp's protocol calls ``prepare`` and ``write_eof`` and looks at ``keep_alive``; the state
    of its base class, made for replies in parts, is not needed and not made.
    """

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def status(self) -> int:
        return self._reply.status

    @property
    def keep_alive(self) -> bool | None:
        return self._request.keep_alive and not self._reply.closes

    async def prepare(self, request: web.BaseRequest) -> None:
        self._request = request

    async def write_eof(self, data: bytes = b"") -> None:
        """Send everything. Waits while the client reads more slowly than we write."""
        request, keep_alive = self._request, self.keep_alive
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        connection = KEEP_ALIVE if keep_alive else CLOSE
        if keep_alive and request.version == HttpVersion11:
            connection = b""  # its default
        transport.write(self._reply.encode(connection, with_body=request.method != "HEAD"))
        if transport.get_write_buffer_size():
            await request.writer.drain()
