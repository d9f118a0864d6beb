"""The short way through aiohttp: every request gets one reply, its own, in its turn.

A connection is fed bytes as a transport would feed it. What is surely one request never comes to
aiohttp's parser, what may be a part of another does.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from unittest.mock import Mock, patch

import pytest
import uvloop
from aiohttp import web
from client import HOST, PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st
from raw_requests import get, post

from common.connection import HALF_TURN, Connection, Server
from common.reply import Reply, Response
from common.request import BODY_MAX_BYTES, Request, request_of
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

    def __init__(self, refuses: Callable[[str], bool] = lambda _: False) -> None:
        self.holds_up = set[str]()
        self.asked = list[str]()
        self.may_go_on = asyncio.Event()
        self.answers_wait = True
        self.reads_bodies = False
        self.settling: Settling | None = None
        self.stopping = False
        self.server = Server(
            self.by_aiohttp,
            answer=self.answer,
            refuses=refuses,
            stopping=lambda: self.stopping,
            options={"access_log": None},
            patience_s=60.0,
            connections_max=10,
        )
        super().__init__(self.server)

    async def answer(self, request: Request) -> Reply:
        self.asked.append(request.path)
        if request.path in self.holds_up:
            await self.may_go_on.wait()
        if self.answers_wait:
            await asyncio.sleep(0)
        reply = Reply(request.path.encode())
        reply.settling = self.settling
        return reply

    async def by_aiohttp(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.reads_bodies:
            return Response(Reply(b"by aiohttp", 401))
        return Response(await self.answer(request_of(request._message, await request.read())))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def scene(
    play: Callable[[Scene], Awaitable[None]],
    refuses: Callable[[str], bool] = lambda _: False,
) -> None:
    async def main() -> None:
        made = Scene(refuses)
        await turns()
        try:
            await play(made)
        finally:
            made.connection.connection_lost(None)
            await turns()

    asyncio.run(main())


def test_one_whole_request_after_the_other_is_refused() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(get("/a"), post("/b", b"{}"), get("/c"))
        assert scene.replies == [REFUSED] * 3

    scene(play, lambda _: True)


LOOKS_WHOLE = get("/x")
BEGUN = b"GET /b HTTP/1.1\r\nX-A: "  # the Host is still to come


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
        await scene.feed(BEGUN, LOOKS_WHOLE, get("/c"))
        assert scene.replies == [b"/b", b"/c"]

    scene(play)


def test_nor_is_it_after_a_whole_request_that_brought_the_beginning_along() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(get("/a") + BEGUN, LOOKS_WHOLE, get("/c"))
        assert scene.replies == [b"/a", b"/b", b"/c"]

    scene(play)


def test_nor_is_a_body_that_looks_like_one() -> None:
    async def play(scene: Scene) -> None:
        head = post("/a", LOOKS_WHOLE).removesuffix(LOOKS_WHOLE)
        await scene.feed(head, LOOKS_WHOLE, get("/b"))
        assert scene.replies == [b"/a", b"/b"]

    scene(play)


def test_nor_is_a_body_behind_what_ended_its_head() -> None:
    async def play(scene: Scene) -> None:
        body = get("/y")
        begun = b"POST /b HTTP/1.1\r\nContent-Length: %d\r\nX-A: " % len(body)
        await scene.feed(begun, LOOKS_WHOLE, body, get("/c"), get("/d"))
        assert scene.replies == [b"/b", b"/c", b"/d"]

    scene(play)


def test_nor_is_the_body_of_a_request_that_aiohttp_has_answered_already() -> None:
    async def play(scene: Scene) -> None:
        head = post("/a", LOOKS_WHOLE, "Expect: 100-continue").removesuffix(LOOKS_WHOLE)
        await scene.feed(head)
        assert scene.replies == [b"401"]
        await scene.feed(LOOKS_WHOLE)
        scene.connection.drop_if_slow(math.inf)
        await scene.feed(get("/b"))
        assert not {b"/x", b"408"} & set(scene.replies)

    scene(play)


@pytest.mark.parametrize(
    "first",
    [
        get("/a"),
        get("/a") + get("/health"),
        get("/a", "Connection: close"),
        get("/a", "Cookie: a"),
        get("/a").replace(b"1.1", b"1.0"),
        get("/a").replace(b"GET", b"DELETE"),
        get("/healthy"),
        post("/a", b"{}")[:-1],
        b"GET /hea",
        b"\x16\x03\x01",
    ],
)
def test_while_more_comes_than_can_be_answered_new_connections_are_turned_away(
    first: bytes,
) -> None:
    async def play(scene: Scene) -> None:
        farewell = scene.server.turned_away(first)
        assert farewell is not None
        assert farewell.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nConnection: close\r\n" in farewell

    scene(play, lambda path: path != "/health")


@pytest.mark.parametrize("first", [b"", get("/health"), get("/health?x=1", "Connection: close")])
def test_not_so_who_has_asked_nothing_yet_or_asks_how_the_service_does(first: bytes) -> None:
    async def play(scene: Scene) -> None:
        assert scene.server.turned_away(first) is None

    scene(play, lambda path: path != "/health")


def test_who_once_sent_a_request_in_pieces_is_soon_answered_without_a_parser_again() -> None:
    async def play(scene: Scene) -> None:
        parser = Mock(wraps=scene.connection._parser)
        scene.connection._parser = parser
        await scene.feed(get("/a"))
        parser.feed_data.assert_not_called()
        await scene.feed(get("/b")[:9], get("/b")[9:], get("/c"))
        seen = parser.feed_data.call_count
        await scene.feed(get("/d"), post("/e", b"{}"))
        assert parser.feed_data.call_count == seen == 3
        assert scene.replies == [b"/a", b"/b", b"/c", b"/d", b"/e"]

    scene(play)


def test_who_has_gone_before_its_turn_is_not_answered() -> None:
    async def play(scene: Scene) -> None:
        scene.server._answers = 2 * HALF_TURN  # as many as are answered in one go
        scene.connection.data_received(get("/a"))
        scene.connection.connection_lost(None)
        await turns()
        assert scene.asked == []

    scene(play)


def test_who_waits_for_an_answer_gets_it_before_the_next() -> None:
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
    half_turn=st.sampled_from([1, HALF_TURN]),
)
def test_however_the_bytes_come_each_request_gets_one_reply_in_its_turn(
    *,
    made: Sequence[Callable[[str], bytes]],
    places: list[int],
    at_borders: bool,
    at_once: bool,
    refused: list[bool],
    settles: bool,
    half_turn: int,
) -> None:
    paths = [f"/{number}" for number in range(len(made))]
    whole = [make(path) for make, path in zip(made, paths, strict=True)]
    ends = [len(b"".join(whole[:number])) for number in range(len(whole))]
    pieces = cut(b"".join(whole), [*places, *(ends if at_borders else [])])
    answers = iter(refused * 10)

    async def play(scene: Scene) -> None:
        scene.settling = Settling() if settles else None
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

    with patch("common.connection.HALF_TURN", half_turn):
        scene(play, lambda _: next(answers))


@given(
    made=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(KINDS)), min_size=2, max_size=8),
    places=st.lists(st.integers(0, 2000), max_size=6),
    turn=st.lists(st.integers(0, 2), max_size=20),
    half_turn=st.sampled_from([1, HALF_TURN]),
)
def test_what_comes_on_one_connection_is_never_part_of_what_comes_on_another(
    made: Sequence[tuple[int, Callable[[str], bytes]]],
    places: list[int],
    turn: list[int],
    half_turn: int,
) -> None:
    paths: list[list[bytes]] = [[], [], []]
    streams = [b"", b"", b""]
    for number, (client, make) in enumerate(made):
        paths[client].append(f"/{client}/{number}".encode())
        streams[client] += make(f"/{client}/{number}")
    pieces = [cut(stream, places) for stream in streams]

    async def play(scene: Scene) -> None:
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

    with patch("common.connection.HALF_TURN", half_turn):
        scene(play)


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
)
def test_who_half_closes_gets_the_replies_to_all_that_has_come_whole(
    *,
    loop: Callable[[], asyncio.AbstractEventLoop],
    made: Sequence[Callable[[str], bytes]],
    places: list[int],
    missing: int,
    at_once: bool,
    answers_wait: bool,
) -> None:
    paths = [f"/{number}" for number in range(len(made))]
    whole = [make(path) for make, path in zip(made, paths, strict=True)]
    stream = b"".join(whole)
    stream = stream[: max(0, len(stream) - missing)]
    ends = accumulate(map(len, whole))
    complete = [path.encode() for path, end in zip(paths, ends, strict=True) if end <= len(stream)]

    async def main() -> None:
        scene = Scene()
        scene.reads_bodies, scene.answers_wait = True, answers_wait
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


@pytest.mark.parametrize("by_aiohttp", [False, True])
def test_of_a_body_that_is_too_large_little_is_read_before_its_turn(by_aiohttp: bool) -> None:
    async def play(scene: Scene) -> None:
        scene.holds_up.add("/a")
        scene.reads_bodies = True
        first = get("/a")
        if by_aiohttp:
            first = first.replace(b"GET", b"PUT")
        await scene.feed(first)
        await scene.feed(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
        await scene.feed(b" " * BODY_MAX_BYTES)
        scene.transport.pause_reading.assert_not_called()
        await scene.feed(b" ")
        scene.transport.pause_reading.assert_called_once()
        scene.transport.resume_reading.assert_not_called()
        scene.may_go_on.set()
        await turns(100)
        scene.transport.resume_reading.assert_called()
        assert scene.asked[0] == "/a"

    scene(play)


def assert_is_given_up_in_time(scene: Scene) -> None:
    """A connection that closes is cut off when it has had its time, and not before."""
    scene.transport.is_closing.return_value = True
    scene.connection.drop_if_slow(-math.inf)
    scene.transport.abort.assert_not_called()
    scene.connection.drop_if_slow(math.inf)
    scene.transport.abort.assert_called_once()


def test_whose_bytes_are_no_http_is_not_waited_for_either() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(get("/a"))
        await scene.feed(b"nonsense\r\n\r\n")
        scene.transport.close.assert_called_once()
        assert_is_given_up_in_time(scene)

    scene(play)


def test_who_does_not_read_what_is_left_when_it_closes_is_given_up() -> None:
    async def play(scene: Scene) -> None:
        await scene.feed(get("/a"))
        assert_is_given_up_in_time(scene)

    scene(play)
