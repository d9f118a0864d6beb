"""A tape as commands for the matching engine of the cases. Pure; needs ``../requirements.txt``."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from bench import traffic
from bench.traffic import Kind, Market, Tape
from common.changes import Changes
from common.engine import Engine
from common.ids import RANDOM_BITS, TICKS_PER_MS, id_of
from common.model import NewOrder, Order, OrderType, Side, Trade

_US = 1_000_000
_FIRST_TICK = 1_700_000_000_000 * TICKS_PER_MS
_SCATTERED = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


class Command(NamedTuple):
    """A new order, or the cancellation of one that came before; with the time of its arrival."""

    now_us: int
    order: Order
    cancels: bool


class Outcome(NamedTuple):
    """What a command did: orders that had ended before it, its trades, and whom it met or closed.

    ``touched`` are the makers of a new order, or the order that was cancelled.
    """

    ended: Sequence[Order]
    trades: Sequence[Trade]
    touched: Sequence[Order]


def commands(place: Market, tape: Tape, after: int = 0) -> Iterator[Command]:
    """The orders that seed the books, at time 0, then the orders and cancels of the tape.

    Sequence numbers begin behind ``after``. An order is made when its turn comes, and only once.
    """
    seeds = traffic.seed_orders(place)
    rows = zip(
        tape.kind.tolist(),
        (tape.intended_s * _US).astype(np.int64).tolist(),
        tape.symbol.tolist(),
        tape.broker.tolist(),
        tape.side.tolist(),
        tape.price.tolist(),
        tape.quantity.tolist(),
        (np.nan_to_num(tape.life_s) * _US).astype(np.int64).tolist(),
        tape.target.tolist(),
        strict=True,
    )
    seed_rows = zip(
        repeat(Kind.ORDER),
        repeat(0),
        seeds.symbol.tolist(),
        seeds.broker.tolist(),
        seeds.side.tolist(),
        seeds.price.tolist(),
        seeds.quantity.tolist(),
        repeat(int(traffic.ONE_DAY_S) * _US),
        repeat(-1),
        strict=False,
    )
    orders: dict[int, Order] = {}
    positions = range(-len(seeds), len(tape))
    for position, row in zip(positions, chain(seed_rows, rows), strict=True):
        kind, now_us, symbol, broker, side, price, quantity, life_us, target = row
        if kind == Kind.ORDER:
            asked = NewOrder(
                document_number="",
                side=Side(traffic.SIDES[side]),
                order_type=OrderType.LIMIT if price else OrderType.MARKET,
                symbol=place.symbols[symbol],
                price=price or None,
                quantity=quantity,
                valid_until_us=now_us + life_us if price else None,
            )
            sequence = after + position + len(seeds) + 1
            orders[position] = asked.accepted(
                order_id=order_id(sequence), sequence=sequence, broker_id=broker, now_us=now_us
            )
            yield Command(now_us, orders[position], cancels=False)
        elif kind == Kind.CANCEL:
            yield Command(now_us, orders[target], cancels=True)


def order_id(sequence: int) -> int:
    """An id as a service gives it, but always the same one for a place in the sequence.

    How fast an order is found depends on the bits of its id: those of a plain number shifted up all
    collide in a ``dict``.
    """
    chance = (sequence * _SCATTERED >> RANDOM_BITS) & (1 << RANDOM_BITS) - 1
    return id_of(_FIRST_TICK + sequence, chance)


def carry_out(engine: Engine, command: Command) -> Outcome:
    """Give a command to the engine as the cases do; a cancel of a closed order does nothing."""
    ended = engine.expire(command.order.symbol, command.now_us)
    if not command.cancels:
        execution = engine.submit(command.order)
        return Outcome(ended, execution.trades, execution.makers)
    if not command.order.is_open:
        return Outcome(ended, (), ())
    engine.cancel(command.order, command.now_us)
    return Outcome(ended, (), (command.order,))


def gather(changes: Changes, command: Command, outcome: Outcome) -> None:
    """What the cases that match in memory queue of it for the next flush."""
    changes.add_changed(outcome.ended)
    if command.cancels:
        changes.add_changed(outcome.touched)
    else:
        changes.add(command.order, outcome.trades, outcome.touched)
