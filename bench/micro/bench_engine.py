"""The engine alone on the mix of the average day: orders, cancels, ends, and what they change."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count, islice

import pytest

from bench import traffic
from bench.micro.books import resting_orders
from bench.micro.measuring import Benchmark, as_in_service, decades, measure, name
from bench.replay import Command, carry_out, commands
from common.changes import Changes
from common.engine import Engine

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


@pytest.mark.parametrize("size", decades(100, 100_000))
def bench_engine(benchmark: Benchmark, size: int) -> None:
    """The commands of a tape on books with ``size`` resting orders for each symbol."""
    seeds = count(1)

    def prepare() -> Stretch:
        return stretch(next(seeds), size)

    def run(given: Stretch) -> None:
        """As the cases that match in memory do it."""
        engine, changes = given.engine, given.changes
        for now_us, order, cancels in given.commands:
            ended = engine.expire(now_us)
            if ended:
                changes.add_changed(ended)
            if not cancels:
                changes.add(order, *engine.submit(order))
            elif order.is_open:
                engine.cancel(order, now_us)
                changes.add_changed((order,))

    name(benchmark, "engine", "", size)
    with as_in_service():
        # To fill the largest books takes seconds.
        rounds, warmup_rounds = (10, 1) if size < 100_000 else (2, 0)
        measure(
            benchmark,
            prepare,
            run,
            check,
            rounds=rounds,
            operations=COMMANDS,
            warmup_rounds=warmup_rounds,
        )


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
