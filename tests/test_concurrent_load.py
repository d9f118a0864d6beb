"""Under concurrent load on one symbol every case trades by strict price-time priority.

The brokers send over many connections at once. Afterwards the audit of the harness must find
nothing, and the orders, in the sequence that the exchange has given them, must make the same trades
in the list model. That a sequence is not just any order is held against the clock of the client:
who was answered before another one was sent comes first.

A cancel has no place in the sequence of the orders. Its place follows from the trades: an order
that was cancelled in the end, and that a taker passes over though it stood in its way, had been
cancelled by then. The model cancels it there, so a later taker can no longer meet it. The clock of
the client bounds that place from both sides.
"""

import asyncio
import importlib
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pytest
from client import HOST, Service, eventually
from conftest import CASES, NewDatabase, services
from reference import ReferenceExchange

from bench import audit, exchange_client, stored_state, wire
from bench.audit import Sent, SentOrder
from bench.exchange_client import Broker, FinalState, Session, Target
from bench.http_client import Address
from bench.traffic import Market
from common.model import CloseReason, NewOrder, Order, OrderType, Side

SEED = 11
CONNECTIONS = 50
COMMANDS = 4_000
SYMBOL = "PETR4"
BASE_PRICE = 3_000
MARKET = Market((SYMBOL,), np.array([BASE_PRICE]), np.array([1.0]), brokers=5)
# How many of a broker's own latest orders it chooses from when it cancels.
RECENT = 12
FAR = "2099-12-31T23:59:59.000000Z"
FAR_US = 10**18
PATIENCE_S = 200.0


# ---- the load ----


class Span(NamedTuple):
    """From before a request left until its answer was there, by the clock of the client."""

    sent_s: float
    answered_s: float


@dataclass
class Load:
    """What was asked and answered. The keys are order ids."""

    orders: dict[str, SentOrder] = field(default_factory=dict)
    remaining: dict[str, int] = field(default_factory=dict)  # according to the receipt
    spans: dict[str, Span] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)  # the number of the one that it took
    cancels: defaultdict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    recent: list[deque[str]] = field(
        default_factory=lambda: [deque(maxlen=RECENT) for _ in range(MARKET.brokers)]
    )


class Connection:
    """One connection of a broker, which sends a command when the one before is answered."""

    def __init__(self, number: int, session: Session, broker: int, key: str) -> None:
        self.number = number
        self.session = session
        self.broker = broker
        self.key = key
        self._random = Random(f"{SEED} {number}")

    async def trade(self, turns: Iterator[int], load: Load) -> None:
        """Take turns with the others until there are none left."""
        for turn in turns:
            recent = load.recent[self.broker]
            if recent and self._random.random() < 0.3:
                await self._cancel(self._random.choice(recent), load)
            else:
                await self._place(turn, self._draw_order(), load)

    def _draw_order(self) -> SentOrder:
        """A tenth are market orders, and about half of the others cross the spread."""
        random = self._random
        side = random.choice(list(Side))
        quantity = random.randint(1, 40)
        away = random.randint(-4, 5)
        price = BASE_PRICE + (away if side is Side.ASK else -away)
        is_market = random.random() < 0.1
        return SentOrder(self.broker, SYMBOL, side, None if is_market else price, quantity)

    async def _place(self, turn: int, order: SentOrder, load: Load) -> None:
        request = wire.order(
            self.session.target.host_header,
            self.key,
            document_number=turn,
            side=order.side,
            symbol=order.symbol,
            price=order.price or 0,
            quantity=order.quantity,
            valid_until=FAR,
        )
        body, span = await self._ask(request, 201)
        receipt = msgspec.json.decode(body, type=wire.Receipt)
        load.orders[receipt.order_id] = order
        load.remaining[receipt.order_id] = receipt.remaining_quantity
        load.spans[receipt.order_id] = span
        load.connections[receipt.order_id] = self.number
        load.recent[self.broker].append(receipt.order_id)

    async def _cancel(self, order_id: str, load: Load) -> None:
        end = wire.cancel_end(self.session.target.host_header, self.key)
        _, span = await self._ask(f"POST /orders/{order_id}".encode() + end, 204)
        load.cancels[order_id].append(span)

    async def _ask(self, request: bytes, expected: int) -> tuple[bytes, Span]:
        sent_s = time.monotonic()
        body = await self.session.ask(request, expected)
        return body, Span(sent_s, time.monotonic())

    async def orders_accepted(self) -> int:
        """How often the process at the other end has answered 201, by which it is known."""
        host = self.session.target.host_header
        page = (await self.session.ask(wire.get(host, "", "/metrics"))).decode()
        [count] = re.findall(r'^exchange_http_replies_total\{status="201"\} (\S+)$', page, re.M)
        return round(float(count))


class Result(NamedTuple):
    """A load, what the exchange showed afterwards, and how many orders each order's process had."""

    load: Load
    brokers: list[Broker]
    state: FinalState
    process_of: dict[str, int]


