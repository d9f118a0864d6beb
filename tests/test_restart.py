"""A restart at any point, after a crash between any two flushes, is as if there had been none.

The exchanges of the cases on a real PostgreSQL, with the commands that a log would have kept.
"""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest
import uvloop
from conftest import NewDatabase
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY
from test_lifecycle import assert_tables_agree

from common import writer as writing
from common.database import Database, prepare_schema
from common.engine import Engine
from common.ids import id_of
from common.model import NewOrder, Order, OrderType, Side, Trade
from common.settings import Settings, read_settings
from common.wal import format
from common.wal.format import Record
from common.wal.log import Log, NoLog
from common.writer import Flush, Writer

pytestmark = pytest.mark.matches_in_memory
# Later than today: the clock of an exchange never goes back behind a command that it repeats.
START_US = 4_000_000_000_000_000
BROKER_ID = 7
PIECE = 3
ALL = sys.maxsize

Given = list[tuple[str, Side, int | None, int, int]]
given_commands: st.SearchStrategy[Given] = st.lists(
    st.tuples(
        st.sampled_from(["order", "order", "order", "cancel"]),
        st.sampled_from(Side),
        st.sampled_from([None, 9, 10, 11]),
        st.integers(1, 9),
        st.integers(1, 40),
    ),
    max_size=30,
)


class History:
    """What commands come to if nothing breaks: their records, all orders, all trades."""

    def __init__(self, commands: Given) -> None:
        self.records: list[Record] = []
        self.orders: list[Order] = []
        self.trades: list[Trade] = []
        engine = Engine()
        for place, (what, side, price, quantity, life) in enumerate(commands):
            now_us, sequence = START_US + place, len(self.records) + 1
            engine.expire("ABC", now_us)
            resting = sorted(engine.resting(), key=lambda order: order.id)
            if what == "cancel" and resting:
                order = resting[quantity % len(resting)]
                self.records.append(format.cancellation(sequence, now_us, order.id))
                engine.cancel(order, now_us)
                continue
            kind, end_us = OrderType.LIMIT, now_us + life
            asked = NewOrder("1", side, kind, "ABC", price, quantity, end_us, f"own {sequence}")
            if price is None:
                asked = NewOrder("1", side, OrderType.MARKET, "ABC", None, quantity, None, None)
            order = asked.accepted(
                order_id=id_of(sequence << 20, sequence),
                sequence=sequence,
                broker_id=BROKER_ID,
                now_us=now_us,
            )
            self.records.append(format.submission(order))
            self.orders.append(order)
            self.trades += engine.submit(order).trades

    def stored(self) -> tuple[list[Any], list[Any]]:
        """As rows of the database."""
        orders = [
            (UUID(int=each.id), each.remaining_quantity, each.close_reason) for each in self.orders
        ]
        trades = [(UUID(int=each.id), each.price, each.quantity) for each in self.trades]
        return sorted(orders), sorted(trades)


def crashing(pieces: int) -> type[Writer]:
    """A writer of a process that ends without a word after so many flushes."""

    class Crashing(Writer):
        @asynccontextmanager
        async def flushing(
            self,
            on_saved: Callable[[Flush], None],
            drain_s: float,
            on_failure: Callable[[str, BaseException], object] = print,
        ) -> AsyncIterator[None]:
            yield
            for _ in range(pieces):
                if not self.pending():
                    return
                on_saved(await self._flush())

    return Crashing


async def run(case: str, url: str, records: Sequence[Record], pieces: int) -> None:
    """Start on what the database has, do again what it lacks, and end after ``pieces``."""

    @asynccontextmanager
    async def kept(
        _: Settings, __: Database, writer: Writer
    ) -> AsyncIterator[tuple[Log, list[Record]]]:
        yield NoLog(), [record for record in records if record.sequence > writer.sequence]

    app = import_module(f"{case}.app")
    chosen = read_settings({"EXCHANGE_DATABASE_URL": url})
    with patch.object(app, "open_log", kept), patch.object(app, "Writer", crashing(pieces)):
        async with app.open_exchange(chosen, url):
            pass


@pytest.fixture(scope="module")
def url(new_database: NewDatabase) -> str:
    made = new_database()
    prepare_schema(made)
    return made


@settings(PROPERTY, max_examples=40)
@given(commands=given_commands, crashes=st.lists(st.integers(0, 6), max_size=3))
def test_any_number_of_crashes_between_flushes_changes_nothing(
    case: str, url: str, commands: Given, crashes: list[int]
) -> None:
    history = History(commands)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE orders, client_orders, trades, balances, brokers")
        connection.execute("UPDATE exchange_state SET flushed_sequence = 0")
        connection.execute(
            "INSERT INTO brokers (id, name, key_hash, created_at) VALUES (%s, 'Alice', '', now())",
            [UUID(int=BROKER_ID)],
        )
        with patch.object(writing, "FLUSH_MAX", PIECE):
            for pieces in [*crashes, ALL]:
                uvloop.run(run(case, url, history.records, pieces))
                assert_tables_agree(lambda query: connection.execute(query.encode()).fetchall())
        orders = connection.execute("SELECT id, remaining_quantity, close_reason FROM orders")
        trades = connection.execute("SELECT id, price, quantity FROM trades")
        found = (sorted(orders.fetchall()), sorted(trades.fetchall()))
    assert found == history.stored()
