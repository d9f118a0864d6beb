"""The engine alone on the mix of the average day: orders, cancels, ends, and what they change.

Beside it a bare loop on the same commands, which knows fills and nothing else: what a matching
engine can hardly do without, to see what the rest costs and how both stand deep books.
"""

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import count, islice

import pytest
from sortedcontainers import SortedDict

from bench import traffic
from bench.micro.books import resting_orders
from bench.micro.measuring import Benchmark, as_in_service, decades, measure, name
from bench.replay import Command, carry_out, commands
from common.changes import Changes
from common.engine import Engine
from common.model import Order, Side

# Few symbols, so that their books can be deep; few commands, so that small books stay small.
SCALE = 1.0
COMMANDS = 500
DURATION_S = 120.0
# These symbols get as many commands a second as all of B3: what happens once a second does not
# happen once for every ten commands.
PACE = 100.0 / SCALE
AVERAGE = traffic.PROFILES["average"]


@dataclass(frozen=True)
class Stretch:
    """An engine with its books, and the commands to come."""

    engine: Engine
    commands: list[Command]
    changes: Changes = field(default_factory=Changes)


# Orders in their priority by rank: the price of an ask, the negative price of a bid.
Levels = dict[int, deque[Order]]
Fill = tuple[int, int, int]


@dataclass(frozen=True)
class Bare:
    """Books without anything around them, bids and asks by symbol, and the commands to come."""

    seed: int
    size: int
    books: dict[str, tuple[Levels, Levels]]
    commands: list[Command]
    fills: list[Fill] = field(default_factory=list)


@pytest.mark.parametrize("size", decades(100, 100_000))
def bench_engine(benchmark: Benchmark, size: int) -> None:
    """The commands of a tape on books with ``size`` resting orders for each symbol."""
    seeds = count(1)

    def prepare() -> Stretch:
        return stretch(next(seeds), size)

    name(benchmark, "engine", "the engine", size)
    with as_in_service():
        measure(benchmark, prepare, run, check, operations=COMMANDS, **_rounds(size))


@pytest.mark.parametrize("size", decades(100, 100_000))
def bench_bare_loop(benchmark: Benchmark, size: int) -> None:
    """The same commands on the same books, for their fills alone."""
    seeds = count(1)

    def prepare() -> Bare:
        return bare(next(seeds), size)

    name(benchmark, "engine", "a bare loop", size)
    with as_in_service():
        measure(benchmark, prepare, run_bare, check_bare, operations=COMMANDS, **_rounds(size))


def _rounds(size: int) -> dict[str, int]:
    """To fill the largest books takes seconds."""
    return (
        {"rounds": 10, "warmup_rounds": 1} if size < 100_000 else {"rounds": 2, "warmup_rounds": 0}
    )


def run(given: Stretch) -> None:
    """As the cases that match in memory do it."""
    engine, changes = given.engine, given.changes
    for now_us, order, cancels in given.commands:
        ended = engine.expire(order.symbol, now_us)
        if ended:
            changes.add_changed(ended)
        if not cancels:
            changes.add(order, *engine.submit(order))
        elif order.is_open:
            engine.cancel(order, now_us)
            changes.add_changed((order,))


def stretch(seed: int, resting: int) -> Stretch:
    """The next commands after the books are filled: passive orders first, then the seeds."""
    place = traffic.market(AVERAGE, seed, SCALE)
    tape = traffic.tape(AVERAGE, seed, SCALE, DURATION_S, reads=False)
    tape = replace(tape, intended_s=tape.intended_s / PACE, life_s=tape.life_s / PACE)
    engine, sequences = Engine(), count(1)
    seeds = len(traffic.seed_orders(place))
    for symbol, base_price in zip(place.symbols, place.base_price.tolist(), strict=True):
        passive = resting - seeds // len(place.symbols)
        for order in resting_orders(symbol, base_price, passive, sequences):
            engine.rest(order)
    coming = commands(place, tape, after=engine.open_count)
    for command in islice(coming, seeds):
        carry_out(engine, command)
    return Stretch(engine, list(islice(coming, COMMANDS)))


def check(done: Stretch) -> None:
    """Each order, share and change is where it should be."""
    done.engine.check()
    assert len(done.commands) == COMMANDS
    new = {each.order.id for each in done.commands if not each.cancels}
    assert done.changes.created.keys() == new
    touched = {**done.changes.created, **done.changes.changed}
    resting = {order.id for order in done.engine.resting()}
    traded = Counter[int]()
    for trade in done.changes.trades:
        traded.update({trade.maker_order_id: trade.quantity})
        traded.update({trade.taker_order_id: trade.quantity})
    assert traded.keys() <= touched.keys()
    for order_id, order in touched.items():
        assert order.quantity - order.remaining_quantity == traded[order_id]
        assert order.is_open == (order_id in resting)
    assert all(not each.order.is_open for each in done.commands if each.cancels)


def bare(seed: int, resting: int) -> Bare:
    """The books and the commands of ``stretch``, as the bare loop has them."""
    given = stretch(seed, resting)
    books: dict[str, tuple[Levels, Levels]] = {
        symbol: (SortedDict(), SortedDict()) for symbol in given.engine.books
    }
    for order in given.engine.resting():
        _rest(books[order.symbol], order)
    return Bare(seed, resting, books, given.commands)


def _rest(book: tuple[Levels, Levels], order: Order) -> None:
    assert order.price is not None
    levels, rank = (book[0], -order.price) if order.side is Side.BID else (book[1], order.price)
    queue = levels.get(rank)
    if queue is None:
        levels[rank] = deque((order,))
    else:
        queue.append(order)


def run_bare(given: Bare) -> None:
    """Fills, and who rests. What is cancelled or has ended is noticed when it is met."""
    books, fills = given.books, given.fills
    for now_us, taker, cancels in given.commands:
        if cancels:
            taker.remaining_quantity = 0
            continue
        book = books[taker.symbol]
        makers, sign = (book[1], 1) if taker.side is Side.BID else (book[0], -1)
        worst = None if taker.price is None else sign * taker.price
        left = taker.remaining_quantity
        while left and makers:
            rank, queue = makers.peekitem(0)  # type: ignore[attr-defined]
            if worst is not None and rank > worst:
                break
            maker = queue[0]
            rests = maker.remaining_quantity
            if rests and maker.valid_until_us > now_us:
                quantity = min(left, rests)
                fills.append((maker.id, taker.id, quantity))
                left -= quantity
                maker.remaining_quantity = rests = rests - quantity
            else:
                rests = 0
            if not rests:
                queue.popleft()
                if not queue:
                    del makers[rank]
        taker.remaining_quantity = left
        if left and taker.price is not None:
            _rest(book, taker)


def check_bare(done: Bare) -> None:
    """The fills are those of the engine."""
    expected = stretch(done.seed, done.size)
    run(expected)
    trades = expected.changes.trades
    assert done.fills == [
        (each.maker_order_id, each.taker_order_id, each.quantity) for each in trades
    ]
