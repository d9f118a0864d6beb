"""A service to which more comes than it can answer serves some, and tells the others at once."""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Event

from client import HOST, PATIENCE_S, Service, eventually, order_body
from hypothesis import given
from hypothesis import strategies as st

from common.overload import BEAT_S, CALM_S, LATE_BEATS, LATE_S, WAIT_MAX_S, Overload

FLOODERS, AT_ONCE = 16, 500
IN_TIME_S, TOO_LATE_S = BEAT_S, BEAT_S + 2 * LATE_S


def beaten(gaps_s: list[float]) -> tuple[Overload, float]:
    """A loop that came round after each of these times; and the present instant."""
    now_s = 0.0
    overload = Overload(now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        overload.beat(now_s)
    return overload, now_s


@given(st.lists(st.sampled_from([IN_TIME_S, TOO_LATE_S]), max_size=40))
def test_only_who_is_late_several_times_in_a_row_falls_behind(gaps_s: list[float]) -> None:
    overload, _ = beaten(gaps_s)
    late = "".join("L" if gap_s == TOO_LATE_S else "." for gap_s in gaps_s)
    if "L" * LATE_BEATS not in late:
        assert not overload.is_behind
        assert overload.admits(1e9)


@given(st.integers(LATE_BEATS, 10), st.floats(BEAT_S, 0.1), st.floats(0, 0.1))
def test_who_is_behind_refuses_what_may_have_waited_too_long(
    late: int, round_s: float, later_s: float
) -> None:
    overload, began_s = beaten([TOO_LATE_S] * late)
    assert overload.is_behind
    overload.beat(began_s + round_s)
    now_s = began_s + round_s + later_s
    assert overload.admits(now_s) == (now_s - began_s < WAIT_MAX_S)


def test_who_has_refused_nobody_for_a_while_is_no_longer_behind() -> None:
    overload, now_s = beaten([TOO_LATE_S] * LATE_BEATS)
    refused_s = now_s + CALM_S / 2
    overload.beat(refused_s - BEAT_S)
    assert not overload.admits(refused_s)
    overload.beat(refused_s + 0.9 * CALM_S)
    assert overload.is_behind
    overload.beat(refused_s + 1.1 * CALM_S)
    assert not overload.is_behind


# ---- a real service ----


@contextmanager
def flood(service: Service) -> Iterator[list[bytes]]:
    """So many pipelined requests that each round of the event loop takes long, with small replies,
    and nothing to do for the database; the statuses of the replies so far."""
    stop, statuses = Event(), list[bytes]()
    ask = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * AT_ONCE

    def send_until() -> None:
        address = (HOST, service.client.port)
        with closing(socket.create_connection(address, timeout=PATIENCE_S)) as client:
            while not stop.is_set():
                client.sendall(ask)
                said = b""
                while said.count(b"HTTP/1.1 ") < AT_ONCE or not said.endswith(b"}"):
                    said += client.recv(1 << 20)
                assert said.count(b"\r\nRetry-After: 1\r\n") == said.count(b"HTTP/1.1 503 ")
                statuses.extend(re.findall(rb"HTTP/1.1 (\d+)", said))

    with ThreadPoolExecutor(FLOODERS) as threads:
        flooders = [threads.submit(send_until) for _ in range(FLOODERS)]
        try:
            yield statuses
        finally:
            stop.set()
            for flooder in flooders:
                flooder.result()


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
        assert service.client.request("GET", "/health").status == 200
    assert set(statuses) == {b"404", b"503"}
    eventually(lambda: broker.request("GET", "/balance").status == 200)
    assert sorted(placed) == sorted(order["id"] for order in broker.listed())
