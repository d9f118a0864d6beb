"""One tape of commands gives the same exchange in every case and in the list model.

The tape is drawn from a seed before anything runs. Every case gets it over HTTP, one command after
the other, and gives an account: each answer, and now and then all that can be seen. All accounts
must be that of the model. Ids differ, so an order is known by its position on the tape.

Fleeting orders end by the clock, which does not know how fast a machine is. So the tape has phases.
The fleeting orders of a phase come in its second part and end at one instant, which is chosen by
the pace of the first part; nothing more is sent until then. If the last command of the phase is
not answered before that instant, the case starts again with more patience.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product, zip_longest
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from client import HOST, Service
from conftest import CASES, NewDatabase, services
from msgspec.structs import replace
from reference import ReferenceExchange

from bench import exchange_client, wire
from bench.audit import BOOK_DEPTH_MAX, Held
from bench.exchange_client import Broker, FinalState, Session, Target
from bench.http_client import Address
from bench.traffic import Market
from common.ids import format_id
from common.model import CloseReason, NewOrder, Order, OrderType, Price, Side

SEED = 7
PHASES = 4
CALM = 4_200
FLEETING = 900
MARKET = Market(
    symbols=("PETR4", "VALE3", "ITUB4", "B3SA3", "WEGE3"),
    base_price=np.array([3_150, 6_420, 2_800, 1_100, 40]),
    popularity=np.array([0.4, 0.65, 0.8, 0.95, 1.0]),
    brokers=6,
)
AVERAGES = (1, 50, 1_000)  # over so many trades
MANY = 8  # more makers than this are not read at once

FAR = "2099-12-31T23:59:59.000000Z"
FAR_PHASE = PHASES + 1
# The fleeting part gets so much more time than its first part's pace says that it needs.
MARGIN = 2.0
MARGIN_S = 1.0
CLOCKS_APART_S = 0.005  # a sleep is measured by another clock than the one that ends orders
PATIENCE = (1, 4, 16)  # times that, one attempt after the other
TEST_PATIENCE_S = 540.0


# ---- the tape ----


class Place(NamedTuple):
    """A new order, a market order when there is no price. A fleeting one ends with its phase."""

    broker: int
    symbol: str
    side: Side
    price: int | None
    quantity: int
    fleeting: bool


class Cancel(NamedTuple):
    """``target`` is the position of an order, None for an id that nothing has."""

    broker: int
    target: int | None


Command = Place | Cancel


class Phase(NamedTuple):
    """Positions on the tape."""

    calm: range
    fleeting: range


def phases() -> list[Phase]:
    length = CALM + FLEETING
    starts = [number * length for number in range(PHASES)]
    return [Phase(range(s, s + CALM), range(s + CALM, s + length)) for s in starts]


def draw_tape(seed: int) -> list[Command]:
    """The same tape for the same seed. The list model says along the way which orders are open."""
    random, model = Random(seed), Model()
    tape: list[Command] = []
    for phase in phases():
        for position in (*phase.calm, *phase.fleeting):
            if position and random.random() < 0.33:
                tape.append(draw_cancel(random, model.exchange))
            else:
                tape.append(draw_order(random, fleeting=position in phase.fleeting))
            model.apply(position, tape[position])
        model.end_phase()
    return tape


def draw_order(random: Random, *, fleeting: bool) -> Place:
    """Near the base price of its symbol: many cross, and the book shows all levels that it has."""
    [symbol] = random.choices(range(len(MARKET.symbols)), cum_weights=MARKET.popularity.tolist())
    side = random.choice(list(Side))
    broker = random.randrange(MARKET.brokers)
    quantity = random.randint(1, 30)
    if random.random() < 0.12:
        # A few are so large that they meet very many makers.
        quantity *= 40 if random.random() < 0.08 else 1
        return Place(broker, MARKET.symbols[symbol], side, None, quantity, fleeting=False)
    away = random.randint(-5, 9)
    price = int(MARKET.base_price[symbol]) + (away if side is Side.ASK else -away)
    ends = fleeting and random.random() < 0.5
    return Place(broker, MARKET.symbols[symbol], side, price, quantity, ends)


def draw_cancel(random: Random, exchange: ReferenceExchange) -> Cancel:
    """Of an open order, of any, or of none; sometimes by another broker."""
    chance = random.random()
    if chance < 0.04:
        return Cancel(random.randrange(MARKET.brokers), None)
    open_one = exchange.resting and chance < 0.4
    order = random.choice(exchange.resting if open_one else list(exchange.orders.values()))
    foreign = random.random() < 0.06
    return Cancel((order.broker_id + foreign) % MARKET.brokers, order.id)


# ---- the account of the model ----


class Answer(NamedTuple):
    """The reply to the command at ``position``; the last two are None for a cancel."""

    position: int
    outcome: int
    status: str | None = None
    remaining_quantity: int | None = None


class Model:
    """The list model, shown like a case. Its clock counts phases, an order's id is its position."""

    def __init__(self) -> None:
        self.exchange = ReferenceExchange()
        self.phase = 0

    def apply(self, position: int, command: Command) -> Answer:
        if isinstance(command, Cancel):
            return self._cancel(position, command)
        self.exchange.submit(
            self._asked(command),
            order_id=position,
            sequence=position,
            broker_id=command.broker,
            now_us=self.phase,
        )
        order = self.exchange.orders[position]
        return Answer(position, 201, status_of(order), order.remaining_quantity)

    def _asked(self, command: Place) -> NewOrder:
        if command.price is None:
            kind, end = OrderType.MARKET, None
        else:
            kind, end = OrderType.LIMIT, self.phase + 1 if command.fleeting else FAR_PHASE
        return NewOrder(
            "1", command.side, kind, command.symbol, command.price, command.quantity, end
        )

    def _cancel(self, position: int, command: Cancel) -> Answer:
        if command.target is None:
            return Answer(position, 204)
        if self.exchange.orders[command.target].broker_id != command.broker:
            return Answer(position, 403)
        self.exchange.cancel(command.target, self.phase)
        return Answer(position, 204)

    def end_phase(self) -> None:
        self.phase += 1
        self.exchange.expire(self.phase)

    def state(self) -> FinalState:
        brokers = range(MARKET.brokers)
        return FinalState(
            held=[
                Held(broker, detail_of(order))
                for broker in brokers
                for order in self.exchange.orders_of(broker)
            ],
            books=[
                msgspec.convert(
                    self.exchange.book(symbol, BOOK_DEPTH_MAX), wire.BookDepth, from_attributes=True
                )
                for symbol in MARKET.symbols
            ],
            prices={},  # asked for each of several averages below
            balances=[self.exchange.balance(broker) for broker in brokers],
            trade_count=len(self.exchange.trades),
        )

    def prices(self) -> list[Price | None]:
        return [
            self.exchange.price(symbol, trades) for symbol in MARKET.symbols for trades in AVERAGES
        ]


