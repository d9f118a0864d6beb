"""References count what requests leave behind; the garbage collector has nothing to find.

That is why it may look at young objects only (``common/garbage.py``).
"""

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from client import HOST, PATIENCE_S, Broker, Service, order_body
from conftest import StartService

# So many that it does not matter what a stop leaves of the ten connections of the last round, 35
# objects each.
FEW, MANY = 20, 380
ROOT = Path(__file__).resolve().parents[1]


def left_by(service: Service, rounds: int) -> int:
    """How many objects nobody can reach, when the service has ended after so many rounds."""
    broker, other = service.register("Alice"), service.register("Bob")
    for number in range(rounds):
        good_requests(broker, other, 1000 + number)
        bad_requests(broker)
        half_closed_requests(broker)
    service.stop()
    found = re.search(r"garbage: (\d+) objects", service.text())
    assert found, service.text()
    return int(found[1])


def good_requests(broker: Broker, other: Broker, price: int) -> None:
    resting = broker.place("bid", 10, price)
    other.place("ask", 5, price)
    assert broker.cancel(resting).status == 204
    for reply in (broker.show(resting), broker.orders(), broker.book(), broker.balance()):
        assert reply.status == 200


def bad_requests(broker: Broker) -> None:
    client = broker.client
    assert client.request("POST", "/orders", b"{", broker.key).status == 400
    assert broker.order(quantity=0).status == 422
    assert client.request("GET", "/balance", key="unknown").status == 401
    assert client.request("GET", "/nothing").status == 404
    expecting = {"Expect": "100-continue"}
    placed = client.request("POST", "/orders", order_body(), broker.key, headers=expecting)
    assert placed.status == 201
    said = client.raw(b"no request at all\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400"), said
    with socket.create_connection((HOST, client.port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    for asks in (b"Content-Length: 50", b"Transfer-Encoding: chunked"):
        head = b"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b\r\n\r\n"
        with socket.create_connection((HOST, client.port), timeout=PATIENCE_S) as connection:
            connection.sendall(head % (broker.key.encode(), asks) + b"5\r\n{")


def half_closed_requests(broker: Broker) -> None:
    whole = b"GET /balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"
    whole %= broker.key.encode()
    begun = whole.replace(b"GET /balance", b"POST /orders").replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n{")
    for asks, replies in (
        (b"", 0),
        (whole, 1),
        (3 * whole, 3),
        (2 * whole.replace(b"GET", b"DELETE"), 2),
        (whole + whole[:-1], 1),
        (whole + begun % b"Content-Length: 9", 1),
        (whole + begun % b"Content-Length: 9\r\nExpect: 100-continue", 1),
    ):
        with socket.create_connection((HOST, broker.client.port), timeout=PATIENCE_S) as connection:
            connection.sendall(asks)
            connection.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: connection.recv(65536), b""))
        assert len(re.findall(rb"HTTP/1\.1 [2-5]", said)) == replies, said


def assert_references_count(start: Callable[[], Service]) -> None:
    few, many = (left_by(start(), rounds) for rounds in (FEW, MANY))
    assert many - few < MANY - FEW


def test_the_more_requests_the_more_garbage_is_not_so(
    start_service: StartService, case: str
) -> None:
    assert_references_count(lambda: start_service(module="tests.uncollected", TEST_CASE=case))


@pytest.mark.matches_in_memory
def test_nor_is_it_where_replies_wait_for_a_log(
    start_service: StartService, new_place: Callable[[], Path], case: str
) -> None:
    assert_references_count(
        lambda: start_service(
            module="tests.uncollected",
            TEST_CASE=case,
            EXCHANGE_DURABILITY="wal",
            EXCHANGE_WAL_DIR=str(new_place() / "wal"),
        )
    )


def test_what_the_collector_has_looked_at_it_leaves_alone() -> None:
    program = """
import gc
from common.garbage import YOUNG_OBJECTS, Collector
Collector().spare()
before, lists = gc.get_freeze_count(), [[] for _ in range(20 * YOUNG_OBJECTS)]
print(gc.get_freeze_count() - before, len(gc.get_objects()), YOUNG_OBJECTS)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    frozen, looked_at_again, young = map(int, said.stdout.split())
    assert frozen >= 18 * young
    assert looked_at_again <= 2 * young


def test_what_should_be_gone_is_found_once_it_is_much() -> None:
    program = """
import asyncio, gc
from common.garbage import MANY_MORE, Collector
collector = Collector()
collector.spare()
before = gc.get_freeze_count()
def cycles(count):
    for _ in range(count):
        one = []
        one.append(one)
cycles(before + 2 * MANY_MORE)
kept = [[] for _ in range(1000)]
found = []
for _ in range(2):
    asyncio.run(collector.look_again())
    found.append(gc.get_freeze_count() - before)
gc.disable()
gc.unfreeze()
gc.freeze()
print(*found, len(kept))
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    after_first, after_second, kept = map(int, said.stdout.split())
    assert after_first == pytest.approx(after_second, abs=5 * kept)
    assert after_first < 10 * kept


def test_what_stays_is_not_counted_before_it_can_be_much_more() -> None:
    """Counting takes the longer, the more there is."""
    program = """
import asyncio, gc
from common.garbage import MANY_MORE, Collector
kept = [[] for _ in range(5 * MANY_MORE)]
collector = Collector()
collector.spare()
counted, count = [], gc.get_freeze_count
def counting():
    counted.append(len(kept))
    return count()
gc.get_freeze_count = counting
for _ in range(7):
    kept += [[] for _ in range(MANY_MORE)]
    asyncio.run(collector.look_again())
print(*(length // MANY_MORE for length in counted))
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    # In the last round: before and after all is looked at again.
    assert said.stdout.split() == [b"12", b"12"]
