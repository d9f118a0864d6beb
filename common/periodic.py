"""Work that comes again and again in the background."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from common.errors import Unavailable

log = logging.getLogger(__name__)


@asynccontextmanager
async def every(
    interval_s: float,
    work: Callable[[], Awaitable[None]],
    on_failure: Callable[[str, BaseException], object] | None = None,
) -> AsyncIterator[None]:
    """Do ``work`` every ``interval_s`` until the block ends.

    When it fails it is done again next time; where that must not be, ``on_failure`` is called with
    what is wrong, and should end the process.
    """

    async def repeat() -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await work()
            except Unavailable:
                pass
            except Exception as error:
                if on_failure is not None:
                    on_failure(f"what is done every {interval_s:g} s failed", error)
                    return
                log.exception("what is done every %g s failed, and is tried again", interval_s)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
