"""What the harness asks of the exchange besides the load: set-up, progress, and the final state.

Everything goes through the public API, on the client of the load generator.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np

from bench import audit, traffic, wire
from bench.http_client import Address, Pool
from bench.outcomes import name
from bench.traffic import Market, SeedOrders

Answer = TypeVar("Answer")

CONNECTIONS = 32
PAGE = 500
SEED_LIFE_S = traffic.ONE_DAY_S
# How often a seed order may be refused, and how long to wait then, as Retry-After says.
SEED_TRIES, SEED_RETRY_S = 20, 1.0
CONNECT_PATIENCE_S = 5.0
PATIENCE_S = 60.0
RETRY_S = 0.2


class HarnessError(Exception):
    """The run cannot go on. The message is one line that says what to do."""


class Target(NamedTuple):
    """A service: its address, the Host header, and the admin key."""

    address: Address
    host_header: str
    admin_key: str


class Broker(NamedTuple):
    """A broker of the run, registered under ``name``."""

    name: str
    id: str
    key: str


class FinalState(NamedTuple):
    """All that the exchange shows after a run; balances in cents, by broker number."""

    held: list[audit.Held]
    books: list[wire.BookDepth]
    prices: dict[str, wire.Price | None]
    balances: list[int]
    trade_count: int | None


def resolve(url: str) -> tuple[Address, str]:
    """The address that answers at ``url``, and its Host header. Raises HarnessError."""
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
        raise HarnessError(f"--url: {url!r} is not usable; expected http://HOST:PORT")
    reason: OSError = OSError("no address")
    try:
        places = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        for *_, place in places:
            address = Address(str(place[0]), port)
            try:
                socket.create_connection(address, CONNECT_PATIENCE_S).close()
                return address, parts.netloc
            except OSError as error:
                reason = error
    except OSError as error:
        reason = error
    raise HarnessError(
        f"--url: nothing answers at {url} ({reason.strerror or reason}); "
        "start the service there or use --spawn"
    )


class Session:
    """Requests to one exchange; a future each, so for set-up and audit, not for load."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._next = 0
        self._pool = Pool(target.address, CONNECTIONS, self._on_reply)

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.close()
        await asyncio.sleep(0)  # let the transports close before their loop does

    def send(self, data: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Ask; the future gives outcome and body. At most 32 are under way at a time."""
        self._next += 1
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._next] = answer
        self._pool.send(self._next, data)
        return answer

    async def ask(self, data: bytes, expected: int = 200, *, again: bool = False) -> bytes:
        """The body of the expected answer, asked for as ``answer`` does. Raises HarnessError."""
        return expect(data, *await self.answer(data, again=again), expected=expected)

    async def answer(self, data: bytes, *, again: bool) -> tuple[int, bytes]:
        """Outcome and body; with ``again`` a request that an overloaded service refuses is
        repeated for a while. Raises HarnessError when there is no answer."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                outcome, body = await self.send(data)
                while again and outcome == HTTPStatus.SERVICE_UNAVAILABLE:
                    await asyncio.sleep(RETRY_S)
                    outcome, body = await self.send(data)
        except TimeoutError:
            raise HarnessError(f"{_line(data)} was not answered within {PATIENCE_S:g} s") from None
        return outcome, body

    async def get(
        self, key: str, path: str, answer: type[Answer], *, again: bool = False
    ) -> Answer:
        """GET ``path``, decoded. Raises HarnessError when the answer is not as promised."""
        body = await self.ask(wire.get(self.target.host_header, key, path), again=again)
        return _decoded(path, body, answer)

    async def health(self) -> wire.Health:
        """GET /health."""
        return await self.get("", "/health", wire.Health)

    def _on_reply(self, token: int, outcome: int, body: bytes) -> None:
        answer = self._answers.pop(token)
        if not answer.done():
            answer.set_result((outcome, body))


def expect(data: bytes, outcome: int, body: bytes, *, expected: int) -> bytes:
    """The body of an answer to a request. Raises HarnessError when it is not the expected one."""
    if outcome != expected:
        raise HarnessError(f"{_line(data)} answered {name(outcome)}: {body[:200].decode()}")
    return body


def _decoded(path: str, body: bytes, answer: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.MsgspecError as error:
        raise HarnessError(f"GET {path} answered something unexpected: {error}") from error


def _line(data: bytes) -> str:
    """Method and path of a request."""
    return data.partition(b" HTTP/")[0].decode()


async def reset(session: Session) -> None:
    """Empty the exchange. Raises HarnessError when it does not allow that."""
    target = session.target
    outcome, body = await session.send(
        wire.post(target.host_header, target.admin_key, "/debug/reset", b"")
    )
    if outcome == 404:
        raise HarnessError("--reset: the service refuses; start it with EXCHANGE_DEBUG=1")
    if outcome in (401, 503):
        raise HarnessError(_admin_key_line(outcome))
    if outcome != 200:
        raise HarnessError(f"--reset: the service answered {name(outcome)}: {body[:200].decode()}")


async def register(session: Session, count: int) -> list[Broker]:
    """New brokers. Raises HarnessError when the admin key is not accepted."""
    target = session.target
    names = [f"broker {number:03d}" for number in range(count)]
    answers = [
        session.send(
            wire.post(
                target.host_header,
                target.admin_key,
                "/register",
                msgspec.json.encode({"name": broker_name}),
            )
        )
        for broker_name in names
    ]
    brokers = []
    for broker_name, answer in zip(names, answers, strict=True):
        outcome, body = await answer
        if outcome in (401, 403, 503):
            raise HarnessError(_admin_key_line(outcome))
        if outcome != 201:
            raise HarnessError(f"POST /register answered {name(outcome)}: {body[:200].decode()}")
        registration = msgspec.json.decode(body, type=wire.Registration)
        brokers.append(Broker(broker_name, registration.broker_id, registration.api_key))
    return brokers


async def seed(
    session: Session, market: Market, seeds: SeedOrders, brokers: Sequence[Broker], now_s: float
) -> dict[str, audit.SentOrder]:
    """Fill the books at full speed; the acknowledged orders by id. ``now_s`` is since 1970.

    What is refused because it is too much is sent again. Raises HarnessError.
    """
    valid_until = wire.instants(np.array([now_s + SEED_LIFE_S]))[0]
    rows = zip(
        seeds.broker.tolist(),
        seeds.symbol.tolist(),
        seeds.side.tolist(),
        seeds.price.tolist(),
        seeds.quantity.tolist(),
        strict=True,
    )
    unsent = []
    for number, (broker, symbol, side, price, quantity) in enumerate(rows):
        order = audit.SentOrder(
            broker, market.symbols[symbol], traffic.SIDES[side], price, quantity
        )
        data = wire.order(
            session.target.host_header,
            brokers[broker].key,
            document_number=number,
            side=order.side,
            symbol=order.symbol,
            price=price,
            quantity=quantity,
            valid_until=valid_until,
        )
        unsent.append((order, data))
    acknowledged: dict[str, audit.SentOrder] = {}
    for tries in range(SEED_TRIES):
        sent = [(order, data, session.send(data)) for order, data in unsent]
        unsent = []
        for order, data, answer in sent:
            outcome, body = await answer
            if outcome == 503 and tries + 1 < SEED_TRIES:
                unsent.append((order, data))
            elif outcome != 201:
                raise HarnessError(f"a seed order answered {name(outcome)}: {body[:200].decode()}")
            else:
                acknowledged[msgspec.json.decode(body, type=wire.Receipt).order_id] = order
        if not unsent:
            break
        await asyncio.sleep(SEED_RETRY_S)
    return acknowledged


async def until_flushed(session: Session, patience_s: float) -> None:
    """Wait until all that was accepted is in the database. Raises HarnessError."""
    try:
        async with asyncio.timeout(patience_s):
            # Another process flushes; it can only be asked.
            health = await session.health()
            while not health.flushed:
                await asyncio.sleep(0.02)
                health = await session.health()
    except TimeoutError:
        raise HarnessError(f"not everything was flushed within {patience_s:g} s") from None


async def final_state(
    session: Session, symbols: Sequence[str], brokers: Sequence[Broker]
) -> FinalState:
    """Read everything back. Nothing may change meanwhile."""
    pages = await _all(brokers, lambda number: _orders_of(session, number, brokers[number].key))
    key = brokers[0].key
    books = await _all(
        symbols,
        lambda number: session.get(
            key,
            f"/stocks/{symbols[number]}/book?depth={audit.BOOK_DEPTH_MAX}",
            wire.BookDepth,
            again=True,
        ),
    )
    prices = await _all(symbols, lambda number: _price_of(session, key, symbols[number]))
    balances = await _all(
        brokers,
        lambda number: session.get(brokers[number].key, "/balance", wire.Balance, again=True),
    )
    return FinalState(
        held=[held for page in pages for held in page],
        books=books,
        prices=dict(zip(symbols, prices, strict=True)),
        balances=[balance.balance for balance in balances],
        trade_count=await _trade_count(session),
    )


async def _orders_of(session: Session, number: int, key: str) -> list[audit.Held]:
    """All orders of one broker, page by page."""
    held: list[audit.Held] = []
    cursor = ""
    while True:
        path = f"/orders?limit={PAGE}{cursor}"
        page = await session.get(key, path, wire.OrderPage, again=True)
        held += [audit.Held(number, order) for order in page.orders]
        if page.next_cursor is None:
            return held
        cursor = f"&cursor={page.next_cursor}"


async def _price_of(session: Session, key: str, symbol: str) -> wire.Price | None:
    """None before the first trade."""
    path = f"/stocks/{symbol}/price?trades={audit.PRICE_TRADES}"
    data = wire.get(session.target.host_header, key, path)
    outcome, body = await session.answer(data, again=True)
    if outcome == HTTPStatus.NOT_FOUND:
        return None
    return _decoded(path, expect(data, outcome, body, expected=200), wire.Price)


async def _trade_count(session: Session) -> int | None:
    """What the exchange counts itself; None where it is not asked to (EXCHANGE_DEBUG)."""
    target = session.target
    data = wire.get(target.host_header, target.admin_key, "/debug/trade-count")
    outcome, body = await session.answer(data, again=True)
    if outcome == HTTPStatus.NOT_FOUND:
        return None
    body = expect(data, outcome, body, expected=200)
    return msgspec.json.decode(body, type=dict[str, int])["count"]


async def _all(items: Sequence[object], ask: Callable[[int], Awaitable[Answer]]) -> list[Answer]:
    return list(await asyncio.gather(*(ask(number) for number in range(len(items)))))


def _admin_key_line(outcome: int) -> str:
    reason = "it has none" if outcome == 503 else "it is another"
    return (
        f"--admin-key: the service does not accept it ({reason}); "
        "give the EXCHANGE_ADMIN_API_KEY that the service was started with"
    )
