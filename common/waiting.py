"""Waiting for a limited time without being a task.

``asyncio.timeout`` needs the current task. Most requests are answered without one
(``common/connection.py``), so what a handler waits for with a limit waits by this.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def within(limit_s: float, awaited: Awaitable[_T]) -> _T:
    """The result of a future, or of a coroutine that is cancelled when it takes too long.

    A future is left as it is, because others may wait for it too. Raises TimeoutError.
    """
    future = asyncio.ensure_future(awaited)
    try:
        done, _ = await asyncio.wait((future,), timeout=limit_s)
        if not done:
            raise TimeoutError
        return future.result()
    finally:
        if future is not awaited:
            future.cancel()
