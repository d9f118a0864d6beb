"""Work that comes again and again in the background."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from common.errors import Unavailable


@asynccontextmanager
async def every(interval_s: float, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do ``work`` every ``interval_s`` until the block ends; when it is unavailable, next time."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(interval_s)
            with suppress(Unavailable):
                await work()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
