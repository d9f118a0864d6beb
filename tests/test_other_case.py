"""A database that changes its case: what one has left, another goes on with."""

import asyncio
import os
import signal
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from client import Service, eventually
from conftest import CASES, MEMORY_CASES, StartService, emptied, execute

from common.postgres import EmbeddedPostgres
from common.wal.disk import Directory

# Each of these tests starts several cases itself.
pytestmark = pytest.mark.any_case
RARELY_MS = "3000"
LOSE_ALL_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def start(start_service: StartService, case: str, url: str | None, **settings: object) -> Service:
    service = start_service(url, module=case, **settings)
    service.client.reads_behind = True  # casev2's are, and in the others nothing is waited for
    return service


@pytest.mark.parametrize(("first", "second"), [*combinations(CASES, 2)])
def test_what_rested_before_still_trades_first(
    first: str, second: str, start_service: StartService
) -> None:
    service = start(start_service, first, None)
    alice, bob, carol = (service.register(name) for name in ("Alice", "Bob", "Carol"))
    early = [alice.place("ask", 1, 100) for _ in range(3)]
    service.stop()
    service = start(start_service, second, service.database_url)
    alice, bob, carol = (service.again(each) for each in (alice, bob, carol))
    late = [bob.place("ask", 1, 100) for _ in range(2)]
    service.stop()
    service = start(start_service, first, service.database_url)
    alice, bob, carol = (service.again(each) for each in (alice, bob, carol))
    latest = alice.place("ask", 1, 100)
    for number, (owner, order_id) in enumerate(
        [*((alice, each) for each in early), *((bob, each) for each in late), (alice, latest)]
    ):
        assert owner.detail(order_id)["status"] == "open", number
        carol.place("bid", 1, 100)
        assert owner.detail(order_id)["status"] == "closed", number
    service.stop()
    sequences = service.sql("SELECT count(*), count(DISTINCT sequence) FROM orders")
    assert sequences == [(12, 12)]


@pytest.mark.parametrize("logs", ["casev2", "casev3"])
def test_no_case_goes_on_without_the_log_of_another(
    logs: str, start_service: StartService, new_place: Callable[[], Path]
) -> None:
    log = {"EXCHANGE_WAL_DIR": str(new_place() / "wal")}
    wal = log | {"EXCHANGE_DURABILITY": "wal", "EXCHANGE_FLUSH_MS": RARELY_MS}
    killed = start(start_service, logs, None, **wal)
    alice = killed.register("Alice")
    order_id = alice.place("ask", 1, 100)
    killed.kill()
    elsewhere = {"EXCHANGE_WAL_DIR": str(new_place() / "wal")}
    for case, place, said in [
        *((case, log, "holds 1 commands that the database lacks") for case in CASES),
        *((case, elsewhere, "is not the log of this database") for case in CASES),
    ]:
        refused = start_service(killed.database_url, module=case, ready=False, **place)
        assert refused.exit_code() == 1
        assert said in refused.text()
    wal["EXCHANGE_FLUSH_MS"] = "30"
    service = start(start_service, logs, killed.database_url, **wal)
    assert service.again(alice).detail(order_id)["status"] == "open"
    service.stop()
    service = start(start_service, "casev1", killed.database_url, **log)
    assert service.again(alice).detail(order_id)["status"] == "open"


@pytest.mark.parametrize("second", CASES)
@pytest.mark.parametrize("first", MEMORY_CASES)
def test_no_case_goes_on_without_a_log_that_is_still_written(
    first: str, second: str, start_service: StartService, new_place: Callable[[], Path]
) -> None:
    log = {"EXCHANGE_WAL_DIR": str(new_place() / "wal")}
    lost = start(start_service, first, None, EXCHANGE_DURABILITY="wal", **log)
    alice = lost.register("Alice")
    order_id = alice.place("ask", 1, 100)
    lost.client.settle()
    lost.send_signal(signal.SIGSTOP)
    try:
        lost.sql(LOSE_ALL_SESSIONS)
        refused = start_service(lost.database_url, module=second, ready=False, **log)
        assert refused.exit_code() == 1
        assert "is in use by another exchange: stop it" in refused.text()
    finally:
        lost.send_signal(signal.SIGCONT)
    assert lost.exit_code() == os.EX_IOERR
    assert lost.sql("SELECT log_id IS NULL FROM exchange_state") == [(False,)]
    service = start(start_service, first, lost.database_url, EXCHANGE_DURABILITY="wal", **log)
    assert service.again(alice).detail(order_id)["status"] == "open"


