"""A bounded pool of connections, and the line before it."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import psycopg

from common.channel import Channel
from common.errors import Overloaded, StartError, Unavailable, one_line

# Reads that share one connection: so many that it is never idle, so few that a slow one holds up
# few.
PLACES = 8
WAITING_PER_CONNECTION = 64
# While the first in line has waited for this share of the time that anybody may, the database does
# not keep up, and nobody joins them.
LINE_SHARE = 1 / 8
# Nothing more is sent behind a read that has been under way for so long.
STUCK_S = 0.05
LOOK_AGAIN_S = 0.25
# A server that answers nothing for so long is taken for dead.
ANSWER_PATIENCE_S = 10.0
CONNECT_PATIENCE_S = 5.0

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """Somebody in line, who needs so many places, and has waited since then."""

    places: int
    turn: asyncio.Future[Channel]
    since_s: float


class Pool:
    """Connections with ``PLACES`` each: a read needs one, whatever may wait for a lock needs all.

    Who finds no place waits in line, first come, first served, for a limited time. While
    PostgreSQL is gone there is no line: every call fails at once, and a look every moment finds
    the server again.
    """

    def __init__(self, connect: Callable[[], Awaitable[Channel]], size: int, wait_s: float) -> None:
        self._connect = connect
        self._size = size
        self._wait_s = wait_s
        self._line_max_s = wait_s * LINE_SHARE
        self._channels: list[Channel] = []
        self._line: deque[Waiting] = deque()
        self._look_now = asyncio.Event()
        self._waited_ms = 0.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Pool"]:
        """Hold the pool open; all connections are closed afterwards. Raises StartError."""
        try:
            self._channels.append(await self._connect())
        except psycopg.Error as error:
            raise StartError(f"the database gives no connection: {one_line(error)}") from None
        keeper = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            for channel in self._channels:
                channel.close()

    async def take(self, places: int) -> Channel:
        """A connection with so many free places, to be given back. Raises Unavailable."""
        if not self._line and (channel := self._free(places)):
            return channel
        if all(channel.closed for channel in self._channels):
            raise Unavailable("the database does not answer; retry later")
        # As many waiting as a pool of this size can hope to serve; the rest is told at once.
        is_full = len(self._line) >= self._size * WAITING_PER_CONNECTION
        if is_full or (self._line and time.monotonic() - self._line[0].since_s > self._line_max_s):
            raise Overloaded("too many requests wait for the database; retry later")
        return await self._wait(places)

    def give_back(self, channel: Channel, places: int) -> None:
        """The places that ``take`` gave."""
        channel.held -= places
        self._serve_line()

    def figures(self) -> tuple[int, int, float]:
        """Connections, how many wait, and for how many milliseconds all have waited together."""
        return len(self._channels), len(self._line), self._waited_ms

    def _free(self, places: int) -> Channel | None:
        """The first connection that has the places, which are held from now on.

        The first, so that few server processes do the work and find it in their caches.
        """
        for channel in self._channels:
            fits = channel.held + places <= PLACES
            if fits and not channel.closed and channel.waits_s() < STUCK_S:
                channel.held += places
                return channel
        return None

    async def _wait(self, places: int) -> Channel:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Channel] = loop.create_future()
        since_s = time.monotonic()
        self._line.append(Waiting(places, turn, since_s))
        if len(self._channels) < self._size:
            self._look_now.set()
        limit = loop.call_later(self._wait_s, _end, turn, "no database connection became free")
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:  # it came at the same moment
                self.give_back(turn.result(), places)
            raise
        finally:
            limit.cancel()
            self._waited_ms += (time.monotonic() - since_s) * 1000

    def _serve_line(self) -> None:
        """Give what is free to those who have waited longest."""
        while self._line:
            places, turn, _ = self._line[0]
            if not turn.done():
                channel = self._free(places)
                if channel is None:
                    return
                turn.set_result(channel)
            self._line.popleft()

    async def _keep(self) -> None:
        """Replace connections that are lost, add one while somebody waits for it, and serve those
        who wait for one that was stuck when its places were given back."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._look_now.wait()
            self._look_now.clear()
            for channel in self._channels:
                if channel.waits_s() > ANSWER_PATIENCE_S:
                    log.warning("the database has not answered for %g s", ANSWER_PATIENCE_S)
                    channel.close()
            self._channels = [channel for channel in self._channels if not channel.closed]
            if not self._channels:
                while self._line:
                    _end(self._line.popleft().turn, "the database does not answer")
            if not self._channels or (self._line and len(self._channels) < self._size):
                # To prepare the statements can itself wait, for whoever locks a table.
                with suppress(psycopg.Error, TimeoutError):
                    async with asyncio.timeout(CONNECT_PATIENCE_S):
                        self._channels.append(await self._connect())
            self._serve_line()


def _end(turn: asyncio.Future[Channel], reason: str) -> None:
    """Let somebody wait no longer."""
    if not turn.done():
        turn.set_exception(Unavailable(f"{reason}; retry later"))