def status_of(order: Order) -> str:
    return "open" if order.is_open else "closed"


def detail_of(order: Order) -> wire.OrderDetail:
    """The order as its owner sees it, with what ``by_position`` puts in the place of ids."""
    trades = []
    for trade in order.trades:
        is_taker = trade.taker_order_id == order.id
        trades.append(
            wire.TradeDetail(
                str([trade.maker_order_id, trade.taker_order_id]),
                trade.price,
                trade.quantity,
                str(trade.maker_broker_id if is_taker else trade.taker_broker_id),
            )
        )
    return wire.OrderDetail(
        id=str(order.id),
        side=order.side,
        order_type=order.order_type,
        symbol=order.symbol,
        price=order.price,
        quantity=order.quantity,
        remaining_quantity=order.remaining_quantity,
        status=status_of(order),
        close_reason=order.close_reason,
        trades=trades,
    )


def account_of_model(tape: Sequence[Command]) -> list[object]:
    """What every case must show."""
    model = Model()
    account: list[object] = []
    for phase in phases():
        account += [model.apply(position, tape[position]) for position in phase.calm]
        account += facts(model.state(), model.prices())
        account += [model.apply(position, tape[position]) for position in phase.fleeting]
        model.end_phase()
    return account + facts(model.state(), model.prices())


