"""The short way through aiohttp: every request gets one reply, its own, in its turn.

A connection is fed bytes as a transport would feed it, while the service is behind and so refuses
what is surely one request without parsing it.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from unittest.mock import Mock

import pytest
import uvloop
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from client import HOST, PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from common.connection import BODY_MAX_BYTES, Connection, Server
from common.overload import Overload
from common.reply import Reply, Response
from common.settling import Settling

REFUSED = b"503"
_REPLY = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*?\r\n")


class Client:
    """A connection to a server, and what came on it."""

    def __init__(self, server: Server) -> None:
        self.written = b""
        made = server()
        assert isinstance(made, Connection)
        self.connection = made
        self.transport = Mock()
        self.transport.write = self.write
        self.transport.is_closing.return_value = False
        self.transport.get_write_buffer_size.return_value = 0
        self.connection.connection_made(self.transport)

    def write(self, data: bytes) -> None:
        self.written += data

    async def feed(self, *pieces: bytes) -> None:
        """One read each, with time for all that follows from it."""
        for piece in pieces:
            self.connection.data_received(piece)
            await turns()

    @property
    def replies(self) -> list[bytes]:
        """The path of each answer, or its status."""
        found, rest = [], self.written
        while rest:
            head = _REPLY.match(rest)
            assert head, rest
            length = re.search(rb"Content-Length: (\d+)", head[0])
            assert length
            end = head.end() + int(length[1])
            found.append(rest[head.end() : end] if head[1] == b"200" else head[1])
            rest = rest[end:]
        return found


class Scene(Client):
    """A connection whose answers are the paths that were asked for."""

    def __init__(self, refuses_unread: Callable[[bytes], bool] = lambda _: True) -> None:
        loop = asyncio.get_running_loop()
        self.overload = Overload(loop.time(), 0.0)
        self.overload.is_behind = True
        self.holds_up = set[str]()
        self.may_go_on = asyncio.Event()
        self.answers_wait = True
        self.reads_bodies = False
        self.settling: Settling | None = None
        self.stopping = False
        self.server = Server(
            self.by_aiohttp,
            answer=self.answer,
            refuses=lambda _: False,
            refuses_unread=refuses_unread,
            stopping=lambda: self.stopping,
            overload=self.overload,
            options={"access_log": None},
            patience_s=60.0,
            connections_max=10,
        )
        super().__init__(self.server)

    async def answer(self, message: RawRequestMessage, content: StreamReader) -> Reply:
        if message.path in self.holds_up:
            await self.may_go_on.wait()
        if self.answers_wait:
            await asyncio.sleep(0)
        reply = Reply(message.path.encode())
        reply.settling = self.settling
        return reply

    async def by_aiohttp(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.reads_bodies:
            return Response(Reply(b"by aiohttp", 401))
        await request.read()
        return Response(await self.answer(request._message, request.content))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def scene(
    play: Callable[[Scene], Awaitable[None]],
    refuses_unread: Callable[[bytes], bool] = lambda _: True,
) -> None:
    async def main() -> None:
        made = Scene(refuses_unread)
        await turns()
        try:
            await play(made)
        finally:
            made.connection.connection_lost(None)
            await turns()

    asyncio.run(main())


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def test_one_whole_request_after_the_other_is_refused() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(get("/a"), post("/b", b"{}"), get("/c"))
        assert scene.replies == [REFUSED] * 3

    scene(play)


# What looks like a request and has no Host, so that it can be the end of another head.
LOOKS_WHOLE = b"GET /x HTTP/1.1\r\nX: y\r\n\r\n"


def test_who_sends_many_at_once_gets_one_answer_in_each_turn() -> None:
    async def play(scene: Scene) -> None:
        scene.answers_wait = False
        scene.connection.data_received(b"".join(get(f"/{number}") for number in range(20)))
        for answered in range(1, 21):
            assert scene.replies == [b"/%d" % number for number in range(answered)]
            await turns(1)

    scene(play)


def test_what_ends_a_head_that_has_begun_is_no_request_of_its_own() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: ", LOOKS_WHOLE)
        assert scene.replies == [b"/a"]

    scene(play)


def test_nor_is_it_when_the_service_has_fallen_behind_since() -> None:
    async def play(scene: Scene) -> None:
        scene.overload.is_behind = False
        await scene.feed(b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: ")
        scene.overload.is_behind = True
        await scene.feed(LOOKS_WHOLE, get("/b"))
        assert scene.replies == [b"/a", REFUSED]

    scene(play)


def test_nor_is_it_after_a_whole_request_that_brought_the_beginning_along() -> None:
    async def play(scene: Scene) -> None:
        begun = b"GET /b HTTP/1.1\r\nHost: x\r\nX-A: "
        await scene.feed(get("/a") + begun, LOOKS_WHOLE, get("/c"))
        assert scene.replies == [b"/a", b"/b", REFUSED]

    scene(play)


def test_nor_is_a_body_that_looks_like_one() -> None:
    async def play(scene: Scene) -> None:
        head = post("/a", LOOKS_WHOLE).removesuffix(LOOKS_WHOLE)
        await scene.feed(head, LOOKS_WHOLE, get("/b"))
        assert scene.replies[:1] == [b"/a"]
        assert len(scene.replies) == 2

    scene(play)


def test_nor_is_the_body_of_a_request_that_aiohttp_has_answered_already() -> None:
    async def play(scene: Scene) -> None:
        head = post("/a", LOOKS_WHOLE, "Expect: 100-continue").removesuffix(LOOKS_WHOLE)
        await scene.feed(head)
        assert scene.replies == [b"401"]
        await scene.feed(LOOKS_WHOLE)
        scene.connection.drop_if_slow(math.inf)
        await scene.feed(get("/b"))
        assert not {REFUSED, b"408"} & set(scene.replies)

    scene(play)


def test_who_waits_for_an_answer_gets_it_before_the_next_refusal() -> None:
    async def play(scene: Scene) -> None:
        scene.holds_up = {"/a"}
        await scene.feed(get("/a") + get("/b"), get("/c"), get("/d"))
        assert scene.replies == []
        scene.may_go_on.set()
        await turns(10)
        assert scene.replies == [b"/a", b"/b", b"/c", b"/d"]

    scene(play)


def test_a_reply_leaves_when_it_is_durable_and_the_one_behind_it_after_that() -> None:
    async def play(scene: Scene) -> None:
        first, second = Settling(), Settling()
        scene.settling = first
        await scene.feed(get("/a") + get("/b"), get("/c"))
        assert scene.replies == []
        scene.settling = second
        first.end()
        await turns()
        assert scene.replies == [b"/a"]
        scene.settling = None
        second.end()
        await turns(10)
        assert scene.replies == [b"/a", b"/b", b"/c"]

    scene(play)


def test_who_asked_for_what_may_not_be_durable_is_told_nothing() -> None:
    async def play(scene: Scene) -> None:
        scene.settling = Settling()
        await scene.feed(get("/a") + get("/b"))
        scene.settling.end(OSError("the disk is broken"))
        await turns()
        assert scene.replies == []
        scene.transport.abort.assert_called_once()

    scene(play)


def test_a_reply_that_waited_while_the_service_was_told_to_stop_closes_its_connection() -> None:
    async def play(scene: Scene) -> None:
        scene.settling = Settling()
        await scene.feed(get("/a") + get("/b"))
        scene.stopping = True
        scene.settling.end()
        await turns()
        assert scene.replies == [b"/a"]
        assert b"Connection: close\r\n" in scene.written
        scene.transport.close.assert_called_once()

    scene(play)


def test_who_waits_for_an_answer_is_not_idle() -> None:
    async def play(scene: Scene) -> None:
        scene.connection.keep_alive(True)  # as after a request that went aiohttp's way
        scene.overload.is_behind = False
        scene.settling = Settling()
        await scene.feed(get("/a"))
        scene.connection._next_keepalive_close_time = -math.inf
        scene.connection._process_keepalive()
        scene.settling.end()
        await turns()
        assert scene.replies == [b"/a"]
        scene.connection._next_keepalive_close_time = -math.inf
        scene.connection._process_keepalive()
        scene.transport.close.assert_called_once()

    scene(play)


def test_a_client_that_has_gone_before_its_reply_is_durable_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(scene: Scene) -> None:
        scene.settling = Settling()
        scene.overload.is_behind = False
        await scene.feed(get("/a"))
        scene.connection.connection_lost(None)
        scene.settling.end()
        assert scene.replies == []

    scene(play)
    assert not caplog.records


def test_a_reply_that_cannot_be_sent_does_not_keep_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Exception | None] = []

    def broken(error: Exception | None) -> None:
        raise RuntimeError("the first is broken")

    settling = Settling()
    settling.tell(broken)
    settling.tell(told.append)
    settling.end()
    assert told == [None]
    assert "the first is broken" in caplog.text


KINDS: list[Callable[[str], bytes]] = [
    get,
    lambda path: get(path, "Connection: keep-alive"),
    lambda path: post(path, b""),
    lambda path: post(path, LOOKS_WHOLE),
    lambda path: post(path, b"{}" + LOOKS_WHOLE),
    lambda path: post(path, b"{}", "Authorization: Bearer k"),
]
requests = st.lists(st.sampled_from(KINDS), min_size=1, max_size=6)


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(ends)]


@given(
    made=requests,
    places=st.lists(st.integers(0, 2000), max_size=6),
    at_borders=st.booleans(),
    at_once=st.booleans(),
    refused=st.lists(st.booleans(), min_size=12, max_size=12),
    settles=st.booleans(),
    is_behind=st.booleans(),
)
def test_however_the_bytes_come_each_request_gets_one_reply_in_its_turn(
    *,
    made: Sequence[Callable[[str], bytes]],
    places: list[int],
    at_borders: bool,
    at_once: bool,
    refused: list[bool],
    settles: bool,
    is_behind: bool,
) -> None:
    paths = [f"/{number}" for number in range(len(made))]
    whole = [make(path) for make, path in zip(made, paths, strict=True)]
    ends = [len(b"".join(whole[:number])) for number in range(len(whole))]
    pieces = cut(b"".join(whole), [*places, *(ends if at_borders else [])])
    answers = iter(refused * 10)

    async def play(scene: Scene) -> None:
        scene.settling = Settling() if settles else None
        scene.overload.is_behind = is_behind
        if at_once:
            for piece in pieces:
                scene.connection.data_received(piece)
        else:
            await scene.feed(*pieces)
        for _ in range(len(paths) + 1):
            if scene.settling is not None:
                settled, scene.settling = scene.settling, Settling()
                settled.end()
            await turns(10)
        replies = scene.replies
        assert len(replies) == len(paths)
        for path, reply in zip(paths, replies, strict=True):
            assert reply in (path.encode(), REFUSED)

    scene(play, lambda _: next(answers))


@given(
    made=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(KINDS)), min_size=2, max_size=8),
    places=st.lists(st.integers(0, 2000), max_size=6),
    turn=st.lists(st.integers(0, 2), max_size=20),
    is_behind=st.booleans(),
)
def test_what_comes_on_one_connection_is_never_part_of_what_comes_on_another(
    made: Sequence[tuple[int, Callable[[str], bytes]]],
    places: list[int],
    turn: list[int],
    is_behind: bool,
) -> None:
    paths: list[list[bytes]] = [[], [], []]
    streams = [b"", b"", b""]
    for number, (client, make) in enumerate(made):
        paths[client].append(f"/{client}/{number}".encode())
        streams[client] += make(f"/{client}/{number}")
    pieces = [cut(stream, places) for stream in streams]

    async def play(scene: Scene) -> None:
        scene.overload.is_behind = is_behind
        clients = [scene, Client(scene.server), Client(scene.server)]
        await turns()
        rest = [which for which, all_of_it in enumerate(pieces) for _ in all_of_it]
        for which in [*turn, *rest]:
            if pieces[which]:
                await clients[which].feed(pieces[which].pop(0))
        await turns(10)
        assert [client.replies for client in clients] == paths
        for client in clients[1:]:
            client.connection.connection_lost(None)

    scene(play, lambda _: False)


BY_AIOHTTP: list[Callable[[str], bytes]] = [
    lambda path: get(path).replace(b"GET", b"DELETE"),
    lambda path: get(path, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    lambda path: post(path, b"{}", "Expect: 100-continue"),
    lambda path: post(path, bytes(BODY_MAX_BYTES + 1)),
]


async def said_to(port: int, pieces: Iterable[bytes], *, at_once: bool) -> bytes:
    """Everything that a client is told who sends so many pieces and half-closes."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for piece in pieces:
            writer.write(piece)
            if not at_once:
                await turns()
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@given(
    made=st.lists(st.sampled_from(KINDS + BY_AIOHTTP), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 2000), max_size=4),
    missing=st.one_of(st.just(0), st.integers(0, 2000)),
    at_once=st.booleans(),
    answers_wait=st.booleans(),
    is_behind=st.booleans(),
)
def test_who_half_closes_gets_the_replies_to_all_that_has_come_whole(
    *,
    loop: Callable[[], asyncio.AbstractEventLoop],
    made: Sequence[Callable[[str], bytes]],
    places: list[int],
    missing: int,
    at_once: bool,
    answers_wait: bool,
    is_behind: bool,
) -> None:
    paths = [f"/{number}" for number in range(len(made))]
    whole = [make(path) for make, path in zip(made, paths, strict=True)]
    stream = b"".join(whole)
    stream = stream[: max(0, len(stream) - missing)]
    ends = accumulate(map(len, whole))
    complete = [path.encode() for path, end in zip(paths, ends, strict=True) if end <= len(stream)]

    async def main() -> None:
        scene = Scene(lambda _: False)
        scene.reads_bodies, scene.answers_wait = True, answers_wait
        scene.overload.is_behind = is_behind
        await turns()
        scene.connection.connection_lost(None)
        listening = await asyncio.get_running_loop().create_server(scene.server, HOST, 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            scene.written = await said_to(port, cut(stream, places), at_once=at_once)
            scene.written = scene.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
            assert scene.replies == complete
            await turns()
            assert scene.server.connections == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("ends", [False, True])
def test_many_requests_behind_one_that_aiohttp_took_before_it_was_whole_are_answered(
    *, ends: bool
) -> None:
    async def play(scene: Scene) -> None:
        scene.overload.is_behind = False
        scene.reads_bodies = True
        first = post("/0", b"{}", "Expect: 100-continue")
        paths = [f"/{number}" for number in range(1, 100)]
        await scene.feed(first[:-1], first[-1:] + b"".join(map(BY_AIOHTTP[0], paths)))
        if ends:
            scene.connection.eof_received()
        await turns(1000)
        assert scene.replies == [b"/0", *(path.encode() for path in paths)]
        assert scene.transport.close.called == ends

    scene(play)


def test_who_does_not_read_what_is_left_when_it_closes_is_given_up() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(get("/a"))
        scene.transport.is_closing.return_value = True
        scene.connection.drop_if_slow(-math.inf)
        scene.transport.abort.assert_not_called()
        scene.connection.drop_if_slow(math.inf)
        scene.transport.abort.assert_called_once()

    scene(play)


NOT_ONE_PLAIN_REQUEST = {
    "nothing": b"",
    "the beginning of a head": get("/1")[:-1],
    "the beginning of a body": post("/1", b"{}")[:-1],
    "two requests": get("/1") + get("/2"),
    "a request and the beginning of another": post("/1", b"{}") + b"G",
    "a body that ends as the beginning of another": post("/1", b"GET") + b"GET",
    "an empty line before the request": b"\r\n\r\n" + get("/1"),
    "chunks": get("/1", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "very many chunks": get("/1", "Transfer-Encoding: chunked") + b"1\r\n \r\n" * 20_000,
    "no HTTP": b"\x16\x03\x01\r\n\r\n",
    "two lengths": post("/1", b"{}", "Content-Length: 2"),
    "a client that waits before it sends the body": post("/1", b"{}", "Expect: 100-continue"),
    "a connection that is to be closed": get("/1", "Connection: close"),
    "HTTP/1.0": get("/1").replace(b"1.1", b"1.0"),
    "another method": get("/1").replace(b"GET", b"HEAD"),
    "another protocol": get("/1", "Connection: upgrade", "Upgrade: websocket"),
}


@pytest.mark.parametrize("data", NOT_ONE_PLAIN_REQUEST.values(), ids=NOT_ONE_PLAIN_REQUEST)
def test_what_is_not_one_plain_request_leaves_nothing_for_the_next_connection(data: bytes) -> None:
    async def play(scene: Scene) -> None:
        assert scene.server.whole_request(data) is None
        for body in (b"", b"{}", LOOKS_WHOLE):
            request = scene.server.whole_request(post("/next", body))
            assert request is not None
            message, content = request
            assert (message.path, content.read_nowait()) == ("/next", body)

    scene(play)
