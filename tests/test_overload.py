"""A service to which more comes than it can answer serves some, and tells the others at once."""

import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Event

from client import HOST, PATIENCE_S, Service, eventually, order_body
from hypothesis import given
from hypothesis import strategies as st

from common.overload import BEAT_S, CALM_S, LATE_BEATS, LATE_S, TAKING_S, Overload

FLOODERS, AT_ONCE = 16, 20
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


@given(st.integers(LATE_BEATS, 10), st.floats(0, 1))
def test_who_is_behind_takes_requests_for_a_part_of_each_round(late: int, later_s: float) -> None:
    overload, now_s = beaten([TOO_LATE_S] * late)
    assert overload.is_behind
    then_s = now_s + later_s
    assert overload.admits(then_s) == (then_s - now_s < TAKING_S)


def test_who_has_refused_nobody_for_a_while_is_no_longer_behind() -> None:
    overload, now_s = beaten([TOO_LATE_S] * LATE_BEATS)
    refused_s = now_s + CALM_S / 2
    overload.beat(refused_s - TAKING_S)
    assert not overload.admits(refused_s)
    overload.beat(refused_s + 0.9 * CALM_S)
    assert overload.is_behind
    overload.beat(refused_s + 1.1 * CALM_S)
    assert not overload.is_behind


# ---- a real service ----


@contextmanager
def flood(service: Service) -> Iterator[Counter[bytes]]:
    """Pipelined requests that cost the event loop much and the database nothing; at the end the
    statuses of the replies."""
    stop, seen = Event(), Counter[bytes]()
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * AT_ONCE

    def send_until() -> Counter[bytes]:
        own = Counter[bytes]()
        address = (HOST, service.client.port)
        with closing(socket.create_connection(address, timeout=PATIENCE_S)) as client:
            while not stop.is_set():
                client.sendall(ask)
                said = b""
                while said.count(b"HTTP/1.1 ") < AT_ONCE or not said.endswith(b"}"):
                    said += client.recv(1 << 20)
                own.update(re.findall(rb"HTTP/1.1 (\d+)", said))
                assert said.count(b"\r\nRetry-After: 1\r\n") == said.count(b"HTTP/1.1 503 ")
        return own

    with ThreadPoolExecutor(FLOODERS) as threads:
        flooders = [threads.submit(send_until) for _ in range(FLOODERS)]
        try:
            yield seen
        finally:
            stop.set()
            for flooder in flooders:
                seen.update(flooder.result())


def test_more_than_can_be_answered_is_refused_and_what_was_taken_is_kept(
    service: Service,
) -> None:
    broker = service.register("Alice")
    placed: list[str] = []
    with flood(service) as seen:

        def refused() -> bool:
            reply = broker.request("POST", "/orders", order_body(symbol="XYZ"))
            if reply.status == 201:
                placed.append(reply.json["order_id"])
                return False
            assert reply.status == 503, reply
            assert reply.json["code"] == "overloaded"
            assert reply.headers["Retry-After"] == "1"
            return True

        eventually(refused)
        assert service.client.request("GET", "/health").status == 200
    assert seen.keys() == {b"200", b"503"}
    eventually(lambda: broker.request("GET", "/balance").status == 200)
    assert sorted(placed) == sorted(order["id"] for order in broker.listed())
