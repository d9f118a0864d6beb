"""A connection that breaks takes nothing of the next one with it."""

import asyncio

import psycopg
import uvloop
from conftest import NewDatabase

from common import queries
from common.channel import Channel, statement_of
from common.database import conninfo, prepare_schema

BACKEND_PID = statement_of("SELECT pg_backend_pid()")
AT_ONCE, ROUNDS = 4, 60
PATIENCE_S = 10.0


async def open_and_break(url: str, killer: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
    """A connection that answers, until it is asked for the last time while its server ends."""
    channel = await Channel.open(conninfo(url))
    try:
        async with asyncio.timeout(PATIENCE_S):
            [[(pid,)]] = await channel.finish((BACKEND_PID, {}))
            for _ in range(3):
                assert await channel.finish((queries.READ_STATE, {})) == [[(0, 0)]]
            await killer.execute("SELECT pg_terminate_backend(%s)", [pid])
            while channel.closed is None:
                await asyncio.gather(channel.finish((BACKEND_PID, {})), return_exceptions=True)
    finally:
        channel.close()


def test_who_asks_while_the_server_hangs_up_is_told(new_database: NewDatabase) -> None:
    """The question is never read, so the end comes as an error of the socket, and only once."""
    url = new_database()
    prepare_schema(url)

    async def rounds() -> None:
        killer = await psycopg.AsyncConnection.connect(url, autocommit=True)
        async with killer:
            for _ in range(ROUNDS):
                await asyncio.gather(*(open_and_break(url, killer) for _ in range(AT_ONCE)))

    uvloop.run(rounds())
