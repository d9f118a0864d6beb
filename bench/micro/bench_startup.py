"""How long a start takes that reads the open orders from PostgreSQL into memory."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import count, islice

import psycopg
import pytest

from bench.micro.books import BASE_PRICE, BROKERS, NOW_US, resting_orders
from bench.micro.measuring import Benchmark, decades, measure, name
from common.changes import Changes
from common.database import Database
from common.engine import Engine
from common.ledger import Ledger
from common.loading import load_brokers, load_clock, load_engine, load_ledger
from common.model import Broker, Order
from common.queries.accounts import INSERT_BROKER, broker_row

SYMBOLS = 100
WRITTEN_AT_ONCE = 10_000
Memory = tuple[Engine, Ledger]


@pytest.mark.parametrize("size", decades(1000, 1_000_000))
def bench_startup(
    benchmark: Benchmark, size: int, database_url: str, runner: asyncio.Runner
) -> None:
    """What casev3 loads, in its order: brokers, books, ledger, clock. No order has traded."""
    runner.run(store(database_url, size))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ANALYZE")  # as autovacuum does in time
    stored = totals(open_orders(size))

    def nothing() -> list[Memory]:
        return []

    def start(loaded: list[Memory]) -> None:
        loaded.append(runner.run(load(database_url)))

    def check(loaded: list[Memory]) -> None:
        engine, ledger = loaded.pop()
        engine.check()
        assert totals(engine.resting()) == stored
        assert ledger.orders == {order.id: order for order in engine.resting()}

    name(benchmark, "startup", "", size)
    # The first start meets a cold cache, which in a long one does not show.
    warmup_rounds = int(size < 100_000)
    measure(benchmark, nothing, start, check, rounds=2, warmup_rounds=warmup_rounds)


async def load(url: str) -> Memory:
    """Engine and ledger as a start makes them, with the connection that it opens."""
    ledger = Ledger(closed_age_max_us=0, closed_count_max=0)
    async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:
        await load_brokers(database)
        engine = await load_engine(database)
        await load_ledger(database, ledger, engine)
        await load_clock(database)
    return engine, ledger


async def store(url: str, size: int) -> None:
    """Fill an empty database with the statements of the cases."""
    async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:
        for number in range(1, BROKERS + 1):
            broker = Broker(number, f"Broker {number}", None, number.to_bytes(32), NOW_US)
            await database.commit((INSERT_BROKER, broker_row(broker)))
        orders = open_orders(size)
        while some := list(islice(orders, WRITTEN_AT_ONCE)):
            changes = Changes()
            for order in some:
                changes.add(order, (), ())
            await database.commit(*changes.statements())


def open_orders(size: int) -> Iterator[Order]:
    """As many for each symbol."""
    sequences = count(1)
    for number in range(SYMBOLS):
        yield from resting_orders(f"TEST{number}", BASE_PRICE, size // SYMBOLS, sequences)


def totals(orders: Iterable[Order]) -> tuple[int, int, int]:
    """How many orders, and sums that no lost or changed order leaves as they are."""
    rows = [(1, order.sequence, (order.price or 0) * order.remaining_quantity) for order in orders]
    number, sequences, cents = (sum(column) for column in zip(*rows, strict=True))
    return number, sequences, cents
