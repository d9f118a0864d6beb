"""EXCHANGE_DURABILITY=wal: whatever was acknowledged survives kill -9, flushed or not."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from client import Broker, Reply, Service, eventually, in_seconds, order_body, send
from conftest import StartService, emptied, execute
from faulty import ANSWERED, BROKEN, BUG, CROWDED, FULL, SLOW
from test_lifecycle import (
    Acknowledged,
    assert_consistent,
    assert_kept,
    load,
    populate,
    snapshot,
)

from common.postgres import EmbeddedPostgres
from common.wal.disk import Directory
from common.wal.format import BATCH_HEAD_BYTES, HEADER_BYTES, Submission
from common.wal.recovery import Scan

pytestmark = pytest.mark.matches_in_memory
NEVER_MS = "10000"  # no flush comes before the kill, so the log alone must do
RARELY = {"EXCHANGE_FLUSH_MS": "500"}  # a kill finds orders that are only in the log
FLUSHING = {"EXCHANGE_FLUSH_MS": "30"}

Logged = Callable[..., Service]


@pytest.fixture
def wal_dir(new_place: Callable[[], Path]) -> Path:
    return new_place() / "wal"


@pytest.fixture
def logged(start_service: StartService, wal_dir: Path) -> Logged:
    """Starts a service that keeps a log, on the database and the log that are given or new."""

    def start(database_url: str | None = None, **settings: object) -> Service:
        options: dict[str, object] = {
            "EXCHANGE_DURABILITY": "wal",
            "EXCHANGE_WAL_DIR": str(wal_dir),
            "EXCHANGE_FLUSH_MS": NEVER_MS,
        }
        return start_service(database_url, **(options | settings))

    return start


def accepted(service: Service, commands: int) -> Callable[[], bool]:
    """Whether so many commands have been accepted."""
    return lambda: service.health()["sequence"] >= commands


def again(service: Service, brokers: list[Broker]) -> list[Broker]:
    return [service.again(broker) for broker in brokers]


def refused(service: Service) -> str:
    """The line with which a service that does not start has ended."""
    assert service.exit_code() == 1, service.text()
    [line] = [line for line in service.text().splitlines() if line.startswith("error: ")]
    assert "Traceback" not in service.text()
    return line


def results(clients: list[Future[Acknowledged]]) -> list[Acknowledged]:
    return [client.result() for client in clients]


def test_kills_under_load_lose_nothing_that_was_acknowledged(logged: Logged) -> None:
    # Not NEVER_MS: casev2 answers the cancel of a filled order after that order's flush.
    service = logged(**RARELY)
    brokers = [service.register(f"broker {number}") for number in range(4)]
    known: list[Acknowledged] = []
    for kill in range(3):
        with load(brokers) as clients:
            eventually(accepted(service, 150 * (kill + 1)))
            service.kill()
            known += results(clients)
        service = logged(service.database_url, **RARELY)
        brokers = again(service, brokers)
    service.stop()
    assert_kept(service, known)
    assert_consistent(service)


@pytest.mark.parametrize("disk", ["quick", "slow"])
def test_a_stop_under_load_answers_all_that_was_accepted(
    logged: Logged, case: str, disk: str
) -> None:
    slow = {"module": "tests.slow_disk", "TEST_CASE": case} if disk == "slow" else {}
    service = logged(**RARELY, **slow)
    brokers = [service.register(f"broker {number}") for number in range(4)]
    with load(brokers) as clients:
        eventually(accepted(service, 150))
        service.stop()
        known = results(clients)
    assert_kept(service, known)
    [(stored,)] = service.sql("SELECT count(*) FROM orders")
    assert stored == sum(len(client.receipts) for client in known)


def test_a_stop_that_has_answered_everybody_accepts_nothing_more(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    service = logged(module="tests.faulty", TEST_CASE=case)
    broker = service.register("Alice")
    (wal_dir / SLOW).touch()
    with closing(service.client.connect()) as connection:
        assert send(connection, "GET", "/balance", key=broker.key).status == 200
        service.send_signal(signal.SIGTERM)
        eventually((wal_dir / ANSWERED).exists)
        reply = send(connection, "POST", "/orders", order_body(), broker.key)
        (wal_dir / SLOW).unlink()
    assert (reply.status, reply.headers["Connection"]) == (503, "close")
    assert int(reply.headers["Retry-After"]) >= 1
    service.expect_good_end()
    assert service.sql("SELECT count(*) FROM orders") == [(0,)]


def test_killed_while_its_database_was_gone_a_service_comes_back_with_everything(
    mortal: EmbeddedPostgres, logged: Logged
) -> None:
    execute(mortal.url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    service = logged(mortal.url, **FLUSHING)
    brokers = [service.register(f"broker {number}") for number in range(4)]
    with load(brokers) as clients:
        eventually(accepted(service, 100))
        os.kill(mortal.pid, signal.SIGKILL)
        mortal.stop()
        eventually(accepted(service, service.health()["sequence"] + 100))
        unflushed = service.health()["flush_pending"]
        service.kill()
        known = results(clients)
    assert unflushed > 50
    mortal.start()
    service = logged(mortal.url, **FLUSHING)
    service.stop()
    assert_kept(service, known)
    assert_consistent(service)


def test_after_a_kill_everything_reads_as_before(logged: Logged) -> None:
    service = logged(**FLUSHING)
    brokers = populate(service)
    eventually(lambda: service.health()["flush_pending"] == 0)
    before = snapshot(brokers)
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    assert snapshot(again(service, brokers)) == before


def test_a_kill_before_the_first_flush_reads_as_before_once_it_is_flushed(logged: Logged) -> None:
    service = logged()
    brokers = populate(service)
    service.kill()
    assert service.sql("SELECT count(*) FROM orders") == [(0,)]
    service = logged(service.database_url, **FLUSHING)
    assert "commands of the log, up to sequence" in service.text()
    eventually(lambda: service.health()["flush_pending"] == 0)
    after = snapshot(again(service, brokers))
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    assert snapshot(again(service, brokers)) == after
    assert_consistent(service)


def test_what_rested_before_a_kill_trades_first_after_it(logged: Logged) -> None:
    service = logged()
    alice, bob = service.register("Alice"), service.register("Bob")
    first = alice.place("ask", 5, 100)
    alice.cancel(alice.place("ask", 5, 100))
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    alice, bob = again(service, [alice, bob])
    alice.place("ask", 5, 100)
    bob.place("bid", 5, 100)
    assert alice.detail(first)["close_reason"] == "filled"


def test_an_order_that_ended_while_nothing_ran_has_expired(logged: Logged) -> None:
    service = logged()
    broker = service.register("Alice")
    order_id = broker.place("bid", 5, 100, valid_until=in_seconds(1))
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    [broker] = again(service, [broker])
    eventually(lambda: broker.detail(order_id)["close_reason"] == "expired")


def test_a_log_that_the_database_has_is_deleted(logged: Logged, wal_dir: Path) -> None:
    service = logged(**FLUSHING)
    populate(service)
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    populate(service)
    eventually(lambda: len(Directory(wal_dir).numbers()) == 2)
    assert service.health()["wal_segments"] == 1


def test_health_says_what_is_promised_and_what_the_log_does(logged: Logged) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    health = service.health()
    assert health["durability"] == "wal"
    assert health["wal_records"] == health["wal_syncs"] == 1
    assert health["wal_sync_ms_max"] > 0
    assert health["wal_full"] == 0


def test_emptied_is_emptied_also_after_a_kill(logged: Logged) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    service.reset()
    bob = service.register("Bob")
    order_id = bob.place("ask", 7, 100)
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    [bob] = again(service, [bob])
    assert bob.book("PETR4").json["bids"] == []
    assert bob.detail(order_id)["status"] == "open"


# ---- what ends the process ----


@pytest.mark.parametrize(
    ("fault", "said"),
    [(BROKEN, "the log cannot be written"), (BUG, "nothing can be flushed any more")],
)
def test_who_cannot_keep_a_promise_any_longer_ends_and_has_kept_all_until_then(
    logged: Logged, case: str, wal_dir: Path, fault: str, said: str
) -> None:
    service = logged(module="tests.faulty", TEST_CASE=case, **FLUSHING)
    broker = service.register("Alice")
    ids = [broker.place("ask", 5, 100) for _ in range(3)]
    service.client.settle()
    (wal_dir / fault).touch()

    def ends() -> bool:
        try:
            reply = broker.order(side="ask", price=200)
        except (OSError, HTTPException):
            return True
        ids.append(reply.json["order_id"])
        return False

    eventually(ends)
    assert service.exit_code() == os.EX_IOERR
    assert said in service.text()
    (wal_dir / fault).unlink()
    service = logged(service.database_url, **FLUSHING)
    [broker] = again(service, [broker])
    kept = [order["id"] for order in reversed(broker.listed())]
    # One more may have reached the log or the database without a reply.
    assert kept[: len(ids)] == ids
    assert len(kept) <= len(ids) + 1
    assert_consistent(service)


# ---- what others see ----


def logged_orders(wal_dir: Path) -> int:
    """How many orders are in the log on the disk."""
    records = Scan(Directory(wal_dir)).records()
    return sum(isinstance(record, Submission) for record in records)


def test_nothing_is_seen_that_a_crash_could_undo(logged: Logged, case: str, wal_dir: Path) -> None:
    slow = {"module": "tests.slow_disk", "TEST_CASE": case, "TEST_DISK_S": "0.5"}
    service = logged(**FLUSHING, **slow)
    alice, bob, carol = (service.register(name) for name in ("Alice", "Bob", "Carol"))
    ask = bob.place("ask", 5, 100)
    asked_by = {
        "/stocks/PETR4/book": carol,
        "/stocks/PETR4/price": carol,
        f"/orders/{ask}": bob,
        "/orders": bob,
        "/balance": bob,
    }

    def look(path: str) -> object:
        return service.client.request("GET", path, key=asked_by[path].key).json

    def logged_when_seen(path: str) -> int:
        eventually(lambda: look(path) != before[path])
        return logged_orders(wal_dir)

    alice.client.settle()
    before = {path: look(path) for path in asked_by}
    assert logged_orders(wal_dir) == 1
    with ThreadPoolExecutor(len(asked_by) + 1) as threads:
        taking = threads.submit(alice.place, "bid", 5, 100)
        seen = {path: threads.submit(logged_when_seen, path) for path in asked_by}
        assert {path: each.result() for path, each in seen.items()} == dict.fromkeys(seen, 2)
        taking.result()
    assert look("/balance") == {**before["/balance"], "balance": 500}  # type: ignore[dict-item]


# ---- a disk without room ----


def test_killed_while_its_disk_is_full_a_service_comes_back_and_makes_room(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    faulty = {"module": "tests.faulty", "TEST_CASE": case}
    service = logged(**faulty)  # nothing is flushed, so that all is in the log
    broker = service.register("Alice")
    (wal_dir / FULL).touch()
    ids = []

    def refused_order() -> bool:
        reply = broker.order(side="ask", price=200)
        if reply.status == 201:
            ids.append(reply.json["order_id"])
        return reply.status == 503

    eventually(refused_order)
    service.kill()
    service = logged(service.database_url, ready=False, **faulty, **FLUSHING)

    def health() -> int | None:
        with suppress(OSError, HTTPException):
            return service.client.request("GET", "/health").status
        return None

    assert eventually(health) == 503  # it is there, and says that it can take nothing
    [broker] = again(service, [broker])
    assert broker.order(side="ask", price=200).status == 503
    assert [order["id"] for order in reversed(broker.listed())] == ids
    (wal_dir / FULL).unlink()
    eventually(lambda: broker.order(side="ask", price=200).status == 201)


def test_on_a_full_disk_commands_are_refused_and_reads_go_on(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    service = logged(module="tests.faulty", TEST_CASE=case, **FLUSHING)
    broker = service.register("Alice")
    ids = [broker.place("ask", 5, 100)]
    (wal_dir / FULL).touch()

    def refused_order() -> Reply | None:
        reply = broker.order(side="ask", price=200)
        if reply.status != 201:
            return reply
        ids.append(reply.json["order_id"])
        return None

    reply = eventually(refused_order)
    assert reply is not None
    assert (reply.status, reply.json["code"]) == (503, "unavailable")
    assert int(reply.headers["Retry-After"]) >= 1
    assert broker.cancel(ids[0]).status == 503
    health = service.client.request("GET", "/health")
    assert (health.status, health.json["wal_full"]) == (503, 1)
    assert "log" in health.json["reason"]
    assert broker.detail(ids[0])["status"] == "open"
    assert broker.book().json["asks"][0]["price"] == 100
    assert broker.balance().status == 200
    assert [order["id"] for order in reversed(broker.listed())] == ids

    (wal_dir / FULL).unlink()
    eventually(lambda: service.client.request("GET", "/health").status == 200)
    ids.append(broker.place("bid", 5, 50))
    assert broker.cancel(ids[0]).status == 204
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    [broker] = again(service, [broker])
    assert [order["id"] for order in reversed(broker.listed())] == ids
    assert broker.detail(ids[0])["close_reason"] == "cancelled"


def test_an_order_whose_record_finds_no_room_is_answered_once_there_is_some(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    service = logged(module="tests.faulty", TEST_CASE=case)
    broker = service.register("Alice")
    ids = [broker.place("bid", 5, 100)]
    (wal_dir / CROWDED).touch()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(broker.place, "bid", 5, 100)
        eventually(lambda: service.client.request("GET", "/health").status == 503)
        refused_at_once = [
            broker.order(),
            broker.cancel(ids[0]),
            service.client.request("GET", "/orders", key=broker.key),
        ]
        for reply in refused_at_once:
            assert (reply.status, reply.json["code"]) == (503, "unavailable")
            assert int(reply.headers["Retry-After"]) >= 1
        assert not waiting.done()
        (wal_dir / CROWDED).unlink()
        ids.append(waiting.result())
    assert service.health()["status"] == "ok"
    ids.append(broker.place("bid", 5, 100))
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    [broker] = again(service, [broker])
    assert [order["id"] for order in reversed(broker.listed())] == ids


def test_a_stop_does_not_wait_for_room_in_a_log_that_is_not_needed_after_it(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    service = logged(module="tests.faulty", TEST_CASE=case)
    broker = service.register("Alice")
    (wal_dir / CROWDED).touch()
    with ThreadPoolExecutor(1) as threads:
        unheard = threads.submit(broker.order)
        eventually(lambda: service.client.request("GET", "/health").status == 503)
        service.stop()
        with pytest.raises(ConnectionError):  # as after a crash
            unheard.result()
    assert service.sql("SELECT count(*) FROM orders") == [(1,)]
    assert service.sql("SELECT log_id FROM exchange_state") == [(None,)]


def test_a_reset_on_a_full_disk_is_answered_and_holds_nobody_up(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    service = logged(module="tests.faulty", TEST_CASE=case, **FLUSHING)
    broker = service.register("Alice")
    (wal_dir / FULL).touch()
    eventually(lambda: broker.order().status == 503)
    service.reset()
    broker = service.register("Bob")
    assert broker.order().status == 503
    assert broker.listed() == []
    (wal_dir / FULL).unlink()
    eventually(lambda: broker.order().status == 201)


def test_a_first_log_without_room_for_its_name_is_refused_with_what_to_do(
    logged: Logged, case: str, wal_dir: Path
) -> None:
    wal_dir.mkdir()
    (wal_dir / CROWDED).touch()
    line = refused(logged(ready=False, module="tests.faulty", TEST_CASE=case))
    assert line.startswith(f"error: EXCHANGE_WAL_DIR: the log in {wal_dir} cannot be used")
    assert line.endswith("No space left on device: make room on its disk")


# ---- a start that would lose something ----


def test_a_damaged_log_is_refused_and_left_alone(logged: Logged, wal_dir: Path) -> None:
    service = logged()
    broker = service.register("Alice")
    for _ in range(3):
        broker.place("bid", 5, 100)
    service.kill()
    directory = Directory(wal_dir)
    path = directory.path_of(directory.numbers()[0])
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + BATCH_HEAD_BYTES + 3] ^= 1
    path.write_bytes(data)
    line = refused(logged(service.database_url, ready=False))
    assert "EXCHANGE_WAL_DIR" in line
    assert "damaged, and valid again from byte" in line
    assert path.read_bytes() == data


def test_a_log_of_another_database_is_refused(logged: Logged) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    service.kill()
    assert "another database" in refused(logged(ready=False))


def test_without_the_log_a_start_that_would_lose_orders_is_refused(
    logged: Logged, start_service: StartService, wal_dir: Path
) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    service.kill()
    flush = {"EXCHANGE_WAL_DIR": str(wal_dir)}
    line = refused(start_service(service.database_url, ready=False, **flush))
    assert "holds 1 commands that the database lacks" in line
    logged(service.database_url).stop()
    start_service(service.database_url, **flush)


@pytest.mark.parametrize("durability", ["flush", "wal"])
def test_a_start_that_looks_for_the_log_in_another_place_is_refused(
    durability: str, logged: Logged, new_place: Callable[[], Path]
) -> None:
    service = logged()
    broker = service.register("Alice")
    order_id = broker.place("bid", 5, 100)
    service.kill()
    other: dict[str, object] = {"EXCHANGE_WAL_DIR": str(new_place())}
    for _ in range(2):  # the first has made a log there
        line = refused(
            logged(service.database_url, ready=False, EXCHANGE_DURABILITY=durability, **other)
        )
        assert line.startswith("error: EXCHANGE_WAL_DIR: ")
        assert "is not the log of this database" in line
    service = logged(service.database_url, **FLUSHING)
    assert service.again(broker).detail(order_id)["status"] == "open"
    service.stop()
    # All is stored now, so the log may begin anew anywhere.
    service = logged(service.database_url, **other)
    assert service.again(broker).detail(order_id)["status"] == "open"


def test_a_log_that_is_lost_is_gone_on_without_only_where_that_is_said(
    logged: Logged, wal_dir: Path, new_place: Callable[[], Path]
) -> None:
    service = logged()
    kept = service.register("Alice").place("bid", 5, 100)
    service.kill()
    service = logged(service.database_url)  # and what only the log held is in the database now
    service.stop()
    service = logged(service.database_url)
    broker = service.register("Bob")
    lost = {broker.place("bid", 5, 100) for _ in range(2)}
    service.kill()
    named = (wal_dir / "id").read_text().strip()
    other: dict[str, object] = {"EXCHANGE_WAL_DIR": str(new_place()), **FLUSHING}
    line = refused(logged(service.database_url, ready=False, **other))
    assert line.endswith(f"EXCHANGE_WAL_LOST={named}")
    other["EXCHANGE_WAL_LOST"] = named
    service = logged(service.database_url, **other)
    service.register("Carol").place("bid", 5, 100)
    service.stop()
    stored = {str(order_id) for (order_id,) in service.sql("SELECT id FROM orders")}
    assert kept in stored
    assert not lost & stored
    # The log that was lost comes back, and goes on where the database has gone another way.
    assert "another history" in refused(logged(service.database_url, ready=False))
    flush = {"EXCHANGE_DURABILITY": "flush"}
    assert "another history" in refused(logged(service.database_url, ready=False, **flush))


def test_a_log_with_half_a_name_is_not_taken_for_any(logged: Logged, wal_dir: Path) -> None:
    service = logged()
    service.kill()
    (wal_dir / "id").write_text("half a na")
    assert "its file id holds none" in refused(logged(service.database_url, ready=False))


def test_a_log_is_empty_after_a_stop(logged: Logged, wal_dir: Path) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    service.stop()
    assert list(Scan(Directory(wal_dir)).records()) == []
    # What was prepared for the next segment stays, since the disk may be full at the next start.
    assert len(Directory(wal_dir).numbers()) == 1
    assert service.sql("SELECT log_id FROM exchange_state") == [(None,)]


def test_a_copy_of_a_log_is_not_taken_for_it(
    logged: Logged, wal_dir: Path, new_place: Callable[[], Path]
) -> None:
    service = logged()
    service.stop()
    copy = new_place() / "copy"
    shutil.copytree(wal_dir, copy)
    service = logged(service.database_url)
    service.register("Alice").place("bid", 5, 100)
    service.kill()
    other = {"EXCHANGE_WAL_DIR": str(copy)}
    line = refused(logged(service.database_url, ready=False, **other))
    assert "is not the log of this database" in line


def test_a_log_that_is_there_is_not_lost(logged: Logged, wal_dir: Path) -> None:
    service = logged()
    broker = service.register("Alice")
    order_id = broker.place("bid", 5, 100)
    service.kill()
    lost = {"EXCHANGE_WAL_LOST": (wal_dir / "id").read_text().strip()}
    for durability in ("flush", "wal"):
        line = refused(
            logged(service.database_url, ready=False, EXCHANGE_DURABILITY=durability, **lost)
        )
        assert "that log is here" in line
    service = logged(service.database_url, **FLUSHING)
    assert service.again(broker).detail(order_id)["status"] == "open"


def test_a_start_that_comes_to_nothing_needs_no_log(
    logged: Logged, start_service: StartService, new_place: Callable[[], Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = logged(ready=False, EXCHANGE_PORT=str(taken.getsockname()[1]))
        assert "is in use" in refused(service)
    assert service.sql("SELECT log_id FROM exchange_state") == [(None,)]


@pytest.mark.parametrize("durability", ["wal", "flush"])
@pytest.mark.parametrize("removed", [0, 1])
def test_a_reset_that_was_killed_before_the_log_was_empty_is_finished_at_a_start(
    logged: Logged, wal_dir: Path, durability: str, removed: int
) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    service.kill()
    assert service.database_url is not None
    log = Directory(wal_dir)
    asyncio.run(emptied(service.database_url, log.announce()))
    for number in log.numbers()[:removed]:
        log.remove(number)
    options = {"EXCHANGE_DURABILITY": durability} | FLUSHING
    service = logged(service.database_url, **options)
    assert service.health()["brokers"] == 0
    broker = service.register("Bob")
    order_id = broker.place("bid", 5, 100)
    service.stop()
    service = logged(service.database_url, **FLUSHING)
    assert service.again(broker).detail(order_id)["status"] == "open"


def test_a_log_is_not_needed_after_a_reset_and_a_stop(
    logged: Logged, wal_dir: Path, new_place: Callable[[], Path]
) -> None:
    service = logged(**FLUSHING)
    broker = service.register("Alice")
    for _ in range(5):
        broker.place("bid", 5, 100)
    service.kill()
    service = logged(service.database_url, **FLUSHING)  # its log ends at the fifth command
    service.reset()
    broker = service.register("Bob")
    order_id = broker.place("bid", 5, 100)
    service.stop()
    assert service.sql("SELECT log_id FROM exchange_state") == [(None,)]
    other = {"EXCHANGE_WAL_DIR": str(new_place()), **FLUSHING}
    service = logged(service.database_url, **other)
    assert service.again(broker).detail(order_id)["status"] == "open"


def test_resets_at_the_same_time_leave_the_log_that_the_database_needs(
    logged: Logged, wal_dir: Path
) -> None:
    service = logged(**FLUSHING)
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(service.reset) for _ in range(4)]:
                done.result()
        named = (wal_dir / "id").read_text().strip()
        assert service.sql("SELECT log_id::text FROM exchange_state") == [(named,)]
    broker = service.register("Alice")
    order_id = broker.place("bid", 5, 100)
    service.kill()
    service = logged(service.database_url, **FLUSHING)
    assert service.again(broker).detail(order_id)["status"] == "open"


def test_a_reset_that_was_killed_before_its_commit_is_none(logged: Logged, wal_dir: Path) -> None:
    service = logged()
    broker = service.register("Alice")
    order_id = broker.place("bid", 5, 100)
    service.kill()
    Directory(wal_dir).announce()
    service = logged(service.database_url, **FLUSHING)
    assert service.again(broker).detail(order_id)["status"] == "open"


def test_orders_are_not_done_again_where_their_broker_is_gone(logged: Logged) -> None:
    service = logged()
    service.register("Alice").place("bid", 5, 100)
    service.kill()
    service.sql("TRUNCATE brokers")
    line = refused(logged(service.database_url, ready=False))
    assert "command 1 of the log names an order or a broker that is not there" in line


def test_two_exchanges_on_one_log_are_refused(logged: Logged) -> None:
    logged()
    assert "in use by another exchange" in refused(logged(ready=False))
