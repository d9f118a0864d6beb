"""What finds very many rows brings them in parts."""

import asyncio
from contextlib import aclosing
from itertools import chain

import psycopg
import pytest
import uvloop
from client import eventually
from conftest import NewDatabase

from common import pool
from common.channel import Statement
from common.database import PART, Database, prepare_schema
from common.errors import Unavailable


def numbers(until: int) -> Statement:
    """As many rows, in order."""
    return Statement(f"SELECT n FROM generate_series(1, {until}) AS n", (), b"")


async def parts_of(database: Database, statement: Statement) -> list[list[int]]:
    return [[number for (number,) in rows] async for rows in database.parts(statement)]


def test_many_rows_come_in_parts_and_in_their_order(new_database: NewDatabase) -> None:
    url, count = new_database(), 2 * PART + 5
    prepare_schema(url)

    async def read() -> None:
        async with Database(url, pool_size=1, pool_wait_ms=1_000).opened() as database:
            parts = await parts_of(database, numbers(count))
            assert [len(part) for part in parts] == [PART, PART, 5]
            assert list(chain(*parts)) == [*range(1, count + 1)]
            assert await parts_of(database, numbers(0)) == []
            assert await parts_of(database, numbers(1)) == [[1]]

    uvloop.run(read())


def test_a_read_of_all_history_is_not_cut_off_however_long_it_takes(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ANSWER_PATIENCE_S", 0.1)
    monkeypatch.setattr(pool, "LOOK_AGAIN_S", 0.05)
    slow = Statement("SELECT 1 FROM pg_sleep(0.5)", (), b"")

    async def both(url: str) -> None:
        async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:
            assert await database.unhurried(slow) == [(1,)]
            with pytest.raises(Unavailable):
                await database.rows(slow)

    url = new_database()
    prepare_schema(url)
    asyncio.run(both(url))


def test_who_stops_reading_leaves_no_connection_behind(new_database: NewDatabase) -> None:
    url = new_database()
    prepare_schema(url)

    def no_other_connection() -> bool:
        with psycopg.connect(url) as connection:
            [count] = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'exchange'"
            ).fetchone() or [None]
        return count == 1  # that of the pool

    async def read() -> None:
        async with Database(url, pool_size=1, pool_wait_ms=1_000).opened() as database:
            async with aclosing(database.parts(numbers(2 * PART))) as parts:
                async for rows in parts:
                    assert len(rows) == PART
                    assert not no_other_connection()
                    break
            eventually(no_other_connection)
            assert await database.rows(numbers(2)) == [(1,), (2,)]
            assert await parts_of(database, numbers(2)) == [[1, 2]]

    uvloop.run(read())