def facts(state: FinalState, prices: Sequence[Price | None]) -> list[object]:
    """All that can be seen, one thing after the other."""
    return [*state.held, *state.books, *prices, state.balances, state.trade_count]


# ---- the account of a case ----


class TooLate(Exception):
    """A command of a phase was answered only when its fleeting orders had ended."""


class Player:
    """One case, to which the tape is applied over one connection."""

    def __init__(self, session: Session, brokers: Sequence[Broker]) -> None:
        self.session = session
        self.brokers = brokers
        self.ids: dict[int, str] = {}

    async def apply(self, position: int, command: Command, end: str) -> Answer:
        """Send the command of ``position`` and wait; a fleeting order is valid until ``end``."""
        host, key = self.session.target.host_header, self.brokers[command.broker].key
        if isinstance(command, Cancel):
            order_id = format_id(1) if command.target is None else self.ids[command.target]
            path = f"POST /orders/{order_id}".encode()
            outcome, _ = await self.session.send(path + wire.cancel_end(host, key))
            return Answer(position, outcome)
        outcome, body = await self.session.send(
            wire.order(
                host,
                key,
                document_number=position,
                side=command.side,
                symbol=command.symbol,
                price=command.price or 0,
                quantity=command.quantity,
                valid_until=end if command.fleeting else FAR,
            )
        )
        if outcome != 201:
            return Answer(position, outcome)
        receipt = msgspec.json.decode(body, type=wire.Receipt)
        self.ids[position] = receipt.order_id
        return Answer(position, outcome, receipt.status, receipt.remaining_quantity)

    async def look(self) -> list[object]:
        """All that can be seen, when all that was written can be read."""
        await exchange_client.until_flushed(self.session, exchange_client.PATIENCE_S)
        state = await exchange_client.final_state(self.session, MARKET.symbols, self.brokers)
        held = by_position(state.held, self.ids, self.brokers)
        prices = [
            await self._price(f"/stocks/{symbol}/price?trades={trades}")
            for symbol in MARKET.symbols
            for trades in AVERAGES
        ]
        return facts(state._replace(held=held), prices)

    async def _price(self, path: str) -> Price | None:
        request = wire.get(self.session.target.host_header, self.brokers[0].key, path)
        outcome, body = await self.session.send(request)
        return None if outcome == 404 else msgspec.json.decode(body, type=Price)


def by_position(held: Sequence[Held], ids: dict[int, str], brokers: Sequence[Broker]) -> list[Held]:
    """The orders with their positions as ids; a trade gets the positions of its two orders, and
    a counterparty its number."""
    positions = {order_id: position for position, order_id in ids.items()}
    numbers = {broker.name: str(number) for number, broker in enumerate(brokers)}
    sides: defaultdict[str, list[int]] = defaultdict(list)
    for _, order in held:
        for trade in order.trades:
            sides[trade.trade_id].append(positions[order.id])
    names = {trade_id: str(sorted(both)) for trade_id, both in sides.items()}
    return [
        Held(
            broker,
            replace(
                order,
                id=str(positions[order.id]),
                trades=[
                    replace(
                        trade,
                        trade_id=names[trade.trade_id],
                        counterparty_broker=numbers[trade.counterparty_broker],
                    )
                    for trade in order.trades
                ],
            ),
        )
        for broker, order in held
    ]


async def account_of_case(service: Service, tape: Sequence[Command]) -> list[object]:
    """What a case shows, once it was fast enough for its fleeting orders."""
    port = service.client.port
    target = Target(Address(HOST, port), f"{HOST}:{port}", service.admin_key)
    async with Session(target) as session:
        for patience in PATIENCE:
            await exchange_client.reset(session)
            brokers = await exchange_client.register(session, MARKET.brokers)
            try:
                return await played(Player(session, brokers), tape, patience)
            except TooLate:
                continue
    pytest.fail(f"{service.case}: no attempt was fast enough for its fleeting orders")


