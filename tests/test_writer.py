"""The flush queue against a real PostgreSQL: what is much is written in pieces."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
import pytest
import uvloop
from conftest import NewDatabase
from msgspec import structs
from test_lifecycle import assert_tables_agree

from bench import traffic
from bench.replay import Command, Outcome, carry_out, commands
from common.channel import Channel, Question
from common.database import WRITER_LOCK, prepare_schema
from common.engine import Engine
from common.errors import Displaced, Unavailable
from common.model import Broker
from common.queries.accounts import INSERT_BROKER, broker_row
from common.queries.state import empty_everything
from common.writer import FLUSH_MAX, KEPT_UP_MAX, Flush, Writer

AVERAGE = traffic.PROFILES["average"]
PATIENCE_S = 30.0
SCALE, SECONDS = 10.0, 60.0


def recorded(writer: Writer) -> Engine:
    """A minute of a small market, all that it has changed waiting for the writer."""
    market = traffic.market(AVERAGE, 1, SCALE)
    tape = traffic.tape(AVERAGE, 1, SCALE, SECONDS, reads=False)
    engine = Engine()
    for command in commands(market, tape):
        record(writer, command, carry_out(engine, command))
    return engine


def record(writer: Writer, command: Command, outcome: Outcome) -> None:
    if outcome.ended:
        writer.record_closed(writer.sequence, outcome.ended, command.now_us)
    if command.cancels:
        writer.record_closed(writer.sequence, outcome.touched, command.now_us)
    else:
        order = command.order
        writer.record(order.sequence, order, outcome.trades, outcome.touched, ())


def opened(url: str) -> Writer:
    return Writer(url, flush_interval_s=0.03, pending_max=10**6, patience_s=PATIENCE_S)


def flush_all(writer: Writer, on_saved: Callable[[Flush], None]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            writer.opened(),
            writer.flushing(on_saved, PATIENCE_S),
        ):
            recorded(writer)

    uvloop.run(run())


def test_what_has_gathered_is_written_in_pieces_that_each_fit_together(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    prepare_schema(url)
    writer, sizes, reached, closed = opened(url), list[int](), list[int](), list[int]()
    with psycopg.connect(url, autocommit=True) as connection:

        def on_saved(flush: Flush) -> None:
            assert_tables_agree(lambda query: connection.execute(query).fetchall())
            sizes.append(len(flush.batch.changes))
            reached.append(writer.flushed_sequence)
            closed.extend(order.id for order in flush.closed)

        flush_all(writer, on_saved)
        [(trades,)] = connection.execute("SELECT count(*) FROM trades").fetchall()
    assert trades > 100, "there was something to be torn apart"
    assert len(sizes) >= 5
    assert max(sizes) < 1.1 * FLUSH_MAX, "an order with all its trades is not torn apart"
    assert writer.pending() == 0
    assert len(closed) == len(set(closed)), "an order closes once"
    assert reached == sorted(reached)
    assert reached[-1] == writer.sequence


def test_what_could_also_come_later_does_while_much_waits(new_database: NewDatabase) -> None:
    url = new_database()
    prepare_schema(url)
    writer = opened(url)
    assert writer.keeps_up()
    kept_up: list[bool] = []

    def saved(flush: Flush) -> None:
        kept_up.append(writer.keeps_up())

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), writer.opened():
            recorded(writer)
            assert writer.pending() >= KEPT_UP_MAX
            assert not writer.keeps_up()
            async with writer.flushing(saved, PATIENCE_S):
                pass

    uvloop.run(run())
    assert kept_up == sorted(kept_up)
    assert kept_up[-1]


@pytest.mark.parametrize(("pending_max", "taken"), [(1, 1), (10, 5), (10**6, KEPT_UP_MAX)])
def test_what_could_also_come_later_leaves_room_for_new_orders(
    pending_max: int, taken: int
) -> None:
    sample = next(recorded(opened("")).resting())
    writer = Writer("", flush_interval_s=0.03, pending_max=pending_max, patience_s=PATIENCE_S)
    while writer.keeps_up():
        order = structs.replace(sample, id=writer.pending())
        writer.record_closed(0, [order], order.created_at_us)
    assert writer.pending() == taken


def test_who_waits_for_an_order_waits_for_its_last_change(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.writer.LATE_MAX_S", PATIENCE_S)
    url = new_database()
    prepare_schema(url)
    writer = opened(url)

    async def run() -> UUID:
        async with asyncio.timeout(PATIENCE_S), writer.opened():
            engine = recorded(writer)
            first = next(engine.resting())
            engine.cancel(first, first.created_at_us)
            writer.record_closed(writer.sequence, [first], first.created_at_us)
            waiting = asyncio.create_task(writer.until_stored(first.id))
            async with writer.flushing(lambda _: None, PATIENCE_S):
                await waiting
                assert writer.flushed_sequence == writer.sequence
        return UUID(int=first.id)

    cancelled = uvloop.run(run())
    with psycopg.connect(url) as connection:
        state = connection.execute("SELECT close_reason FROM orders WHERE id = %s", [cancelled])
        assert state.fetchall() == [("cancelled",)]


def test_who_waits_for_casev1_to_end_numbers_its_orders_behind_the_last_of_it(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    prepare_schema(url)
    writer = opened(url)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            with psycopg.connect(url, autocommit=True) as casev1:
                casev1.execute(f"SELECT pg_advisory_lock_shared({WRITER_LOCK})".encode())
                entering = tasks.create_task(writer.opened().__aenter__())
                asked = (
                    b"SELECT 1 FROM pg_stat_activity"
                    b" WHERE query LIKE '%try_advisory_lock(%' AND pid <> pg_backend_pid()"
                )
                while not casev1.execute(asked).fetchall():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
                casev1.execute("SELECT setval('order_sequence', 50)")
            await entering

    uvloop.run(run())
    assert writer.sequence == 50


def test_nobody_is_kept_waiting_while_what_is_older_waits_too_long(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.writer.LATE_MAX_S", -1.0)
    url = new_database()
    prepare_schema(url)
    writer = opened(url)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), writer.opened():
            order_id = next(recorded(writer).resting()).id
            with pytest.raises(Unavailable):
                await writer.until_stored(order_id)
            async with writer.flushing(lambda _: None, PATIENCE_S):
                pass
            await writer.until_stored(order_id)

    uvloop.run(run())


def test_a_flush_whose_commit_came_through_but_not_its_reply_is_not_written_twice(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    prepare_schema(url)
    writer, finish, lost = opened(url), Channel.finish, list[int]()
    saved: list[int] = []

    async def without_reply(asked: Awaitable[object], statements: int) -> object:
        reply = await asked
        if statements > 2 and len(lost) < 2:  # a flush has several
            lost.append(1)
            raise psycopg.OperationalError("the reply is lost")
        return reply

    monkeypatch.setattr(
        Channel, "finish", lambda self, *asked: without_reply(finish(self, *asked), len(asked))
    )
    flush_all(writer, lambda flush: saved.append(flush.sequence))
    assert len(lost) == 2
    assert saved == sorted(set(saved))
    assert saved[-1] == writer.flushed_sequence == writer.sequence
    with psycopg.connect(url) as connection:
        assert_tables_agree(lambda query: connection.execute(query).fetchall())
        state = connection.execute("SELECT flushed_sequence, flush_number FROM exchange_state")
        assert state.fetchall() == [(writer.sequence, len(saved))]


def test_who_has_lost_the_database_to_another_exchange_says_so_and_tries_no_more(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    prepare_schema(url)
    writer, said = opened(url), list[str]()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), writer.opened():
            recorded(writer)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("UPDATE exchange_state SET flush_number = flush_number + 1")
                lose_session(connection)
            over = asyncio.Event()

            def failed(what: str, error: BaseException) -> None:
                said.append(f"{what}: {error}")
                over.set()

            async with writer.flushing(lambda _: None, PATIENCE_S, failed):
                await over.wait()

    with pytest.raises(Displaced):
        uvloop.run(run())
    assert said == [
        "nothing can be flushed any more: another exchange has used this database meanwhile"
    ]


def lose_session(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@pytest.mark.parametrize("is_displaced", [True, False])
def test_a_lost_session_is_noticed_where_nothing_is_to_be_written(
    new_database: NewDatabase, is_displaced: bool
) -> None:
    url = new_database()
    prepare_schema(url)
    writer, over = opened(url), asyncio.Event()

    async def run() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            writer.opened(),
            writer.flushing(lambda _: None, PATIENCE_S, lambda *_: over.set()),
        ):
            with psycopg.connect(url, autocommit=True) as connection:
                if is_displaced:
                    connection.execute("UPDATE exchange_state SET generation = generation + 1")
                lose_session(connection)
                if is_displaced:
                    await over.wait()
                else:
                    # A second one is kept out again.
                    lock = f"SELECT pg_try_advisory_lock({WRITER_LOCK})".encode()
                    while connection.execute(lock).fetchall() == [(True,)]:
                        connection.execute("SELECT pg_advisory_unlock_all()")
                        await asyncio.sleep(0.01)

    if is_displaced:
        with pytest.raises(Displaced):
            uvloop.run(run())
    else:
        uvloop.run(run())


@pytest.mark.parametrize("comes_through", [True, False])
def test_a_reset_whose_reply_is_lost_ends_the_exchange_if_it_came_through(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch, comes_through: bool
) -> None:
    url = new_database()
    prepare_schema(url)
    writer, finish, over = opened(url), Channel.finish, asyncio.Event()

    async def lost(channel: Channel, *asked: Question) -> None:
        if comes_through:
            await finish(channel, *asked)
        raise psycopg.OperationalError("the connection was lost")

    async def run() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            writer.opened(),
            writer.flushing(lambda _: None, PATIENCE_S, lambda *_: over.set()),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(Channel, "finish", lost)
                with pytest.raises(Unavailable):
                    await writer.emptied(lambda: empty_everything(None)).__aenter__()
            if comes_through:
                await over.wait()
            recorded(writer)

    if comes_through:
        with pytest.raises(Displaced):
            uvloop.run(run())
    else:
        uvloop.run(run())
        assert writer.pending() == 0


def test_whoever_empties_everything_does_not_wait_for_a_flush_for_ever(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    prepare_schema(url)
    writer = Writer(url, flush_interval_s=0.03, pending_max=10**6, patience_s=0.05)
    finish = Channel.finish

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), writer.opened():
            never, asked = asyncio.Event(), asyncio.Event()

            async def slowly(channel: Channel, *questions: Question) -> object:
                asked.set()
                await never.wait()
                return await finish(channel, *questions)

            with monkeypatch.context() as patch:
                patch.setattr(Channel, "finish", slowly)
                recorded(writer)
                async with writer.flushing(lambda _: None, PATIENCE_S):
                    await asked.wait()
                    with pytest.raises(Unavailable):
                        async with writer.emptied(lambda: empty_everything(None)):
                            pytest.fail("a flush is under way")
                    never.set()
        assert writer.pending() == 0

    uvloop.run(run())


def test_who_is_cancelled_when_its_turn_comes_leaves_the_turn_to_others() -> None:
    writer = opened("postgresql:///nobody-is-asked")

    async def run() -> None:
        async with writer._alone():
            waiting = asyncio.create_task(writer.commit())
            await asyncio.sleep(0)
        while not writer._idle.locked():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(PATIENCE_S / 2), writer._alone():
            pass

    uvloop.run(run())


def test_a_stop_that_has_stored_everything_ends_well_while_its_database_is_lost(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    prepare_schema(url)
    writer = opened(url)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), writer.opened():
            never, asked = asyncio.Event(), asyncio.Event()

            async def hang(_: str) -> None:
                asked.set()
                await never.wait()

            async with writer.flushing(lambda _: None, drain_s=0.05):
                monkeypatch.setattr(Channel, "open", hang)
                with psycopg.connect(url, autocommit=True) as connection:
                    lose_session(connection)
                await asked.wait()

    uvloop.run(run())


@contextmanager
def kept_from_emptying(url: str) -> Iterator[None]:
    """Whoever empties the tables in this time waits until it has passed."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE orders IN EXCLUSIVE MODE")
        yield


