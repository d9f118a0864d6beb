"""Clients that keep a service waiting lose their connection, and nobody else notices."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from client import HOST, PATIENCE_S, Service, eventually, order_body
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


def test_sockets_that_are_closed_on_one_half_keep_nobody_waiting(service: Service) -> None:
    broker = service.register("Alice")
    with ExitStack() as half_closed:
        for begun in (b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") * 20:
            client = half_closed.enter_context(connected(service))
            client.sendall(begun)
            client.shutdown(socket.SHUT_WR)
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
