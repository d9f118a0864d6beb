"""A case whose name server says nothing about the names that begin with ``silent``, ever.

``TEST_CASE=casev3 python -m tests.silent_names``
"""

import asyncio
import importlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import uvloop

from common.server import main

look_up = socket.getaddrinfo


def asked(host: object, *arguments: Any, **named: Any) -> Any:
    if str(host).startswith("silent"):
        Event().wait()
    return look_up(host, *arguments, **named)  # type: ignore[arg-type]


class Loop(uvloop.Loop):
    """Looks up names in two threads, as uvloop itself, but by way of the module socket."""

    threads = ThreadPoolExecutor(2)

    async def getaddrinfo(self, *arguments: Any, **named: Any) -> Any:
        asking = self.threads.submit(socket.getaddrinfo, *arguments, **named)
        return await asyncio.wrap_future(asking, loop=self)


if __name__ == "__main__":
    app = importlib.import_module(f"{os.environ['TEST_CASE']}.app")
    socket.getaddrinfo = asked
    uvloop.new_event_loop = Loop
    main(app.open_exchange, stateless=app.STATELESS)
