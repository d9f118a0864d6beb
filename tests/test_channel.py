"""A connection that breaks takes nothing of the next one with it."""

import asyncio
import os
import socket
import sys

import psycopg
import pytest
import uvloop
from conftest import NewDatabase

from common.channel import Channel, statement_of
from common.database import NETWORK_PATIENCE_S, conninfo, prepare_schema
from common.queries import state

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
                assert await channel.finish((state.READ_STATE, {})) == [[(0, 0, 0)]]
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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other options")
def test_a_network_that_swallows_everything_is_noticed() -> None:
    """The kernel ends a connection of which nothing comes back, whatever is under way on it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://exchange@127.0.0.1:{server.getsockname()[1]}/exchange"
        begun = psycopg.pq.PGconn.connect_start(conninfo(url).encode())
        with socket.socket(fileno=os.dup(begun.socket)) as opened:
            assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle_s, interval_s, count, unanswered_ms = (
                opened.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
        begun.finish()
    assert idle_s + interval_s * count == NETWORK_PATIENCE_S
    assert unanswered_ms == NETWORK_PATIENCE_S * 1000
