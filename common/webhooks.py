"""Tell brokers of their trades: after a trade is durable, and never in the way of trading.

Nothing outlives the process: what waits or is on its way when it ends is gone. A target that keeps
failing is given up after a few tries, and one that answers late may get a message twice. What is
lost is counted.
"""

import asyncio
import ipaddress
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import ResolveResult
from yarl import URL

from common.errors import InvalidField
from common.ids import format_id
from common.model import Order, Side, Trade, to_datetime
from common.resolving import Resolver
from common.waiting import within

TIMEOUT_S = 5.0
TRIES = 4
BACKOFF_S = 0.5  # doubled after each try
# How many are on their way at once, to all targets and to one.
IN_FLIGHT_MAX, OF_ONE_MAX = 256, 4
RESOLVE_TIMEOUT_S = 2.0
RESOLVED_FOR_S = 1  # so that a try after some others asks again

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
    executed_at: datetime


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
            executed_at=to_datetime(trade.executed_at_us),
        )
    )


class _Target:
    """What waits for one URL, how many tasks deliver it, and whether the latest delivery failed."""

    __slots__ = ("busy", "fails", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Notice] = deque()
        self.busy = 0
        self.fails = False


class Webhooks:
    """A queue for each target, so that one that does not answer keeps no other waiting.

    Together they hold ``queue_max`` messages, and one no more of them than are still free.
    """

    def __init__(self, *, private_allowed: bool, queue_max: int) -> None:
        self._private_allowed = private_allowed
        self._queue_max = queue_max
        self._targets: dict[str, _Target] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._resolver = Resolver() if private_allowed else PublicResolver()
        self._session: ClientSession | None = None
        self._waiting = 0
        self._in_flight = 0
        self._delivered = 0
        self._dropped = 0
        self._failed = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Webhooks"]:
        """Deliver until the end of the block; what has not arrived then is given up and logged."""
        self._session = ClientSession(
            # Its cache also lets all who ask for a name wait for one look-up.
            connector=TCPConnector(
                resolver=self._resolver, limit=IN_FLIGHT_MAX, ttl_dns_cache=RESOLVED_FOR_S
            ),
            timeout=ClientTimeout(total=TIMEOUT_S),
            trust_env=False,
            cookie_jar=DummyCookieJar(),  # what one broker's target sets is for no other
        )
        async with self._session:
            try:
                yield self
            finally:
                tasks = [*self._tasks]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if lost := self._waiting + self._in_flight:
                    log.warning(
                        "%d webhook messages are given up: %d waited, "
                        "%d were on their way and may have arrived",
                        lost,
                        self._waiting,
                        self._in_flight,
                    )

    def enqueue(self, messages: Iterable[Notice]) -> None:
        """Hand over messages about durable trades; those that find no room are dropped."""
        for message in messages:
            target = self._targets.get(message.url) or _Target()
            if len(target.waiting) >= self._queue_max - self._waiting:
                self._dropped += 1
                continue
            self._targets[message.url] = target
            target.waiting.append(message)
            self._waiting += 1
            if target.busy < (1 if target.fails else OF_ONE_MAX):
                target.busy += 1
                task = asyncio.create_task(self._empty(message.url, target))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _empty(self, url: str, target: _Target) -> None:
        """Deliver what waits for a target; where that fails, one message after the other."""
        try:
            while target.waiting and (target.busy == 1 or not target.fails):
                message = target.waiting.popleft()
                self._waiting -= 1
                self._in_flight += 1
                target.fails = not await self._deliver(message)
                self._in_flight -= 1  # not when it is cut off: what became of it is not known
        finally:
            target.busy -= 1
            if not target.busy and not target.waiting:
                del self._targets[url]

    async def _deliver(self, message: Notice) -> bool:
        """Whether it was, by any of some tries."""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
            async with self._room:
                if await self._accepted(message):
                    self._delivered += 1
                    return True
        self._failed += 1
        return False

    async def _accepted(self, message: Notice) -> bool:
        """Whether the target answered 2xx. A redirect is not followed and not a success."""
        if not self._private_allowed and _is_private_literal(URL(message.url)):
            return False
        assert self._session is not None, "opened"
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
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
        if not self._private_allowed and await self._is_private(target):
            raise InvalidField(
                "webhook_url: expected a public host; private and loopback addresses are refused"
            )

    async def _is_private(self, url: URL) -> bool:
        """Whether the host is, or is a name for, an address that is not public.

        A name that nobody knows now is let through: delivery asks again, and for public only.
        """
        try:
            found = await within(RESOLVE_TIMEOUT_S, self._resolver.look_up(_host(url), url.port))
        except (OSError, TimeoutError, UnicodeError):
            return _is_private_literal(url)
        return not all(is_public(str(address[0])) for *_, address in found)

    def figures(self) -> dict[str, float]:
        """For /health."""
        return {
            "webhooks_waiting": self._waiting,
            "webhooks_in_flight": self._in_flight,
            "webhooks_delivered": self._delivered,
            "webhooks_failed": self._failed,
            "webhooks_dropped": self._dropped,
        }


class PublicResolver(Resolver):
    """Name look-up that gives public addresses only.

    The address that was checked is the one that is connected to, so a name that changes its mind
    between the check and the delivery gains nothing.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public


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


def _host(url: URL) -> str:
    """Without what stands for the same name: quoted characters, a dot at the end."""
    return unquote(url.host or "").rstrip(".")


def _is_private_literal(url: URL) -> bool:
    try:
        return not is_public(_host(url))
    except ValueError:
        return False
