"""One request, as its handler needs it: the key, the query, the body."""

import asyncio
from collections.abc import Collection

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader

from common import wire
from common.brokers import hash_key
from common.connection import BODY_MAX_BYTES
from common.errors import MalformedBody, TooLarge, TooSlow, Unauthorized
from common.exchange import Exchange

NO_QUERY: dict[str, str] = {}  # never changed


class Call:
    """One request, as its handler needs it. ``name`` is the variable part of the path.

    ``request`` is None for one that came whole, with nothing left to be read. ``query`` is empty
    until it is read.
    """

    __slots__ = ("_content", "_message", "_patience_s", "_request", "exchange", "name", "query")

    def __init__(
        self,
        message: RawRequestMessage,
        content: StreamReader,
        request: web.BaseRequest | None,
        exchange: Exchange,
        name: str,
        *,
        patience_s: float,
    ) -> None:
        self._patience_s = patience_s
        self._message = message
        self._content = content
        self._request = request
        self.exchange = exchange
        self.name = name
        self.query = NO_QUERY

    def key_hash(self) -> bytes:
        """The hash of the key that the request shows. Raises Unauthorized when it shows none."""
        scheme, _, api_key = self._message.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not api_key:
            raise Unauthorized("expected the header Authorization: Bearer <API key>")
        return hash_key(api_key.strip())

    def read_query(self, known: Collection[str]) -> None:
        """Raises InvalidField for a parameter that is not ``known``, or stands there twice."""
        if "?" in self._message.path:
            self.query = wire.decode_query(self._message.url.raw_query_string, known)

    async def body(self) -> bytes:
        """The whole body. Raises TooLarge."""
        request = self._request
        if request is None or self._content.is_eof():
            body = self._content.read_nowait()
        else:
            body = await rest_of_body(request, self._patience_s)
        if len(body) > BODY_MAX_BYTES:
            raise TooLarge(f"the body is larger than {BODY_MAX_BYTES} bytes")
        return body


async def rest_of_body(request: web.BaseRequest, patience_s: float) -> bytes:
    """A body that arrives in pieces. Raises TooLarge, MalformedBody, TooSlow."""
    asked = request.headers.get("Expect", "").lower() == "100-continue"
    if asked and request.version == HttpVersion11 and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(patience_s):
            return await request.read()
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {patience_s:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"the body is larger than {BODY_MAX_BYTES} bytes") from None
    except (web.RequestPayloadError, ConnectionError) as error:
        # aiohttp keeps the error with the body, and its frames hold both: a cycle.
        error.__traceback__ = None
        if isinstance(error, ConnectionError):
            raise ConnectionResetError("the client went away") from None
        raise MalformedBody("the body does not arrive as its headers say") from None