async def loaded(service: Service) -> Result:
    """Run the load; all of it is in the database afterwards."""
    port = service.client.port
    target = Target(Address(HOST, port), f"{HOST}:{port}", service.admin_key)
    load = Load()
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(Session(target)) for _ in range(CONNECTIONS)]
        brokers = await exchange_client.register(sessions[0], MARKET.brokers)
        connections = []
        for number, session in enumerate(sessions):
            broker = number % MARKET.brokers
            connections.append(Connection(number, session, broker, brokers[broker].key))
        turns = iter(range(COMMANDS))
        await asyncio.gather(*(connection.trade(turns, load) for connection in connections))
        processes = [await connection.orders_accepted() for connection in connections]
        await exchange_client.until_flushed(sessions[0], PATIENCE_S)
        state = await exchange_client.final_state(sessions[0], MARKET.symbols, brokers)
    process_of = {order_id: processes[number] for order_id, number in load.connections.items()}
    return Result(load, brokers, state, process_of)


# ---- the replay ----


class Row(NamedTuple):
    """An order as the database holds it."""

    sequence: int
    id: UUID
    broker_id: UUID
    side: str
    order_type: str
    symbol: str
    price: int | None
    quantity: int
    remaining_quantity: int
    close_reason: str | None


class Fill(NamedTuple):
    """What a taker got from one maker."""

    maker_id: int
    price: int
    quantity: int


Fills = Mapping[int, Sequence[Fill]]


def stored_orders(service: Service) -> list[Row]:
    """All orders in their sequence."""
    columns = ", ".join(Row._fields)
    return [Row(*row) for row in service.sql(f"SELECT {columns} FROM orders ORDER BY sequence")]


def stored_fills(service: Service) -> Fills:
    """What each taker got, in the order of its trades."""
    query = "SELECT taker_order_id, maker_order_id, price, quantity FROM trades ORDER BY id"
    fills: defaultdict[int, list[Fill]] = defaultdict(list)
    for taker_id, maker_id, price, quantity in service.sql(query):
        fills[taker_id.int].append(Fill(maker_id.int, price, quantity))
    return fills


class Replay(NamedTuple):
    """The list model after the load; the pairs (maker, taker) of those that were passed over."""

    model: ReferenceExchange
    passed_over: list[tuple[int, int]]


def replay(rows: Sequence[Row], fills: Fills) -> Replay:
    """Give the orders to the list model, which must trade as the exchange did."""
    cancelled = {row.id.int for row in rows if row.close_reason == CloseReason.CANCELLED}
    done = Replay(ReferenceExchange(), [])
    for row in rows:
        for maker_id in passed_over(done.model, row, fills.get(row.id.int, ()), cancelled):
            done.model.cancel(maker_id, row.sequence)
            done.passed_over.append((maker_id, row.id.int))
        trades = done.model.submit(
            NewOrder(
                document_number="1",
                side=Side(row.side),
                order_type=OrderType(row.order_type),
                symbol=row.symbol,
                price=row.price,
                quantity=row.quantity,
                valid_until_us=None if row.price is None else FAR_US,
            ),
            order_id=row.id.int,
            sequence=row.sequence,
            broker_id=row.broker_id.int,
            now_us=row.sequence,
        )
        expected = [Fill(trade.maker_order_id, trade.price, trade.quantity) for trade in trades]
        assert list(fills.get(row.id.int, ())) == expected, row
    # Those that were in nobody's way.
    for order_id in cancelled:
        done.model.cancel(order_id, rows[-1].sequence)
    return done


def passed_over(
    model: ReferenceExchange, taker: Row, fills: Sequence[Fill], cancelled: Set[int]
) -> list[int]:
    """Orders that stood in the taker's way and were not met: ``cancelled`` in the end, so by then.

    An order stands in the way when its price is accepted and those before it in the line did not
    give the taker all it wants. Any other order that is not met is an error, which this leaves to
    be found.
    """
    met = {fill.maker_id: fill.quantity for fill in fills}
    wanted = taker.quantity
    found = []
    for maker in model.side(taker.symbol, Side.ASK if taker.side == Side.BID else Side.BID):
        if wanted <= 0 or not in_reach(taker, maker):
            break
        if maker.id in met:
            wanted -= met[maker.id]
        elif maker.id in cancelled:
            found.append(maker.id)
        else:
            wanted -= maker.remaining_quantity
    return found


def in_reach(taker: Row, maker: Order) -> bool:
    """Whether the taker accepts the price of the maker."""
    if taker.price is None or maker.price is None:
        return True
    return maker.price <= taker.price if taker.side == Side.BID else maker.price >= taker.price


# ---- the tests ----


def processes_possible(case: str) -> tuple[int, ...]:
    """One, and four for a case that keeps no state between requests."""
    stateless: bool = importlib.import_module(f"{case}.app").STATELESS
    return (1, 4) if stateless else (1,)