async def played(player: Player, tape: Sequence[Command], patience: int) -> list[object]:
    """Apply the tape. Raises TooLate."""
    account: list[object] = []
    for phase in phases():
        started_s = time.monotonic()
        account += [await player.apply(at, tape[at], FAR) for at in phase.calm]
        pace_s = (time.monotonic() - started_s) / len(phase.calm)
        account += await player.look()

        end_s = time.time() + patience * (MARGIN_S + MARGIN * pace_s * len(phase.fleeting))
        [end] = wire.instants(np.array([end_s]))
        for at in phase.fleeting:
            account.append(await player.apply(at, tape[at], end))
            if time.time() >= end_s:
                raise TooLate
        # From that instant on the orders have ended, whether or not anything has noticed.
        await asyncio.sleep(end_s - time.time() + CLOCKS_APART_S)
    return account + await player.look()


# ---- the tests ----


@pytest.fixture(scope="module")
def tape() -> list[Command]:
    return draw_tape(SEED)


@pytest.fixture
def all_cases(new_database: NewDatabase, new_place: Callable[[], Path]) -> Iterator[list[Service]]:
    """The three cases, each with a database of its own."""
    with ExitStack() as stack:
        starters = [
            stack.enter_context(contextmanager(services)(case, new_database, new_place))
            for case in CASES
        ]
        # Few closed orders stay in memory: where they do, most are read from the database.
        yield [start(EXCHANGE_CLOSED_MAX="1000") for start in starters]


async def test_every_case_does_with_one_tape_what_the_list_model_does(
    all_cases: list[Service], tape: list[Command]
) -> None:
    expected = account_of_model(tape)
    async with asyncio.timeout(TEST_PATIENCE_S):
        accounts = await asyncio.gather(*(account_of_case(each, tape) for each in all_cases))
    for service, account in zip(all_cases, accounts, strict=True):
        differences = (
            (number, should, does)
            for number, (should, does) in enumerate(zip_longest(expected, account))
            if should != does
        )
        assert next(differences, None) is None, f"{service.case} is the first to differ like this"


def test_the_tape_holds_everything_that_can_happen(tape: list[Command]) -> None:
    model = Model()
    happened: Counter[tuple[str, ...]] = Counter()
    for phase in phases():
        for position in (*phase.calm, *phase.fleeting):
            happened[what_happens(model, position, tape[position])] += 1
        model.end_phase()
    assert len(tape) == happened.total() >= 20_000
    assert happened.keys() >= {
        ("cancel", "nothing"),
        *product(["cancel"], ["own", "foreign"], ["open", "partly filled", *CloseReason]),
        *product(["limit", "market"], ["filled"], ["some trades"]),
        *product(["limit"], ["open"], ["no trades", "some trades"]),
        *product(["market"], ["unfilled"], ["no trades", "some trades", "many trades"]),
        ("market", "filled", "many trades"),
    }
    ends = {(order.close_reason, bool(order.trades)) for order in model.exchange.orders.values()}
    assert ends >= set(product([CloseReason.CANCELLED, CloseReason.EXPIRED, None], [False, True]))


def what_happens(model: Model, position: int, command: Command) -> tuple[str, ...]:
    """Apply a command to the model; what kind of thing it did."""
    orders = model.exchange.orders
    if isinstance(command, Place):
        model.apply(position, command)
        order = orders[position]
        how_many = ("many" if len(order.trades) > MANY else "some") if order.trades else "no"
        return order.order_type, order.close_reason or "open", f"{how_many} trades"
    if command.target is None:
        kind: tuple[str, ...] = ("cancel", "nothing")
    else:
        order = orders[command.target]
        whole = order.remaining_quantity == order.quantity
        state = order.close_reason or ("open" if whole else "partly filled")
        kind = ("cancel", "own" if order.broker_id == command.broker else "foreign", state)
    model.apply(position, command)
    return kind
