"""One request, as its handler needs it: the key, the query, the body."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from aiohttp import HttpVersion11, web

from common import wire
from common.brokers import hash_key
from common.errors import MalformedBody, TooLarge, TooSlow, Unauthorized
from common.exchange import Exchange
from common.request import BODY_MAX_BYTES, Request

BodyOf = Callable[[], Awaitable[bytes]]

NO_QUERY: dict[str, str] = {}  # never changed


class Call:
    """One request, as its handler needs it. ``name`` is the variable part of the path.

    ``body_of`` brings the body of one that did not come whole. ``query`` is empty until it is read.
    """

    __slots__ = ("_body_of", "_request", "exchange", "name", "query")

    def __init__(
        self, request: Request, body_of: BodyOf | None, exchange: Exchange, name: str
    ) -> None:
        self._request = request
        self._body_of = body_of
        self.exchange = exchange
        self.name = name
        self.query = NO_QUERY

    def key_hash(self) -> bytes:
        """The hash of the key that the request shows. Raises Unauthorized when it shows none."""
        scheme, _, api_key = self._request.authorization.partition(" ")
        if scheme.lower() != "bearer" or not api_key:
            raise Unauthorized("expected the header Authorization: Bearer <API key>")
        return hash_key(api_key.strip())

    def read_query(self, known: Collection[str]) -> None:
        """Raises InvalidField for a parameter that is not ``known``, or stands there twice."""
        if self._request.query:
            self.query = wire.decode_query(self._request.query, known)

    async def body(self) -> bytes:
        """The whole body. Raises TooLarge."""
        body = self._request.body
        if self._body_of is not None:
            body = await self._body_of()
        if len(body) > BODY_MAX_BYTES:
            raise TooLarge(f"the body is larger than {BODY_MAX_BYTES} bytes")
        return body


async def rest_of_body(request: web.BaseRequest, patience_s: float) -> bytes:
    """A body that arrives in pieces. Raises TooLarge, MalformedBody, TooSlow."""
    waits = request.headers.get("Expect", "").lower() == "100-continue"
    if (
        waits
        and not request.content.is_eof()
        and request.version == HttpVersion11
        and request.transport is not None
    ):
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
