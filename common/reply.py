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

JSON = "application/json"


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


class Reply(web.StreamResponse):
    """Status, body and the few headers beyond length, type and date.

    aiohttp's protocol calls ``prepare`` and ``write_eof`` and looks at ``keep_alive``; the state
    of its base class, made for replies in parts, is not needed and not made.
    """

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._whole_body = body
        self._status = status
        self._whole_type = content_type if body else ""
        self._extra = headers

    @property
    def status(self) -> int:
        return self._status

    # Set on the replies of a service that is stopping, so that its clients let go of it.
    closes = False

    @property
    def keep_alive(self) -> bool | None:
        return self._request.keep_alive and not self.closes

    async def prepare(self, request: web.BaseRequest) -> None:
        self._request = request

    async def write_eof(self, data: bytes = b"") -> None:
        """Send everything. Waits while the client reads more slowly than we write."""
        request = self._request
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        transport.write(self._bytes(request))
        if transport.get_write_buffer_size():
            await request.writer.drain()

    def _bytes(self, request: web.BaseRequest) -> bytes:
        head = _heads.head(self._status, self._whole_type)
        # Content-Length says where the reply ends; a 204 has no body by definition.
        length = b"" if self._status == 204 else b"Content-Length: %d\r\n" % len(self._whole_body)
        body = b"" if request.method == "HEAD" else self._whole_body
        return b"".join((head, length, self._rare_headers(request), b"\r\n", body))

    def _rare_headers(self, request: web.BaseRequest) -> bytes:
        keep_alive = self.keep_alive
        if keep_alive and self._extra is None and request.version == HttpVersion11:
            return b""
        headers = dict(self._extra or {})
        headers["Connection"] = "keep-alive" if keep_alive else "close"
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
