"""Clients that keep a service waiting: sockets in a thread of their own, beside a load.

Each kind does one thing that real clients do when they are slow, broken or hostile, and connects
again whenever the service has had enough of it.
"""

import contextlib
import math
import resource
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.exchange_client import CONNECT_PATIENCE_S, HarnessError
from bench.http_client import Address

STEP_S = 0.1
_FILES_KEPT_BACK = 200
_READ_AT_ONCE = 1 << 20


class Kind(NamedTuple):
    """``number`` clients: ``first`` is sent on connecting, ``then`` at every step; they ``read``
    what comes back, and half-close the connection after ``first`` if they ``end``."""

    label: str
    number: int
    first: bytes = b""
    then: bytes = b""
    read: bool = True
    end: bool = False


_SMALL, _LARGE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/health", b"/openapi.json")
)
KINDS = (
    Kind("idle", 2_000),
    Kind("a byte every 100 ms", 200, first=b"POST /orders HTTP/1.1\r\nX-Slow: ", then=b"x"),
    Kind("half-closed", 200, first=_SMALL, end=True),
    Kind("never reads", 50, first=50 * _LARGE, then=_LARGE, read=False),
)
# Of those that were closed so many come back at a step, lest connecting be the load.
BACK_SHARE = 0.05


@dataclass
class Crowd:
    """How many connections were made, how many of them the service has closed, and how many there
    are."""

    connected: int = 0
    closed: int = 0

    @property
    def present(self) -> int:
        return self.connected - self.closed


@contextlib.contextmanager
def beside(address: Address, kinds: Sequence[Kind]) -> Iterator[Crowd]:
    """So many of each kind until the block ends. Raises HarnessError when they cannot be."""
    crowd, stop = Crowd(), threading.Event()
    clients: dict[socket.socket, Kind] = {}
    try:
        try:
            _connect(address, kinds, clients, crowd, share=1.0)
        except OSError as error:
            raise HarnessError(f"the service takes no more connections: {error}") from None
        thread = threading.Thread(
            target=_keep, args=(address, kinds, clients, crowd, stop), daemon=True
        )
        thread.start()
        try:
            yield crowd
        finally:
            stop.set()
            thread.join()
    finally:
        for connection in clients:
            connection.close()


def allow_files(kinds: Sequence[Kind]) -> None:
    """To be called before a crowd gathers. Raises HarnessError when the system allows too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sum(kind.number for kind in kinds) + _FILES_KEPT_BACK
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise HarnessError(
            f"so many clients need {wanted:,} open files, and {hard:,} are allowed: raise the "
            "limit with ulimit -n"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _keep(
    address: Address,
    kinds: Sequence[Kind],
    clients: dict[socket.socket, Kind],
    crowd: Crowd,
    stop: threading.Event,
) -> None:
    while not stop.wait(STEP_S):
        for connection in [each for each, kind in clients.items() if not _step(each, kind)]:
            connection.close()
            del clients[connection]
            crowd.closed += 1
        with contextlib.suppress(OSError):  # at the next step, then
            _connect(address, kinds, clients, crowd, share=BACK_SHARE)


def _connect(
    address: Address,
    kinds: Sequence[Kind],
    clients: dict[socket.socket, Kind],
    crowd: Crowd,
    *,
    share: float,
) -> None:
    """Connect who is missing, but no more than a share of each kind. Raises OSError."""
    present = Counter(clients.values())
    for kind in kinds:
        for _ in range(min(kind.number - present[kind], math.ceil(share * kind.number))):
            connection = socket.create_connection(address, timeout=CONNECT_PATIENCE_S)
            clients[connection] = kind
            crowd.connected += 1
            connection.setblocking(False)
            _send(connection, kind.first)
            if kind.end:
                connection.shutdown(socket.SHUT_WR)


def _step(connection: socket.socket, kind: Kind) -> bool:
    """Do what the kind does; whether the connection is still there."""
    try:
        if not kind.end:
            _send(connection, kind.then)
        return not kind.read or connection.recv(_READ_AT_ONCE) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _send(connection: socket.socket, data: bytes) -> None:
    """As much as the other side takes."""
    if data:
        with contextlib.suppress(BlockingIOError):
            connection.send(data)
