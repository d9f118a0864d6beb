"""A service to which more comes than it can answer serves some, and tells the others at once."""

import asyncio
import selectors
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from signal import SIGCONT, SIGSTOP
from threading import Event
from typing import cast

import psutil  # type: ignore[import-untyped]
import pytest
from client import HOST, PATIENCE_S, Service, eventually, order_body
from conftest import StartService
from hypothesis import given
from hypothesis import strategies as st

from common.api import Api
from common.exchange import Exchange
from common.overload import (
    BEAT_S,
    CALM_S,
    FAR_TOO_LATE_S,
    LATE_BEATS,
    LATE_S,
    LATEST_BEATS,
    WAIT_MAX_S,
    Overload,
)
from common.settings import read_settings

CONNECTIONS = 300
IN_TIME_S, TOO_LATE_S = BEAT_S, BEAT_S + 2 * LATE_S


def beaten(gaps_s: list[float], busy: float = 1.0) -> tuple[Overload, float]:
    """A loop that came round after each of these times, and was at work for a share of them; and
    the present instant."""
    now_s = 0.0
    overload = Overload(now_s, 0.0)
    for gap_s in gaps_s:
        now_s += gap_s
        overload.beat(now_s, busy * now_s)
    return overload, now_s


@given(st.lists(st.sampled_from([IN_TIME_S, TOO_LATE_S]), max_size=40))
def test_only_who_is_late_several_times_of_the_latest_falls_behind(gaps_s: list[float]) -> None:
    overload, _ = beaten(gaps_s)
    late = [gap_s == TOO_LATE_S for gap_s in gaps_s]
    latest = (late[end - LATEST_BEATS : end] for end in range(LATEST_BEATS, len(late) + 1))
    if all(sum(beats) < LATE_BEATS for beats in [late[:LATEST_BEATS], *latest]):
        assert not overload.is_behind
        assert overload.admits(1e9)


@given(st.integers(0, 40), st.permutations([IN_TIME_S] * 2 + [TOO_LATE_S] * 3))
def test_who_is_late_in_every_other_round_is_behind(before: int, gaps_s: list[float]) -> None:
    overload, _ = beaten([IN_TIME_S] * before + gaps_s)
    assert overload.is_behind


async def test_what_a_start_works_before_it_serves_counts_for_nothing() -> None:
    """It took 0.1 s on a slow core once, and the first request, alone, was refused."""
    api = Api(cast(Exchange, None), read_settings({}))
    end_s = time.process_time() + 1.1 * FAR_TOO_LATE_S
    while time.process_time() < end_s:
        pass
    with api.watching():
        for _ in range(2 * LATEST_BEATS):
            await asyncio.sleep(BEAT_S)  # a turn in which the loop looks
        time.sleep(2 * WAIT_MAX_S)  # noqa: ASYNC251 - it stands still, as nobody worked
        assert not api.refuses("/orders")


def test_who_is_far_too_late_once_is_behind() -> None:
    overload, _ = beaten([BEAT_S + 0.9 * FAR_TOO_LATE_S])
    assert not overload.is_behind
    overload, _ = beaten([BEAT_S + 1.1 * FAR_TOO_LATE_S])
    assert overload.is_behind


@given(st.lists(st.floats(BEAT_S, 10.0), max_size=20))
def test_who_had_to_wait_for_its_core_or_a_disk_is_not_behind(gaps_s: list[float]) -> None:
    # At work for less in each round than would be late.
    busy = min([LATE_S / gap_s for gap_s in gaps_s], default=0.0)
    overload, now_s = beaten(gaps_s, busy)
    assert not overload.is_behind
    assert overload.admits(now_s + 10.0)


@given(st.floats(1.1, 8.0))
def test_who_has_threads_at_work_beside_it_is_late_by_the_time_alone(threads: float) -> None:
    overload, _ = beaten([IN_TIME_S] * 40, threads)
    assert not overload.is_behind


@given(st.integers(LATE_BEATS, 10), st.floats(BEAT_S, 0.1), st.floats(0, 0.1))
def test_who_is_behind_refuses_what_may_have_waited_too_long(
    late: int, round_s: float, later_s: float
) -> None:
    overload, began_s = beaten([TOO_LATE_S] * late)
    assert overload.is_behind
    overload.beat(began_s + round_s, began_s + round_s)
    now_s = began_s + round_s + later_s
    assert overload.admits(now_s) == (now_s - began_s < WAIT_MAX_S)


