"""Who connects is let in at once or told at once, and nothing is refused that is not understood."""

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import cast
from unittest.mock import Mock

import pytest
import uvloop
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage
from client import HOST, PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from common.connection import is_one_request
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


# ---- what may be refused without parsing ----

usual = (
    b"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}"
)
lines = st.sampled_from(
    [
        b"Host: x",
        b"Authorization: Bearer k",
        b"Connection: keep-alive",
        b"Connection: close",
        b"Proxy-Connection: close",
        b"connection: keep-alive, upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"Content-Length: 2",
        b"content-length: 4",
        b"Content-Length:  2",
        b"Content-Length: 02",
        b"Content-Length: +2",
        b"Content-Length : 2",
        b"Transfer-Encoding: chunked",
        b"X-Long: content-length: 7",
        b" folded: 2",
        b"X: \xff",
        b"no colon",
        b"",
    ]
)
requests = st.builds(
    lambda start, headers, body: b"\r\n".join([start, *headers, b"", body]),
    st.sampled_from(
        [
            b"GET /health HTTP/1.1",
            b"POST /orders HTTP/1.1",
            b"DELETE /orders/1 HTTP/1.1",
            b"POST /orders HTTP/1.0",
            b"HEAD / HTTP/1.1",
            b"get / HTTP/1.1",
            b"GET / x HTTP/1.1",
        ]
    ),
    st.lists(lines, max_size=5),
    st.sampled_from([b"", b"{}", b"{}{}", b"2\r\n{}\r\n0\r\n\r\n", usual]),
)


def parsed(data: bytes) -> list[tuple[RawRequestMessage, bool]]:
    """What aiohttp's parser sees: messages, and whether the body of each is here as a whole."""
    loop = asyncio.new_event_loop()
    try:
        protocol = BaseProtocol(loop)
        protocol.transport = Mock()
        messages, upgraded, tail = HttpRequestParser(protocol, loop, 2**16).feed_data(data)
        assert not upgraded
        assert not tail
        return [(message, content.is_eof()) for message, content in messages]
    finally:
        loop.close()


def test_the_requests_of_usual_clients_are_known_as_such() -> None:
    assert is_one_request(usual)
    assert is_one_request(usual.replace(b"Host: x", b"Connection: keep-alive"))
    assert is_one_request(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")


@given(requests | st.integers(0, len(usual)).map(lambda end: usual[:end]))
def test_what_is_taken_for_one_request_is_one_for_the_parser_too(data: bytes) -> None:
    if is_one_request(data):
        try:
            [(message, whole)] = parsed(data)
        except BadHttpMessage:
            return  # with a reply of its own, and nothing behind it
        assert whole
        assert not message.should_close
        assert not message.upgrade
        assert message.method in ("GET", "POST", "DELETE")
