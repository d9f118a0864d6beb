"""Clients that keep a service waiting lose their connection, and nobody else notices."""

import json
import re
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from client import HOST, PATIENCE_S, Broker, Service, eventually, locked, order_body
from conftest import StartService

IDLE = 2_000
BODY = b"Authorization: Bearer x\r\nContent-Length: 9\r\n\r\n{"


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, service.client.port), timeout=PATIENCE_S) as client:
        yield client


def all_of(client: socket.socket) -> bytes:
    """Everything until the other side closes."""
    said = b""
    try:
        while more := client.recv(65536):
            said += more
    except ConnectionResetError:
        pass
    return said


@pytest.fixture(scope="session")
def hasty(start_shared: StartService) -> Service:
    """A service that waits for a client no longer than a second."""
    return start_shared(EXCHANGE_CLIENT_PATIENCE_S="1")


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /health HTT",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-",
        b"POST /orders HTTP/1.1\r\nHost: x\r\n" + BODY,
        b"POST /orders HTTP/1.0\r\n" + BODY,
    ],
)
def test_a_request_that_does_not_arrive_is_given_up(hasty: Service, begun: bytes) -> None:
    with connected(hasty) as client:
        client.sendall(begun)
        assert b"HTTP/1.1 408 " in all_of(client) or b"HTTP/1.0 408 " in all_of(client)


def test_who_dribbles_is_given_up_too(hasty: Service) -> None:
    with connected(hasty) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n")
        client.settimeout(0.05)
        said = b""

        def dribble() -> bool:
            nonlocal said
            try:
                client.sendall(b"X: y\r\n")
                said += client.recv(65536)
            except TimeoutError:
                pass
            except OSError:
                return True
            return b"408" in said

        eventually(dribble)


def test_a_connection_between_two_requests_is_not_slow(hasty: Service) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(hasty) as idle, connected(hasty) as slow:
        idle.sendall(request)
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        slow.sendall(request[:-1])
        assert b" 408 " in all_of(slow)
        idle.sendall(request)
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")


def test_who_never_reads_is_given_up(hasty: Service) -> None:
    # Far more than the sockets hold on both sides.
    many = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000
    with connected(hasty) as client:
        client.settimeout(0.2)

        def refused() -> bool:
            try:
                client.sendall(many)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        eventually(refused)


# ---- clients that half-close: they say that nothing more comes, and go on reading ----

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def half_closed(client: socket.socket, *requests: bytes) -> None:
    client.sendall(b"".join(requests))
    client.shutdown(socket.SHUT_WR)


def statuses(said: bytes) -> list[int]:
    """Of all replies in their order, without those that only ask for the body."""
    found = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]
    return [status for status in found if status != 100]