@given(st.floats(BEAT_S, 1.2 * BEAT_S), st.floats(BEAT_S, 1.2 * BEAT_S))
def test_who_comes_round_in_time_again_refuses_nobody(before_s: float, after_s: float) -> None:
    overload, now_s = beaten([TOO_LATE_S] * LATE_BEATS + [before_s])
    assert overload.is_behind
    assert overload.admits(now_s + after_s)


def test_who_has_refused_nobody_for_a_while_is_no_longer_behind() -> None:
    overload, now_s = beaten([TOO_LATE_S] * LATE_BEATS)
    refused_s = now_s + CALM_S / 2
    overload.beat(refused_s - BEAT_S, refused_s - BEAT_S)
    assert not overload.admits(refused_s)
    overload.beat(refused_s + 0.9 * CALM_S, refused_s)
    assert overload.is_behind
    overload.beat(refused_s + 1.1 * CALM_S, refused_s)
    assert not overload.is_behind


# ---- a real service ----


@contextmanager
def flood(service: Service) -> Iterator[list[bytes]]:
    """So many connections that each round of the event loop takes long, with requests that take
    long to look at and nothing to do for the database; the statuses of the replies so far."""
    stop, statuses = Event(), list[bytes]()
    ask = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (2_500 * b"%41")

    def ask_again(client: socket.socket) -> None:
        said = b""
        while not said.endswith(b"}"):
            more = client.recv(1 << 16)
            assert more, said
            said += more
        assert (b"\r\nRetry-After: 1\r\n" in said) == said.startswith(b"HTTP/1.1 503 ")
        statuses.append(said[9:12])
        client.sendall(ask)

    def ask_until_stopped() -> None:
        address = (HOST, service.client.port)
        with ExitStack() as opened, selectors.DefaultSelector() as waiting:
            for _ in range(CONNECTIONS):
                client = socket.create_connection(address, timeout=PATIENCE_S)
                opened.enter_context(client)
                waiting.register(client, selectors.EVENT_READ)
                client.sendall(ask)
            while not stop.is_set():
                for key, _ in waiting.select(PATIENCE_S):
                    assert isinstance(key.fileobj, socket.socket)
                    ask_again(key.fileobj)

    with ThreadPoolExecutor(1) as threads:
        flooder = threads.submit(ask_until_stopped)
        try:
            yield statuses
        finally:
            stop.set()
            flooder.result()


@pytest.mark.alone
def test_more_than_can_be_answered_is_refused_and_what_was_taken_is_kept(
    service: Service,
) -> None:
    broker = service.register("Alice")
    placed: list[str] = []
    with flood(service) as statuses:

        def refused() -> bool:
            reply = broker.request("POST", "/orders", order_body(symbol="XYZ"))
            if reply.status == 201:
                placed.append(reply.json["order_id"])
            else:
                assert reply.status == 503, reply
                assert reply.json["code"] == "overloaded"
                assert reply.headers["Retry-After"] == "1"
            return b"503" in statuses

        eventually(refused, 60.0)
        for path in ("/health", "/health?x=1", "/metrics"):
            assert service.client.request("GET", path).status == 200
    assert set(statuses) == {b"404", b"503"}
    eventually(lambda: broker.request("GET", "/balance").status == 200)
    assert sorted(placed) == sorted(order["id"] for order in broker.listed())


@pytest.mark.alone
def test_who_was_kept_from_its_core_refuses_nobody_afterwards(start_service: StartService) -> None:
    service = start_service()
    broker = service.register("Alice")
    with ThreadPoolExecutor(1) as threads:
        for _ in range(3):
            service.send_signal(SIGSTOP)
            try:
                waiting = threads.submit(broker.request, "POST", "/orders", order_body())
                eventually(lambda: stopped(service))
                # As long as any neighbour might keep the core; what waits here is one request.
                with pytest.raises(TimeoutError):
                    waiting.result(5 * FAR_TOO_LATE_S)
            finally:
                service.send_signal(SIGCONT)
            assert waiting.result(PATIENCE_S).status == 201


def stopped(service: Service) -> bool:
    return bool(psutil.Process(service.process.pid).status() == psutil.STATUS_STOPPED)
