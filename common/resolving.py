"""Name look-up that holds up nobody but who asks for the name.

``getaddrinfo`` waits for a name server that does not answer for half a minute, and nothing ends it
before. uvloop has two threads for all look-ups, the database's too, and the end of the process
waits for them; asyncio's own are a few more. So two names could hold up all others, and a stop.
Here each look-up has a thread of its own, which nothing waits for.
"""

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

# So many at once; beyond that a look-up fails at once.
LOOK_UPS_MAX = 256
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

# As the module socket says it: family, type, protocol, canonical name, address.
AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class Resolver(AbstractResolver):
    """What aiohttp asks for addresses."""

    def __init__(self, look_ups_max: int = LOOK_UPS_MAX) -> None:
        self._free = threading.Semaphore(look_ups_max)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self.look_up(host, port, family, socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=_numeric(address),
                port=address[1],
                family=family,
                proto=protocol,
                flags=_NUMERIC,
            )
            for family, _, protocol, _, address in found
        ]

    async def look_up(
        self, host: str, port: int | None, family: int = socket.AF_UNSPEC, flags: int = 0
    ) -> Sequence[AddressInfo]:
        """All addresses. Raises OSError; who stops waiting leaves the look-up to itself."""
        # No variable holds what is awaited: an error holds the frame, and would hold itself.
        return await self._asking(host, port, family, socket.SOCK_STREAM, 0, flags)

    def _asking(self, *arguments: Any) -> asyncio.Future[Sequence[AddressInfo]]:
        if not self._free.acquire(blocking=False):
            raise OSError(f"{arguments[0]}: too many look-ups have no answer yet")
        found: Future[Sequence[AddressInfo]] = Future()
        found.set_running_or_notify_cancel()  # from now on it cannot be cancelled
        found.add_done_callback(lambda _: self._free.release())
        # Not of a pool: the end of the process waits for the threads of pools.
        threading.Thread(target=_ask, args=(found, arguments), daemon=True).start()
        return asyncio.wrap_future(found)

    async def close(self) -> None:
        pass


def _ask(found: Future[Sequence[AddressInfo]], arguments: tuple[Any, ...]) -> None:
    try:
        found.set_result(socket.getaddrinfo(*arguments))
    except Exception as error:
        found.set_exception(error.with_traceback(None))  # this frame holds ``found``


def _numeric(address: tuple[Any, ...]) -> str:
    """The address without the port; one of a single link (IPv6) needs the number of the link."""
    host, scope = str(address[0]), address[3] if len(address) > 3 else 0
    return f"{host}%{scope}" if scope else host
