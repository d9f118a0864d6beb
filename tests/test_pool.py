"""More requests than database connections: some wait, the others are told so, nobody hangs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import asynccontextmanager, contextmanager

import pytest
from client import PATIENCE_S, Reply, Service, eventually, locked, order_body
from conftest import MEMORY_CASES, NewDatabase, StartService

from common.channel import Channel, Statement
from common.database import Database, conninfo, prepare_schema
from common.errors import Overloaded, Unavailable
from common.pool import PLACES, Pool

pytestmark = pytest.mark.reads_the_database
AT_ONCE = 120
WAIT_MS = "1000"
READS = ("/orders", "/balance", "/stocks/PETR4/book", "/stocks/PETR4/price")


def connections(service: Service, condition: str = "true") -> int:
    """How many connections the service has to its database, as the server counts them."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND application_name = 'exchange' AND {condition}"
    )
    return int(service.sql(query)[0][0])


def blocked(service: Service) -> int:
    """How many of them wait for a lock."""
    return connections(service, "wait_event_type = 'Lock'")


def beside_the_pool(service: Service) -> int:
    """How many of them are not the pool's: the one that flushes."""
    return 1 if service.case in MEMORY_CASES else 0


class Crowd:
    """Many requests at once that all need a connection of the pool."""

    def __init__(self, service: Service, threads: ThreadPoolExecutor) -> None:
        self._service = service
        self._threads = threads
        self._broker = service.register("Alice")
        for side in ("bid", "ask"):
            self._broker.place(side, 1, 1000)
        self._broker.client.settle()

    def send(self, count: int) -> list[Future[Reply]]:
        return [self._threads.submit(self._request, number) for number in range(count)]

    def _request(self, number: int) -> Reply:
        client, key = self._broker.client, self._broker.key
        if number % 2 and self._service.case not in MEMORY_CASES:
            return client.request("POST", "/orders", order_body(side="ask", price=2000), key)
        return client.request("GET", READS[number // 2 % len(READS)], key=key)

    @contextmanager
    def holding(self, connections: int) -> Iterator[list[Future[Reply]]]:
        """So many requests that as many connections are full, and all get no further."""
        path, key = "/stocks/PETR4/price", self._broker.key
        with locked(self._service, "trades", "ACCESS EXCLUSIVE"):
            held = [
                self._threads.submit(self._broker.client.request, "GET", path, key=key)
                for _ in range(connections * PLACES)
            ]
            eventually(lambda: blocked(self._service) >= connections)
            yield held


def is_refused(reply: Reply) -> bool:
    """Whether the reply says: not now, come back. Everything else must be a success."""
    if reply.status != 503:
        assert reply.status in (200, 201), reply
        return False
    assert set(reply.json) == {"code", "detail"}
    assert int(reply.headers["Retry-After"]) >= 1
    return True


def test_beyond_a_small_pool_some_wait_and_the_others_are_refused(
    start_service: StartService,
) -> None:
    service = start_service(EXCHANGE_POOL_SIZE="1", EXCHANGE_POOL_WAIT_MS=WAIT_MS)
    with ThreadPoolExecutor(AT_ONCE + PLACES) as threads:
        crowd = Crowd(service, threads)

        # The database answers again while many still wait.
        with crowd.holding(1) as held:
            crowded = crowd.send(AT_ONCE)
            assert is_refused(next(as_completed(crowded)).result())
        replies = [future.result() for future in held + crowded]
        assert not is_refused(replies[0])
        served = [reply for reply in replies[PLACES:] if not is_refused(reply)]
        assert 1 <= len(served) < AT_ONCE

        # It answers only when nobody waits any more.
        with crowd.holding(1) as held:
            assert all(is_refused(future.result()) for future in crowd.send(AT_ONCE))
        assert not is_refused(held[0].result())

        # Then it is as if nothing had been. What was refused has not happened.
        for _ in range(10):
            [future] = crowd.send(1)
            assert not is_refused(future.result())
        orders = 2 + sum(reply.status == 201 for reply in served)
        assert service.sql("SELECT count(*) FROM orders") == [(orders,)]


def test_the_pool_never_has_more_connections_than_its_size(start_service: StartService) -> None:
    service = start_service(EXCHANGE_POOL_SIZE="3", EXCHANGE_POOL_WAIT_MS=WAIT_MS)
    most = 3 + beside_the_pool(service)
    with ThreadPoolExecutor(AT_ONCE + PLACES) as threads:
        crowd = Crowd(service, threads)
        before = connections(service)
        # One connection is full; others are opened for those who wait, and wait for the lock too.
        with crowd.holding(1) as held:
            for future in crowd.send(AT_ONCE):
                is_refused(future.result())
                assert connections(service) <= most
            assert before < connections(service)
        assert not is_refused(held[0].result())
        assert connections(service) <= most


@asynccontextmanager
async def pool_of_one(new_database: NewDatabase) -> AsyncIterator[Pool]:
    url = new_database()
    prepare_schema(url)
    pool = Pool(lambda: Channel.open(conninfo(url)), size=1, wait_s=PATIENCE_S)
    async with pool.opened():
        yield pool


def test_who_would_wait_too_long_is_told_at_once_and_who_waits_is_served(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.pool.LINE_SHARE", 0.0)

    async def play() -> None:
        async with pool_of_one(new_database) as pool:
            channel = await pool.take(PLACES)
            first_in_line = asyncio.create_task(pool.take(1))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await pool.take(1)
            pool.give_back(channel, PLACES)
            assert await first_in_line is channel
            assert await pool.take(1) is channel

    asyncio.run(play())


def test_who_waits_behind_a_stuck_connection_is_served_when_it_answers(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though whoever asked it has given it back without waiting, and nobody else will."""
    monkeypatch.setattr("common.pool.STUCK_S", 1e-9)

    async def play() -> None:
        async with pool_of_one(new_database) as pool:
            channel = await pool.take(PLACES)
            answer = channel.finish((Statement("SELECT pg_sleep(0.3)", (), b""), {}))
            pool.give_back(channel, PLACES)
            assert not answer.done()
            assert await pool.take(PLACES) is channel

    asyncio.run(play())


@pytest.mark.any_case
def test_a_server_that_only_reads_just_now_is_unavailable(new_database: NewDatabase) -> None:
    url = new_database()
    prepare_schema(url)
    only_reads = Statement("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", (), b"")
    changes = Statement("UPDATE exchange_state SET flush_number = 1", (), b"")

    async def run() -> None:
        async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:
            await database.commit((only_reads, {}))
            with pytest.raises(Unavailable):
                await database.commit((changes, {}))

    asyncio.run(run())


@pytest.mark.matches_in_memory
def test_whose_key_is_unknown_waits_for_no_flush(start_service: StartService) -> None:
    service = start_service(EXCHANGE_POOL_WAIT_MS=WAIT_MS)
    broker = service.register("Alice")
    with locked(service, "orders", "ACCESS EXCLUSIVE"):
        order_id = broker.place("bid", 1, 1000)
        reply = service.client.request("GET", f"/orders/{order_id}", key="nobodys")
        assert reply.status == 401