@pytest.mark.parametrize("second", MEMORY_CASES)
def test_numbers_of_casev1_are_behind_also_after_a_crash_of_the_database(
    second: str, start_service: StartService, mortal: EmbeddedPostgres
) -> None:
    """A sequence goes on some numbers further after a crash than it was, unless it was set."""
    execute(mortal.url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    service = start(start_service, "casev1", mortal.url)
    alice = service.register("Alice")
    alice.place("ask", 1, 100)
    service.stop()
    service = start(start_service, second, mortal.url)
    alice = service.again(alice)
    alice.place("ask", 1, 100)
    service.client.settle()
    os.kill(mortal.pid, signal.SIGKILL)
    mortal.stop()
    alice.place("ask", 1, 100)
    mortal.start()
    service.client.settle()
    service.stop()
    assert service.sql("SELECT sequence FROM orders ORDER BY id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("has_changes", [True, False])
@pytest.mark.parametrize("second", ["casev1", "casev3"])
@pytest.mark.parametrize("first", MEMORY_CASES)
def test_who_has_lost_its_database_for_a_while_in_which_another_used_it_ends(
    first: str, second: str, has_changes: bool, start_service: StartService
) -> None:
    lost = start(start_service, first, None)
    alice, bob = lost.register("Alice"), lost.register("Bob")
    order_id = alice.place("ask", 10, 100)
    lost.client.settle()
    if has_changes:
        alice.place("ask", 1, 200)
    lost.send_signal(signal.SIGSTOP)
    try:
        lost.sql(LOSE_ALL_SESSIONS)
        service = start(start_service, second, lost.database_url)
        service.again(bob).place("bid", 10, 100)
        assert service.again(alice).detail(order_id)["status"] == "closed"
        service.stop()
    finally:
        lost.send_signal(signal.SIGCONT)
    assert lost.exit_code() == os.EX_IOERR
    assert "another exchange has used this database meanwhile" in lost.text()
    assert lost.sql("SELECT sum(quantity) FROM trades") == [(10,)]


@pytest.mark.parametrize("first", MEMORY_CASES)
def test_who_finds_at_a_registration_that_another_has_the_database_refuses_it_and_ends(
    first: str, start_service: StartService
) -> None:
    # No flush finds it first.
    lost = start(start_service, first, None, EXCHANGE_FLUSH_MS=RARELY_MS)
    lost.sql("UPDATE exchange_state SET generation = generation + 1")
    lost.sql(LOSE_ALL_SESSIONS)
    reply = lost.client.request("POST", "/register", {"name": "Alice"}, lost.admin_key)
    assert (reply.status, reply.json["code"]) == (503, "unavailable")
    assert lost.exit_code() == os.EX_IOERR
    assert "another exchange has used this database meanwhile" in lost.text()
    assert lost.sql("SELECT 1 FROM brokers") == []


def test_processes_of_casev1_finish_a_reset_at_the_same_time(
    start_service: StartService, new_place: Callable[[], Path]
) -> None:
    log = {"EXCHANGE_WAL_DIR": str(new_place() / "wal")}
    killed = start(start_service, "casev3", None, EXCHANGE_DURABILITY="wal", **log)
    killed.register("Alice").place("bid", 5, 100)
    killed.kill()
    assert killed.database_url is not None
    directory = Directory(Path(log["EXCHANGE_WAL_DIR"]))
    for number in range(10, 300):  # so that it takes a while
        directory.create(number, 1)
    asyncio.run(emptied(killed.database_url, directory.announce()))
    service = start(start_service, "casev1", killed.database_url, EXCHANGE_PROCESSES="4", **log)
    eventually(lambda: service.text().count("opened in") == 4)
    assert (directory.numbers(), directory.announced()) == ([], None)
    assert service.sql("SELECT log_id FROM exchange_state") == [(None,)]
    broker = service.register("Bob")
    assert broker.detail(broker.place("bid", 5, 100))["status"] == "open"