async def is_kept(url: str) -> None:
    """Wait until somebody is."""
    asked = b"SELECT 1 FROM pg_stat_activity WHERE query ~ '^TRUNCATE' AND wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute(asked).fetchall():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def empty(writer: Writer) -> None:
    async with writer.emptied(lambda: empty_everything(None)):
        pass


def test_to_empty_everything_may_take_longer_than_a_flush(new_database: NewDatabase) -> None:
    url = new_database()
    prepare_schema(url)
    writer = Writer(url, flush_interval_s=0.03, pending_max=10**6, patience_s=0.05)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S / 2), writer.opened():
            recorded(writer)
            with kept_from_emptying(url):
                emptying = asyncio.create_task(empty(writer))
                await is_kept(url)
                await asyncio.sleep(0.1)
                assert not emptying.done()
            await emptying
            assert writer.pending() == writer.sequence == 0

    uvloop.run(run())


def assert_displaced_after(writer: Writer, work: Callable[[], Awaitable[None]]) -> None:
    """The work comes through, and then the writer finds that the database is another exchange's."""
    over = asyncio.Event()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S / 2), writer.opened():
            await work()
            async with writer.flushing(lambda _: None, PATIENCE_S, lambda *_: over.set()):
                await over.wait()

    with pytest.raises(Displaced):
        uvloop.run(run())
    assert over.is_set(), "and not before"


