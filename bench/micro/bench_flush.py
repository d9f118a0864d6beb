"""What a flush costs: its text, and its text with the write to PostgreSQL."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import psycopg
import pytest

from bench import traffic
from bench.micro.measuring import Benchmark, as_in_service, decades, measure, name
from bench.replay import Command, Outcome, carry_out, commands, gather
from common.changes import Changes
from common.channel import Question
from common.engine import Engine
from common.model import Order, Trade
from common.queries.writing import INSERT_ORDER, INSERT_ORDERS
from common.writer import Writer

ROUNDS = 10
SECONDS = 30.0
PATIENCE_S = 60.0
AVERAGE = traffic.PROFILES["average"]
T = TypeVar("T")
Done = list[tuple[Command, Outcome]]


class Mix:
    """Half a minute of the average day, carried out bit by bit, and all that has come of it."""

    def __init__(self) -> None:
        place = traffic.market(AVERAGE, 1, 100.0)
        tape = traffic.tape(AVERAGE, 1, 100.0, SECONDS, reads=False)
        self.engine = Engine()
        self.orders: list[Order] = []
        self.trades: list[Trade] = []
        self._commands = commands(place, tape)
        self.seeding = self.next(len(traffic.seed_orders(place)))

    def next(self, orders: int) -> Done:
        """The commands up to the next so many new orders, with what they did."""
        done = []
        while orders:
            command = next(self._commands)
            outcome = carry_out(self.engine, command)
            done.append((command, outcome))
            self.trades += outcome.trades
            if not command.cancels:
                self.orders.append(command.order)
                orders -= 1
        return done


@pytest.mark.parametrize("size", decades(1, 1000))
def bench_encode(benchmark: Benchmark, size: int) -> None:
    """The changes that come with ``size`` new orders as the statements of a flush."""
    mix = Mix()

    def gathered() -> tuple[Changes, list[Question]]:
        changes = Changes()
        for command, outcome in mix.next(size):
            gather(changes, command, outcome)
        return changes, []

    def encode(given: tuple[Changes, list[Question]]) -> None:
        changes, statements = given
        statements += changes.statements()

    def check(given: tuple[Changes, list[Question]]) -> None:
        changes, statements = given
        if size == 1:
            alone = dict(statements)[INSERT_ORDER]
            [order] = changes.created.values()
            assert alone["id"] == f"{order.id:032x}"
            assert alone["price"] == order.price
            assert alone["remaining_quantity"] == order.remaining_quantity
            return
        written = dict(statements)[INSERT_ORDERS]
        assert written["id"] == f"{{{','.join(f'{each:032x}' for each in changes.created)}}}"
        for column in ("price", "remaining_quantity"):
            values = [getattr(order, column) for order in changes.created.values()]
            texts = ["NULL" if value is None else str(value) for value in values]
            assert written[column] == f"{{{', '.join(texts)}}}"

    name(benchmark, "flush", "encode", size)
    with as_in_service():
        measure(benchmark, gathered, encode, check, rounds=ROUNDS, operations=size)


# What is more than FLUSH_MAX changes begins to be encoded before it is timed.
@pytest.mark.parametrize("size", decades(1, 100))
def bench_write(benchmark: Benchmark, size: int, database_url: str, runner: asyncio.Runner) -> None:
    """The same, encoded and committed by the writer of the cases."""
    mix = Mix()
    writer = Writer(
        database_url, flush_interval_s=PATIENCE_S, pending_max=1_000_000, patience_s=PATIENCE_S
    )

    async def flush() -> None:
        """A writer that is told to stop writes what has gathered, at once."""
        async with writer.flushing(lambda _: None, PATIENCE_S):
            pass

    def gathered() -> None:
        record(writer, mix.next(size))

    def write(_: None) -> None:
        runner.run(flush())

    def check(_: None) -> None:
        assert writer.pending() == 0
        assert writer.flushed_sequence == writer.sequence == mix.orders[-1].sequence

    name(benchmark, "flush", "encode and write", size)
    with held(runner, writer.opened()):
        record(writer, mix.seeding)
        runner.run(flush())
        with as_in_service():
            measure(benchmark, gathered, write, check, rounds=ROUNDS, operations=size)
    check_stored(mix, database_url)


def record(writer: Writer, done: Done) -> None:
    """Queue what commands did for the next flush."""
    for command, outcome in done:
        sequence = writer.sequence if command.cancels else command.order.sequence
        if outcome.ended:
            writer.record_closed(sequence, outcome.ended, command.now_us)
        if command.cancels:
            writer.record_closed(sequence, outcome.touched, command.now_us)
        else:
            writer.record(sequence, command.order, outcome.trades, outcome.touched, ())


def check_stored(mix: Mix, url: str) -> None:
    """Raise AssertionError unless the database has what memory has."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT id, remaining_quantity, close_reason FROM orders")
        stored = {row[0].int: row[1:] for row in rows.fetchall()}
        traded = connection.execute("SELECT count(*), sum(quantity) FROM trades").fetchone()
    assert stored == {
        order.id: (order.remaining_quantity, order.close_reason) for order in mix.orders
    }
    assert traded == (len(mix.trades), sum(trade.quantity for trade in mix.trades) or None)


@contextmanager
def held(runner: asyncio.Runner, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What is opened asynchronously, for code that is not."""
    value = runner.run(manager.__aenter__())
    try:
        yield value
    finally:
        runner.run(manager.__aexit__(None, None, None))
