"""The client understands any cut of a response; latency counts from the intended time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from bench import exchange_client, loadgen, outcomes, traffic
from bench.exchange_client import Broker, HarnessError, Session, Target
from bench.figures import Samples, all_kinds, error_counts, generator_health
from bench.http_client import Address, Malformed, Pool, Reply, ResponseParser
from bench.spec import WAITED_FOR_CONNECTION, Event, Finished, Spec, Started
from bench.traffic import Kind

CREATED = b"HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nCONTENT-length:  5 \r\n\r\nhello"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
ORDER_ID = "01234567-89ab-7def-8123-456789abcdef"
RECEIPT = b'{"order_id":"%b","status":"open","remaining_quantity":1}' % ORDER_ID.encode()
ACCEPTED = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(RECEIPT), RECEIPT)
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[bytes]]


@given(cuts=st.lists(st.integers(0, 200)), responses=st.lists(st.sampled_from([0, 1, 2])))
def test_responses_may_be_cut_anywhere(cuts: list[int], responses: list[int]) -> None:
    parser = ResponseParser()
    expected = (Reply(201, b"hello", True), Reply(204, b"", True), Reply(200, b"", False))
    for number in responses:
        data = (CREATED, NO_CONTENT, LAST)[number]
        edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
        replies = [parser.feed(data[begin:end]) for begin, end in pairwise(edges)]
        assert replies == [None] * (len(replies) - 1) + [expected[number]]


@pytest.mark.parametrize(
    "data",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        CREATED + b"more",
        b"x" * 70_000,
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        ResponseParser().feed(data)


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[Address]:
    """A server that answers each request with what ``answer`` gives; empty bytes break off."""

    clients: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients[asyncio.current_task()] = writer
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0] or 0)
                body = await reader.readexactly(length)
                reply = await answer(head + body, writer)
                if not reply:
                    writer.transport.abort()
                    return
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in clients.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in clients if task))
        await server.wait_closed()


def answered(reply: bytes) -> Answer:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> bytes:
        return reply

    return answer


async def outcomes_of(address: Address, limit: int, count: int) -> list[tuple[int, int, bytes]]:
    """What becomes of ``count`` requests that are sent at once."""
    seen: list[tuple[int, int, bytes]] = []
    done = asyncio.Event()

    def on_reply(token: int, outcome: int, body: bytes) -> None:
        seen.append((token, outcome, body))
        if len(seen) == count:
            done.set()

    pool = Pool(address, limit, on_reply)
    for token in range(count):
        pool.send(token, b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        await done.wait()
    assert pool.size <= limit
    pool.close()
    return sorted(seen)


async def test_every_request_gets_its_reply_even_over_one_connection() -> None:
    async with served(answered(CREATED)) as address:
        replies = await outcomes_of(address, limit=1, count=20)
    assert replies == [(token, 201, b"hello") for token in range(20)]


async def test_a_connection_that_closes_is_replaced() -> None:
    async with served(answered(LAST)) as address:
        replies = await outcomes_of(address, limit=2, count=7)
    assert [outcome for _, outcome, _ in replies] == [200] * 7


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(b"", outcomes.RESET), (b"nonsense\r\n\r\n", outcomes.MALFORMED)],
)
async def test_a_broken_reply_has_an_outcome_of_its_own(reply: bytes, outcome: int) -> None:
    async with served(answered(reply)) as address:
        replies = await outcomes_of(address, limit=2, count=5)
    assert [seen for _, seen, _ in replies] == [outcome] * 5


async def test_a_refused_connection_is_an_outcome_too() -> None:
    async with served(answered(EMPTY)) as address:
        pass
    replies = await outcomes_of(address, limit=2, count=5)
    assert [outcome for _, outcome, _ in replies] == [outcomes.NO_CONNECTION] * 5


async def load(
    address: Address,
    output: Path,
    *,
    scale: float = 20.0,
    drain_s: float = 1.0,
    connections: int | None = None,
    ahead_s: float = 0.05,
    part: int = 0,
) -> tuple[Samples, Finished, loadgen.Generator]:
    """One second of load in this process, ``ahead_s`` from now; the requests as they went."""
    spec = Spec(
        host_header="test",
        address=address,
        profile="average",
        seed=1,
        scale=scale,
        reads=True,
        warmup_s=0.0,
        duration_s=1.0,
        drain_s=drain_s,
        broker_keys=["key"] * 100,
        first_document=0,
        core=None,
        output=str(output / "run.npz"),
        connections=connections,
        part=part,
        parts=part + 1,
    )
    tape = spec.tape()
    start = Started(time.monotonic() + ahead_s, time.time() + ahead_s)
    requests = loadgen.Requests(spec, tape, range(len(tape)), start.epoch_s)
    start = Started(time.monotonic() + ahead_s, time.time() + ahead_s)
    generator = loadgen.Generator(
        spec, requests, (start.origin_s + tape.intended_s).tolist(), start
    )
    await generator.pool.open(4)
    finished = await generator.run()
    generator.save()
    with np.load(spec.output) as arrays:
        samples = Samples(
            arrays["intended_s"],
            arrays["sent_s"],
            arrays["done_s"],
            tape.kind,
            arrays["outcome"].astype(np.int64),
            arrays["waited"].astype(np.int64),
        )
    return samples, finished, generator


def exchange(order_reply: bytes = ACCEPTED, other_reply: bytes = EMPTY) -> Answer:
    """Orders are accepted, cancels done, everything else is 200."""

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> bytes:
        if request.startswith(b"POST /orders "):
            return order_reply
        return NO_CONTENT if request.startswith(b"POST") else other_reply

    return answer


async def test_all_requests_are_sent_and_answered(tmp_path: Path) -> None:
    async with served(exchange()) as address:
        samples, finished, _ = await load(address, tmp_path)
    assert not samples.failed.any()
    health = generator_health(samples, finished, 1.0)
    assert (health.not_sent, health.sent) == (0, len(samples.kind))
    assert finished.complete
    assert (samples.lag_ms >= 0).all()
    assert (samples.latency_ms >= samples.lag_ms).all()


async def test_the_wait_before_the_first_request_is_no_part_of_the_schedule(
    tmp_path: Path,
) -> None:
    async with served(exchange()) as address:
        samples, finished, _ = await load(address, tmp_path, ahead_s=0.5)
    # The tape's second and what a busy machine is late, but not the half second before.
    assert 0.9 < finished.wall_s < 1.4
    assert finished.sent == len(samples.kind)


async def test_a_stall_is_in_the_latency_of_all_requests_that_were_due(tmp_path: Path) -> None:
    stall_s = 0.2
    begin_s = time.monotonic() + 0.5
    stall: list[tuple[float, float]] = []
    accept = exchange()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> bytes:
        if not stall and time.monotonic() > begin_s:
            # The whole server stands still, as a single-threaded service does.
            stall.append((time.monotonic(), 0.0))
            time.sleep(stall_s)  # noqa: ASYNC251
            stall[0] = (stall[0][0], time.monotonic())
        return await accept(request, writer)

    async with served(answer) as address:
        samples, _, generator = await load(address, tmp_path)
    ((from_s, until_s),) = stall
    intended_s = np.array(generator.intended_s)
    done_s = intended_s + samples.latency_ms / 1e3
    due = (intended_s > from_s) & (intended_s < until_s)
    assert due.sum() > 10
    # Whatever was due in the stall could only be done after it: none has a shorter latency.
    assert (done_s[due] >= until_s).all()
    assert samples.latency_ms[due].max() > 0.8 * stall_s * 1e3


async def test_errors_are_counted_by_kind_and_reason(tmp_path: Path) -> None:
    refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    async with served(exchange(other_reply=refused)) as address:
        samples, _, _ = await load(address, tmp_path)
    errors = error_counts(samples)
    reads = int((samples.kind >= Kind.STATUS).sum())
    assert sum(errors.values()) == reads == samples.failed.sum()
    assert errors["price 503"] == (samples.kind == Kind.PRICE).sum()
    rows = {row.label: row for row in all_kinds(samples)}
    assert rows["price"].latency_ms_p50 is None
    assert rows["new order"].errors == 0


@pytest.mark.parametrize(
    ("order_reply", "reason"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}", "malformed"),
        (b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n", "422"),
    ],
)
async def test_a_request_for_an_order_that_failed_fails_by_name(
    order_reply: bytes, reason: str, tmp_path: Path
) -> None:
    async with served(exchange(order_reply)) as address:
        samples, finished, _ = await load(address, tmp_path)
    errors = error_counts(samples)
    assert errors[f"new order {reason}"] == (samples.kind == Kind.ORDER).sum()
    assert errors["cancel target_failed"] == (samples.kind == Kind.CANCEL).sum()
    assert errors["order status target_failed"] == (samples.kind == Kind.STATUS).sum()
    assert generator_health(samples, finished, 1.0).not_sent == 0


async def test_what_is_not_done_after_the_drain_is_a_timeout(tmp_path: Path) -> None:
    never = asyncio.Event()
    accept = exchange()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> bytes:
        if request.startswith(b"POST /orders "):
            await never.wait()
        return await accept(request, writer)

    async with served(answer) as address:
        samples, finished, _ = await load(address, tmp_path, drain_s=0.1)
        never.set()
    errors = error_counts(samples)
    assert errors["new order timeout"] == (samples.kind == Kind.ORDER).sum()
    assert errors["cancel target_failed"] == (samples.kind == Kind.CANCEL).sum()
    # Open loop: orders without an answer have not kept the others from being sent.
    assert not np.isnan(samples.sent_s[samples.kind == Kind.ORDER]).any()
    assert finished.connections > 64


async def test_what_waits_for_one_of_a_bounded_number_of_connections_is_late_by_the_service(
    tmp_path: Path,
) -> None:
    served_at_once, most = 0, 0
    accept = exchange()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> bytes:
        nonlocal served_at_once, most
        served_at_once += 1
        most = max(most, served_at_once)
        await asyncio.sleep(0.1)  # four at a time, so 40/s of 262
        served_at_once -= 1
        return await accept(request, writer)

    async with served(answer) as address:
        samples, finished, _ = await load(address, tmp_path, drain_s=0.2, connections=4)
    health = generator_health(samples, finished, 1.0)
    assert (finished.connections, most) == (4, 4)
    never = np.isnan(samples.sent_s) & (samples.waited == WAITED_FOR_CONNECTION)
    assert never.sum() > 0.5 * len(samples.kind)
    assert samples.failed[never].all()
    # It was never under way, so no CPU was used for it.
    assert finished.sent <= (~never).sum()
    # The generator did what it should: the trial counts, and the service has failed it.
    assert (health.not_sent, finished.connections_exhausted) == (0, False)
    waited = (samples.waited == WAITED_FOR_CONNECTION) & ~np.isnan(samples.sent_s)
    assert (samples.latency_ms[waited & ~samples.failed] >= 100.0).all()


async def test_fewer_connections_than_asked_for_are_the_limit_of_the_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.http_client.connection_limit", lambda: 4)
    async with served(exchange()) as address:
        _, as_asked, _ = await load(address, tmp_path, connections=4)
        _, fewer, generator = await load(address, tmp_path, connections=5)
    assert not as_asked.connections_exhausted
    assert (generator.pool.limit, fewer.connections_exhausted) == (4, True)


@pytest.mark.parametrize(("part", "reports"), [(0, True), (1, False)])
async def test_only_the_first_of_several_generators_reports_on_its_way(
    part: int, reports: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[Event] = []
    monkeypatch.setattr(loadgen, "emit", emitted.append)
    async with served(exchange()) as address:
        await load(address, tmp_path, part=part)
    assert bool(emitted) is reports


async def test_a_price_before_the_first_trade_is_no_error(tmp_path: Path) -> None:
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    async with served(exchange(other_reply=missing)) as address:
        samples, _, _ = await load(address, tmp_path)
    assert "price 404" not in error_counts(samples)
    assert "book 404" in error_counts(samples)


def test_the_tape_of_a_spec_is_that_of_the_traffic_model() -> None:
    tape = traffic.tape(traffic.PROFILES["average"], 1, 20.0, 1.0)
    requests = loadgen.Requests(
        Spec(
            host_header="test",
            address=Address("127.0.0.1", 1),
            profile="average",
            seed=1,
            scale=20.0,
            reads=True,
            warmup_s=0.0,
            duration_s=1.0,
            drain_s=1.0,
            broker_keys=["key"] * 20,
            first_document=7,
            core=None,
            output="",
        ),
        tape,
        range(len(tape)),
        1e9,
    )
    body = requests.data[0].partition(b"\r\n\r\n")[2]
    assert b'"document_number":"00000000007"' in body
    assert b"Content-Length: %d\r\n" % len(body) in requests.data[0]


@pytest.mark.parametrize("tries", [1, 3])
def test_seed_orders_that_are_too_much_at_once_are_sent_again(
    tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_client, "SEED_RETRY_S", 0.0)
    monkeypatch.setattr(exchange_client, "SEED_TRIES", tries)
    came: list[bytes] = []
    market = traffic.market(traffic.PROFILES["average"], 1, 1.0)
    seeds = traffic.seed_orders(market)
    brokers = [Broker(str(n), str(n), "key") for n in range(int(seeds.broker.max()) + 1)]

    async def answer(request: bytes, _: asyncio.StreamWriter) -> bytes:
        came.append(request)
        if came.count(request) == 1 and len(came) % 2:
            return REFUSED
        number = f"{len(came):036d}".encode()
        receipt = b'{"order_id":"%b","status":"open","remaining_quantity":1}' % number
        return b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(receipt), receipt)

    async def run() -> int:
        async with served(answer) as address, Session(Target(address, "x", "admin")) as session:
            return len(await exchange_client.seed(session, market, seeds, brokers, time.time()))

    if tries == 1:
        with pytest.raises(HarnessError, match="a seed order answered 503"):
            uvloop.run(run())
        return
    assert uvloop.run(run()) == len(set(came)) == len(seeds.broker)
    assert len(came) > len(seeds.broker)


def test_a_request_that_nobody_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_client, "PATIENCE_S", 0.1)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(listen, "127.0.0.1") as server:
            address = Address(*server.sockets[0].getsockname())
            async with Session(Target(address, "x", "admin")) as session:
                await session.health()

    with pytest.raises(HarnessError, match=r"GET /health was not answered within 0\.1 s"):
        uvloop.run(run())