def asked(
    key: str, method: str, path: str, body: bytes, *headers: str, version: str = "1.1"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def an_order(broker: Broker, *headers: str, version: str = "1.1", **fields: object) -> bytes:
    body = json.dumps(order_body(**fields)).encode()
    length = f"Content-Length: {len(body)}"
    return asked(broker.key, "POST", "/orders", body, length, *headers, version=version)


def in_chunks(broker: Broker) -> bytes:
    body = json.dumps(order_body()).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return asked(broker.key, "POST", "/orders", chunks, "Transfer-Encoding: chunked")


# What goes the short way, and what is aiohttp's.
ASKED: dict[str, tuple[int, Callable[[Broker], bytes]]] = {
    "an order": (201, an_order),
    "a read": (200, lambda broker: asked(broker.key, "GET", "/balance", b"")),
    "docs": (200, lambda broker: asked(broker.key, "GET", "/docs", b"")),
    "metrics": (200, lambda broker: asked(broker.key, "GET", "/metrics", b"")),
    "no method of ours": (405, lambda broker: asked(broker.key, "DELETE", "/orders", b"")),
    "chunks": (201, in_chunks),
    "a body that is announced": (201, lambda broker: an_order(broker, "Expect: 100-continue")),
    "a body that is too large": (413, lambda broker: an_order(broker, symbol="X" * 20_000)),
    "a last request": (201, lambda broker: an_order(broker, "Connection: close")),
    "HTTP/1.0": (201, lambda broker: an_order(broker, version="1.0")),
}
ENDS = ("a last request", "HTTP/1.0")


@pytest.fixture(scope="module")
def patient(start_shared: StartService) -> Service:
    """A service that waits for a client longer than a test waits for it."""
    return start_shared(EXCHANGE_CLIENT_PATIENCE_S="60")


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("kind", ASKED)
def test_who_half_closes_after_a_request_gets_its_reply(
    patient: Service, kind: str, *, used: bool
) -> None:
    broker = patient.register("Alice")
    status, request_of = ASKED[kind]
    with connected(patient) as client:
        if used:
            client.sendall(HEALTH)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        half_closed(client, request_of(broker))
        assert statuses(all_of(client)) == [status]
    assert len(broker.listed()) == (status == 201)


def test_who_half_closes_behind_the_rest_of_a_body_gets_its_reply(patient: Service) -> None:
    broker = patient.register("Alice")
    head, end, body = an_order(broker, "Expect: 100-continue").partition(b"\r\n\r\n")
    with connected(patient) as client:
        client.sendall(head + end)
        assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
        half_closed(client, body)
        assert statuses(all_of(client)) == [201]


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_who_half_closes_after_many_requests_gets_all_replies_in_order(
    patient: Service, *, used: bool
) -> None:
    broker = patient.register("Alice")
    many = [request for kind, request in ASKED.items() if kind not in ENDS] * 8
    with connected(patient) as client:
        if used:
            client.sendall(HEALTH)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        half_closed(client, *(request_of(broker) for _, request_of in many))
        assert statuses(all_of(client)) == [status for status, _ in many]


@pytest.mark.matches_in_memory
def test_who_half_closes_gets_the_replies_that_wait_for_a_log(
    start_service: StartService, new_place: Callable[[], Path], case: str
) -> None:
    service = start_service(
        module="tests.slow_disk",
        TEST_CASE=case,
        EXCHANGE_DURABILITY="wal",
        EXCHANGE_WAL_DIR=str(new_place() / "wal"),
    )
    broker = service.register("Alice")
    with connected(service) as client:
        client.sendall(HEALTH)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        half_closed(client, *[an_order(broker)] * 3, in_chunks(broker))
        assert statuses(all_of(client)) == [201] * 4


HEAD = b"POST /orders HTTP/1.1\r\nHost: x\r\n"
INCOMPLETE = {
    "nothing": b"",
    "a part of a head": HEALTH[:-1],
    "a part of a body": HEAD + BODY,
    "a part of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a body that nobody wants": HEAD.replace(b"POST", b"DELETE") + BODY,
    "a body that is announced": HEAD + b"Expect: 100-continue\r\n" + BODY,
}


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("begun", INCOMPLETE.values(), ids=INCOMPLETE)
def test_who_half_closes_in_the_middle_is_closed_at_once_behind_the_replies(
    patient: Service, begun: bytes, before: int
) -> None:
    with connected(patient) as client:
        half_closed(client, HEALTH * before, begun)
        said = statuses(all_of(client))
    assert said[:before] == [200] * before
    assert not {200, 408}.intersection(said[before:])  # 401 may be told by the head alone


def test_an_idle_connection_that_is_half_closed_is_closed_at_once(patient: Service) -> None:
    with connected(patient) as client:
        client.sendall(HEALTH)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        half_closed(client)
        assert all_of(client) == b""


def registration(service: Service, name: str) -> bytes:
    body = json.dumps({"name": name}).encode()
    return asked(service.admin_key, "POST", "/register", body, f"Content-Length: {len(body)}")


def is_waiting_for_a_lock(service: Service) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return service.sql(f"{query} AND datname = current_database()") != []


def is_free(service: Service) -> bool:
    return service.client.request("GET", "/health").status == 200


@pytest.fixture
def narrow(start_service: StartService) -> Service:
    """A service for one connection at a time, which waits for a client no longer than a second."""
    return start_service(EXCHANGE_CONNECTIONS_MAX="1", EXCHANGE_CLIENT_PATIENCE_S="1")


@contextmanager
def the_only_one(service: Service, **options: int) -> Iterator[socket.socket]:
    """The one connection that the service has a place for, once the last one is let go."""

    def taken() -> socket.socket | None:
        client = socket.socket()
        for option, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        client.settimeout(PATIENCE_S)
        with suppress(OSError):
            client.connect((HOST, service.client.port))
            client.sendall(HEALTH)
            if client.recv(65536).startswith(b"HTTP/1.1 200 "):
                return client
        client.close()
        return None

    client = eventually(taken)
    assert client is not None
    with client:
        yield client


def test_who_half_closes_and_goes_before_the_reply_is_let_go(narrow: Service) -> None:
    with locked(narrow, "brokers"), the_only_one(narrow) as client:
        half_closed(client, registration(narrow, "Alice"))
        eventually(lambda: is_waiting_for_a_lock(narrow))
        assert not is_free(narrow)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: is_free(narrow))
    assert narrow.sql("SELECT name FROM brokers") == [("Alice",)]


def test_who_half_closes_and_never_reads_is_given_up(narrow: Service) -> None:
    with the_only_one(narrow, SO_RCVBUF=4096) as client:
        # Far more than the sockets hold on both sides.
        half_closed(client, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        eventually(lambda: not is_free(narrow))
        eventually(lambda: is_free(narrow))


def test_who_has_half_closed_is_answered_at_a_stop(start_service: StartService) -> None:
    service = start_service()
    with connected(service) as client:
        with locked(service, "brokers"):
            half_closed(client, registration(service, "Alice"))
            eventually(lambda: is_waiting_for_a_lock(service))
            service.send_signal(signal.SIGTERM)
        assert statuses(all_of(client)) == [201]
    service.expect_good_end()
    assert service.sql("SELECT name FROM brokers") == [("Alice",)]


def test_who_has_half_closed_holds_no_stop_up(start_service: StartService) -> None:
    service = start_service()
    many = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    with ExitStack() as clients:
        for asks in (*INCOMPLETE.values(), HEALTH, 10 * HEALTH, many) * 5:
            half_closed(clients.enter_context(connected(service)), asks)
        started_s = time.monotonic()
        service.stop()
        assert time.monotonic() - started_s < 5


def test_sockets_that_are_half_closed_keep_nobody_waiting(service: Service) -> None:
    broker = service.register("Alice")
    with ExitStack() as clients:
        for begun in (b"", b"GET /hea", HEALTH) * 20:
            half_closed(clients.enter_context(connected(service)), begun)
        assert broker.request("POST", "/orders", order_body()).status == 201


def test_thousands_of_idle_connections_keep_nobody_from_trading(service: Service) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * IDLE:
        pytest.skip(f"the system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    broker = service.register("Alice")
    try:
        with ExitStack() as idle:
            for _ in range(IDLE):
                idle.enter_context(connected(service))
            assert broker.request("POST", "/orders", order_body()).status == 201
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_connections_than_are_allowed_are_refused(start_service: StartService) -> None:
    service = start_service(EXCHANGE_CONNECTIONS_MAX="3")
    with connected(service), connected(service), connected(service), connected(service) as last:
        said = all_of(last)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in said
    eventually(lambda: service.client.request("GET", "/health").status == 200)
