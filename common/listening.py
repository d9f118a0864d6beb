"""Accept connections, as many in a row as wait, or turn them away.

The listening of uvloop takes one connection each time the kernel says that some wait. That is soon
enough in a loop that is not busy; where thousands of connections have something to read it is one
for each round through all of them, and who connects then waits for seconds, or is not let in at
all. What was measured stands in docs/performance.md.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

# For who connects while we are busy, to wait in the kernel.
BACKLOG = 4096
# How the addresses of a host are asked for.
TYPE, FLAGS = socket.SOCK_STREAM, socket.AI_PASSIVE
Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
# Taken at once; more would keep those waiting who are connected.
ACCEPTED_TOGETHER = 256
_FIRST_BYTES = 64 * 1024
OUT_OF_FILES_PAUSE_S = 1.0

log = logging.getLogger(__name__)


def opened(found: Iterable[Address], *, reuse_port: bool = False) -> list[socket.socket]:
    """A listening socket on each address that was found, all or none.

    Raises OSError when one is taken, or when the system has none of their families.
    """
    missing: OSError | None = None
    with ExitStack() as made:
        sockets = []
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            try:
                listening = socket.create_server(
                    address, family=family, backlog=BACKLOG, reuse_port=reuse_port
                )
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:  # such as IPv6 where there is none
                    raise
                missing = error
            else:
                sockets.append(made.enter_context(listening))
        if missing is not None and not sockets:
            raise missing
        made.pop_all()
    return sockets


class Listener:
    """Listens on every address of a host and gives each connection a protocol.

    ``turned_away`` sees the first bytes that a client has sent, none if they are on their way, and
    says what it gets instead, or None.
    """

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        turned_away: Callable[[bytes], bytes | None],
    ) -> None:
        self._protocol_factory = protocol_factory
        self._turned_away = turned_away
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._taking_over: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> None:
        """Raises OSError when the host is not known or the port is taken."""
        found = await self._loop.getaddrinfo(host, port, type=TYPE, flags=FLAGS)
        self._sockets = opened(found, reuse_port=reuse_port)
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    async def stop(self) -> None:
        """Let nobody else in; who is connected has a protocol now, and stays."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()
        if self._taking_over:
            await asyncio.wait(self._taking_over)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_TOGETHER):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.error("cannot take a connection on: %s", error.strerror)
                # The kernel would say again and again that somebody waits.
                self._loop.remove_reader(listening)
                self._loop.call_later(OUT_OF_FILES_PAUSE_S, self._go_on, listening)
                return
            connection.setblocking(False)
            farewell = self._turned_away(_first_bytes(connection))
            if farewell is not None:
                _part(connection, farewell)
                continue
            task = self._loop.create_task(self._take_over(connection))
            self._taking_over.add(task)
            task.add_done_callback(self._taking_over.discard)

    def _go_on(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _take_over(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol_factory, connection)
        except OSError:
            connection.close()  # it has gone again


def _first_bytes(connection: socket.socket) -> bytes:
    """What has come, without taking it."""
    try:
        return connection.recv(_FIRST_BYTES, socket.MSG_PEEK)
    except OSError:
        return b""


def _part(connection: socket.socket, farewell: bytes) -> None:
    """Say one thing and close. What has come is taken, else closing would take the words back."""
    with connection, suppress(OSError):
        connection.send(farewell)
        connection.recv(_FIRST_BYTES)
