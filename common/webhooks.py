"""Tell brokers of their trades: after a trade is durable, and never in the way of trading.

Delivery is at most once: what waits when the process ends is gone, and a target that keeps failing
is given up after a few tries. Both are counted.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from common.errors import InvalidField
from common.ids import format_id
from common.model import Order, Side, Trade, to_datetime
from common.waiting import within

TIMEOUT_S = 5.0
TRIES = 4
BACKOFF_S = 0.5  # doubled after each try
WORKERS = 32
RESOLVE_TIMEOUT_S = 2.0

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")

log = logging.getLogger(__name__)


class Notice(NamedTuple):
    """One message on its way: where to, and its JSON."""

    url: str
    body: bytes


class TradeExecuted(msgspec.Struct, frozen=True):
    """The message, as one side of the trade sees it."""

    event: str
    trade_id: str
    order_id: str
    symbol: str
    side: Side
    price: int
    quantity: int
    order_remaining_quantity: int
    executed_at: str


def notices(
    urls: Mapping[int, str], taker: Order, trades: Sequence[Trade], makers: Sequence[Order]
) -> list[Notice]:
    """The messages about what ``taker`` just did, for the brokers that have one of the ``urls``.

    To be called before anything else changes a maker.
    """
    messages: list[Notice] = []
    if not urls:
        return messages
    taker_left = taker.quantity
    for trade, maker in zip(trades, makers, strict=True):
        taker_left -= trade.quantity
        for order, left in ((taker, taker_left), (maker, maker.remaining_quantity)):
            url = urls.get(order.broker_id)
            if url is not None:
                messages.append(Notice(url, _message(trade, order, left)))
    return messages


def _message(trade: Trade, order: Order, remaining_quantity: int) -> bytes:
    return msgspec.json.encode(
        TradeExecuted(
            event="trade_executed",
            trade_id=format_id(trade.id),
            order_id=format_id(order.id),
            symbol=trade.symbol,
            side=order.side,
            price=trade.price,
            quantity=trade.quantity,
            order_remaining_quantity=remaining_quantity,
            executed_at=to_datetime(trade.executed_at_us).isoformat(),
        )
    )


class Webhooks:
    """A bounded queue and a few workers that empty it."""

    def __init__(self, *, private_allowed: bool, queue_max: int) -> None:
        self._private_allowed = private_allowed
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(queue_max)
        self._delivered = 0
        self._dropped = 0
        self._failed = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Webhooks"]:
        """Deliver until the end of the block; what waits then is dropped and logged."""
        resolver = ThreadedResolver() if self._private_allowed else PublicResolver()
        session = ClientSession(
            connector=TCPConnector(resolver=resolver, limit=WORKERS, use_dns_cache=False),
            timeout=ClientTimeout(total=TIMEOUT_S),
            trust_env=False,
            cookie_jar=DummyCookieJar(),  # what one broker's target sets is for no other
        )
        async with session:
            workers = [asyncio.create_task(self._work(session)) for _ in range(WORKERS)]
            try:
                yield self
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                await resolver.close()
                if self._queue.qsize():
                    log.warning("%d webhook messages were not delivered", self._queue.qsize())

    def enqueue(self, messages: Iterable[Notice]) -> None:
        """Hand over messages about durable trades; those that find no room are dropped."""
        for message in messages:
            try:
                self._queue.put_nowait(message)
            except asyncio.QueueFull:
                self._dropped += 1

    async def _work(self, session: ClientSession) -> None:
        while True:
            await self._deliver(session, await self._queue.get())

    async def _deliver(self, session: ClientSession, message: Notice) -> None:
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
            if await self._accepted(session, message):
                self._delivered += 1
                return
        self._failed += 1

    async def _accepted(self, session: ClientSession, message: Notice) -> bool:
        """Whether the target answered 2xx. A redirect is not followed and not a success."""
        if not self._private_allowed and _is_private_literal(URL(message.url)):
            return False
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(
                message.url, data=message.body, headers=headers, allow_redirects=False
            ) as reply:
                return 200 <= reply.status < 300
        except (ClientError, TimeoutError, OSError, ValueError):
            return False

    async def check_target(self, url: str) -> None:
        """Raise InvalidField unless ``url`` is one that messages may go to."""
        expected = "webhook_url: expected an http:// or https:// URL"
        try:
            target = URL(url)
            named = bool(target.host)
        except ValueError:  # UnicodeError too, for a host that is no name
            raise InvalidField(expected) from None
        if target.scheme not in ("http", "https") or not named or not _is_plain(url):
            raise InvalidField(expected)
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise InvalidField(f"{expected} without user and password")
        if not self._private_allowed and await _is_private(target):
            raise InvalidField(
                "webhook_url: expected a public host; private and loopback addresses are refused"
            )

    def figures(self) -> dict[str, float]:
        """For /health."""
        return {
            "webhooks_waiting": self._queue.qsize(),
            "webhooks_delivered": self._delivered,
            "webhooks_failed": self._failed,
            "webhooks_dropped": self._dropped,
        }


class PublicResolver(AbstractResolver):
    """Name look-up that gives public addresses only.

    The address that was checked is the one that is connected to, so a name that changes its mind
    between the check and the delivery gains nothing.
    """

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


def _is_plain(url: str) -> bool:
    """Whether a URL has only characters that can be sent as they are."""
    return url.isprintable() and " " not in url


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _GLOBAL_UNICAST or ip.sixtofour):
        return False  # forms that carry an IPv4 address inside, private ones too
    return ip.is_global and not ip.is_multicast


def _is_private_literal(url: URL) -> bool:
    try:
        return not is_public(url.host or "")
    except ValueError:
        return False


async def _is_private(url: URL) -> bool:
    """Whether the host is, or is a name for, an address that is not public.

    A name that nobody knows now is let through: delivery asks again, and asks for public only.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await within(
            RESOLVE_TIMEOUT_S,
            loop.getaddrinfo(url.host or "", url.port, type=socket.SOCK_STREAM),
        )
    except (OSError, TimeoutError, UnicodeError):
        return _is_private_literal(url)
    return not all(is_public(str(address[4][0])) for address in found)