@pytest.fixture(
    params=[
        pytest.param((case, processes), id=f"{case}-{processes}")
        for case in CASES
        for processes in processes_possible(case)
    ]
)
def started(
    request: pytest.FixtureRequest, new_database: NewDatabase, new_place: Callable[[], Path]
) -> Iterator[tuple[Service, int]]:
    """A case, and how many processes serve it; all of them do."""
    case, processes = request.param
    with contextmanager(services)(case, new_database, new_place) as start:
        # However slow the machine is, nobody is turned away.
        service = start(EXCHANGE_PROCESSES=str(processes), EXCHANGE_POOL_WAIT_MS="60000")
        eventually(lambda: service.text().count("serving on http") == processes)
        yield service, processes


async def test_concurrent_orders_and_cancels_trade_by_price_time_priority(
    started: tuple[Service, int],
) -> None:
    service, processes = started
    async with asyncio.timeout(PATIENCE_S):
        result = await loaded(service)
    rows, fills = stored_orders(service), stored_fills(service)
    assert audit_findings(service, result) == []

    done = replay(rows, fills)
    assert_the_model_agrees(done.model, rows, result)
    spans = {row.id.int: result.load.spans[str(row.id)] for row in rows}
    cancels = {UUID(order_id).int: spans for order_id, spans in result.load.cancels.items()}
    assert_the_sequence_keeps_time([spans[row.id.int] for row in rows])
    assert_cancels_keep_time(done, spans, cancels)

    # None of this was for nothing.
    assert len(rows) > COMMANDS // 2
    assert sum(len(each) for each in fills.values()) > COMMANDS // 4
    assert len(done.passed_over) > COMMANDS // 100
    assert_processes_share_the_load(processes, result.process_of, fills)


def audit_findings(service: Service, result: Result) -> list[str]:
    """What the harness finds wrong: in what the exchange shows, and in the database beside it."""
    load, state = result.load, result.state
    held, ids = state.held, [broker.id for broker in result.brokers]
    assert service.database_url is not None
    stored = stored_state.read(service.database_url)
    return [
        *audit.order_findings(
            Sent(load.orders, [], frozenset(load.cancels), frozenset(load.cancels), {}), held
        ),
        *audit.passed_over_findings(stored.orders),
        *audit.state_findings(held),
        *audit.trade_findings(held, [broker.name for broker in result.brokers], state.trade_count),
        *audit.cash_findings(held, state.balances),
        *audit.book_findings(held, state.books),
        *audit.stored_order_findings(held, ids, stored.orders),
        *audit.stored_trade_findings(held, stored.trades),
        *audit.stored_cash_findings(state.balances, ids, stored.balances),
    ]


def assert_the_model_agrees(model: ReferenceExchange, rows: Sequence[Row], result: Result) -> None:
    """It ends with the same orders, book and balances."""
    for row in rows:
        order = model.orders[row.id.int]
        assert (row.remaining_quantity, row.close_reason) == (
            order.remaining_quantity,
            order.close_reason,
        ), row
    shown = model.book(SYMBOL, audit.BOOK_DEPTH_MAX)
    assert result.state.books == [msgspec.convert(shown, wire.BookDepth, from_attributes=True)]
    balances = [model.balance(UUID(broker.id).int) for broker in result.brokers]
    assert result.state.balances == balances
    assert result.state.trade_count == len(model.trades)


def assert_the_sequence_keeps_time(spans: Sequence[Span]) -> None:
    """No order was answered before one was sent that is ahead of it in the sequence."""
    latest_sent_s = 0.0
    for span in spans:
        latest_sent_s = max(latest_sent_s, span.sent_s)
        assert latest_sent_s <= span.answered_s


def assert_cancels_keep_time(
    done: Replay, spans: Mapping[int, Span], cancels: Mapping[int, Sequence[Span]]
) -> None:
    """A cancel works at some moment between its request and its answer, for all that trade."""
    for trade in done.model.trades:
        answered_s = [span.answered_s for span in cancels.get(trade.maker_order_id, ())]
        assert spans[trade.taker_order_id].sent_s <= min(answered_s, default=inf), trade
    for maker_id, taker_id in done.passed_over:
        assert min(span.sent_s for span in cancels[maker_id]) <= spans[taker_id].answered_s


def assert_processes_share_the_load(
    processes: int, process_of: Mapping[str, int], fills: Fills
) -> None:
    """Where there are several, orders that came to one have met orders that came to another."""
    by_id = {UUID(order_id).int: process for order_id, process in process_of.items()}
    assert (len(set(by_id.values())) > 1) == (processes > 1)
    across = [
        fill
        for taker_id, each in fills.items()
        for fill in each
        if by_id[taker_id] != by_id[fill.maker_id]
    ]
    assert (len(across) > COMMANDS // 10) == (processes > 1)
