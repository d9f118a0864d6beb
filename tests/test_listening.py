"""Who connects is let in at once or told at once."""

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import cast

import pytest
import uvloop
from client import HOST, PATIENCE_S

from common.listening import ACCEPTED_TOGETHER, OUT_OF_FILES_PAUSE_S, Listener

AT_ONCE = ACCEPTED_TOGETHER // 2


class Greeter(asyncio.Protocol):
    """Says hello."""

    made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        # The transports of uvloop have the methods but not the base class.
        cast(asyncio.Transport, transport).write(b"hello")
        transport.close()


def nobody(first: bytes) -> bytes | None:
    return None


async def listening(
    turned_away: Callable[[bytes], bytes | None] = nobody,
    factory: Callable[[], asyncio.Protocol] = Greeter,
) -> tuple[Listener, int]:
    """A listener and its port."""
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    listener = Listener(factory, turned_away)
    await listener.start(HOST, port)
    return listener, port


def connect(port: int, clients: ExitStack) -> socket.socket:
    """A connection that the kernel has made, whether or not anybody has accepted it."""
    return clients.enter_context(socket.create_connection((HOST, port), timeout=PATIENCE_S))


async def said_to(client: socket.socket) -> bytes:
    return await asyncio.to_thread(client.recv, 100)


def test_all_who_wait_are_let_in_in_one_turn() -> None:
    async def main() -> None:
        taken: list[bytes] = []
        some = asyncio.Event()

        def count(first: bytes) -> bytes | None:
            taken.append(first)
            some.set()
            return None

        listener, port = await listening(count)
        with ExitStack() as clients:
            waiting = [connect(port, clients) for _ in range(AT_ONCE)]
            await some.wait()
            assert len(taken) == AT_ONCE
            for client in waiting:
                assert await said_to(client) == b"hello"
        await listener.stop()

    uvloop.run(main())


def test_who_was_let_in_has_a_protocol_when_it_has_stopped() -> None:
    async def main() -> None:
        seen = asyncio.Event()
        greeters: list[Greeter] = []

        def see(first: bytes) -> bytes | None:
            seen.set()
            return None

        def make() -> Greeter:
            greeters.append(Greeter())
            return greeters[-1]

        listener, port = await listening(see, make)
        with ExitStack() as clients:
            connect(port, clients)
            await seen.wait()
            await listener.stop()
            assert [greeter.made for greeter in greeters] == [True]

    uvloop.run(main())


def test_who_is_turned_away_is_told_whatever_it_had_sent() -> None:
    async def main() -> None:
        seen: list[bytes] = []

        def away(first: bytes) -> bytes | None:
            seen.append(first)
            return b"not now"

        listener, port = await listening(away)
        with ExitStack() as clients:
            talker = connect(port, clients)
            talker.sendall(b"let me in")
            assert await said_to(talker) == b"not now"
            assert await said_to(talker) == b""
            assert await said_to(connect(port, clients)) == b"not now"
        await listener.stop()
        assert seen == [b"let me in", b""]

    uvloop.run(main())


def test_without_files_who_connects_waits_until_there_are_some() -> None:
    async def main() -> None:
        listener, port = await listening()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with ExitStack() as clients:
            client = connect(port, clients)
            used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
            fillers: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            try:
                with suppress(OSError):
                    while True:
                        fillers.append(os.dup(0))
                began_s = asyncio.get_running_loop().time()
                told = asyncio.ensure_future(
                    asyncio.get_running_loop().run_in_executor(None, client.recv, 100)
                )
                await asyncio.wait([told], timeout=OUT_OF_FILES_PAUSE_S / 2)
                assert not told.done()
            finally:
                for filler in fillers:
                    os.close(filler)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert await told == b"hello"
            assert asyncio.get_running_loop().time() - began_s < OUT_OF_FILES_PAUSE_S + PATIENCE_S
        await listener.stop()

    uvloop.run(main())


def test_a_stopped_listener_lets_nobody_in() -> None:
    async def main() -> None:
        listener, port = await listening()
        await listener.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port), timeout=PATIENCE_S)

    uvloop.run(main())
