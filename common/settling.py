"""Replies that wait until what they say is durable.

A handler does not wait for the disk; its reply does. A handler that is kept for some milliseconds
is some twenty objects that the garbage collector looks at, which costs more than the answer when
many wait.
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

Told = Callable[[Exception | None], None]


class Settling:
    """What becomes durable by one write, and who waits for that."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Told] = []

    def tell(self, told: Told) -> None:
        """Call ``told`` once it is durable, or with the error that leaves open whether it is.

        To be asked before the event loop goes on: what has ended tells nobody. ``told`` is called
        while others wait for the same, so it may begin nothing that takes long.
        """
        self._waiting.append(told)

    async def wait(self) -> None:
        """Return once it is durable. Raises the error that leaves open whether it is."""
        future = asyncio.get_running_loop().create_future()

        def told(error: Exception | None) -> None:
            if future.done():
                return  # who waited was cancelled
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.tell(told)
        await future

    def end(self, error: Exception | None = None) -> None:
        """Tell all who wait, in the order in which they came."""
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            try:
                told(error)
            except Exception:  # is no reason to leave the others waiting
                log.exception("one that waited for the log could not go on")