def test_what_took_too_long_to_empty_is_refused_and_ends_the_exchange_if_it_is_empty_in_the_end(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.writer.EMPTYING_MAX_S", 0.05)
    url = new_database()
    prepare_schema(url)
    writer = opened(url)

    async def emptied_too_late() -> None:
        recorded(writer)
        with kept_from_emptying(url):
            emptying = asyncio.create_task(empty(writer))
            await is_kept(url)
            with pytest.raises(Unavailable):
                await emptying
        assert writer.pending()

    assert_displaced_after(writer, emptied_too_late)


def test_a_broker_is_not_registered_with_a_database_that_is_another_exchanges_by_now(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    prepare_schema(url)
    writer, alice = opened(url), Broker(1, "Alice", None, bytes(32), 0)

    async def registered_too_late() -> None:
        channel = writer._channel
        assert channel
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE exchange_state SET generation = generation + 1")
            lose_session(connection)
            while not channel.closed:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            with pytest.raises(Unavailable) as refused:
                await writer.commit((INSERT_BROKER, broker_row(alice)))
            assert isinstance(refused.value.__cause__, Displaced)
            assert connection.execute("SELECT 1 FROM brokers").fetchall() == []

    assert_displaced_after(writer, registered_too_late)


def test_who_waits_for_an_order_is_not_kept_when_everything_is_emptied(
    new_database: NewDatabase,
) -> None:
    url = new_database()
    prepare_schema(url)
    writer = opened(url)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S / 2), writer.opened():
            order_id = next(recorded(writer).resting()).id
            waiting = asyncio.create_task(writer.until_stored(order_id))
            await asyncio.sleep(0)
            async with writer.emptied(lambda: empty_everything(None)):
                await waiting

    uvloop.run(run())
