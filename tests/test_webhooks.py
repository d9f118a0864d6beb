"""Webhooks over real HTTP: what is sent, when, how often, and to whom never."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from client import HOST, Broker, Service, eventually
from conftest import StartService

from common.webhooks import Notice, Webhooks

FIELDS = {
    "event",
    "trade_id",
    "order_id",
    "symbol",
    "side",
    "price",
    "quantity",
    "order_remaining_quantity",
    "executed_at",
}


class Target:
    """An HTTP server that keeps what it gets, and answers as the test says."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        # One status for each of the first requests; afterwards 200.
        self.statuses: list[int] = []
        self.on_arrival: Callable[[dict[str, Any]], None] = lambda message: None
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                target.headers.append(dict(self.headers))
                message = json.loads(body)
                target.on_arrival(message)
                target.paths.append(self.path)
                target.messages.append(message)
                self.answer(target.statuses.pop(0) if target.statuses else 200)

            def do_GET(self) -> None:
                target.paths.append(f"GET {self.path}")
                self.answer(200)

            def answer(self, status: int) -> None:
                self.send_response(status)
                if status in (301, 302, 303, 307, 308):
                    self.send_header("Location", f"{target.url}/elsewhere")
                self.send_header("Set-Cookie", "of=this-broker")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def received(self, count: int) -> list[dict[str, Any]]:
        """The messages, as soon as there are so many."""
        eventually(lambda: len(self.messages) >= count)
        assert len(self.messages) == count
        return self.messages


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.stop()


def pair(service: Service, target: Target) -> tuple[Broker, Broker]:
    """A seller and a buyer that both listen."""
    seller = service.register("Seller", webhook_url=f"{target.url}/seller?a=b%20c")
    buyer = service.register("Buyer", webhook_url=f"{target.url}/buyer")
    return seller, buyer


def test_what_a_target_sets_is_sent_to_nobody(service: Service, target: Target) -> None:
    seller, buyer = pair(service, target)
    for _ in range(3):
        seller.place("ask", 1, 100)
        buyer.place("bid", 1, 100)
    target.received(6)
    assert not any("Cookie" in headers for headers in target.headers)


def test_both_sides_are_told_of_a_trade(service: Service, target: Target) -> None:
    seller, buyer = pair(service, target)
    ask = seller.place("ask", 5, 100)
    bid = buyer.place("bid", 3, 120)
    first, second = sorted(target.received(2), key=lambda message: str(message["side"]))
    assert set(first) == set(second) == FIELDS
    (trade,) = buyer.detail(bid)["trades"]
    for message, side, order_id, remaining in ((first, "ask", ask, 2), (second, "bid", bid, 0)):
        # To the letter, so that it can be found again.
        assert message.pop("executed_at") == trade["executed_at"]
        assert message == {
            "event": "trade_executed",
            "trade_id": trade["trade_id"],
            "order_id": order_id,
            "symbol": "PETR4",
            "side": side,
            "price": 100,
            "quantity": 3,
            "order_remaining_quantity": remaining,
        }
    assert sorted(target.paths) == ["/buyer", "/seller?a=b%20c"]
    assert {headers["Content-Type"] for headers in target.headers} == {"application/json"}
    for headers in target.headers:
        shown = str(headers)
        assert not any(key in shown for key in (seller.key, buyer.key, service.admin_key))


def test_a_message_comes_after_its_trade_is_in_the_database(
    service: Service, target: Target
) -> None:
    seller, buyer = pair(service, target)
    found: list[list[tuple[Any, ...]]] = []
    query = (
        "SELECT t.quantity, o.remaining_quantity FROM trades t JOIN orders o"
        " ON o.id IN (t.maker_order_id, t.taker_order_id)"
        " WHERE t.id::text = %s AND o.id::text = %s"
    )
    target.on_arrival = lambda message: found.append(
        service.sql(query, message["trade_id"], message["order_id"])
    )
    for _ in range(5):
        seller.place("ask", 2, 100)
        buyer.place("bid", 2, 100)
    target.received(10)
    assert found == [[(2, 0)]] * 10


def test_each_fill_tells_what_remains_after_it(service: Service, target: Target) -> None:
    seller, buyer = pair(service, target)
    asks = [seller.place("ask", quantity, 100) for quantity in (3, 4, 9)]
    bid = buyer.place("bid", 10, 100)
    market = buyer.place("bid", 8)
    messages = target.received(8)
    left: dict[str, list[tuple[int, int]]] = {}
    for message in sorted(messages, key=lambda message: str(message["trade_id"])):
        entry = (message["quantity"], message["order_remaining_quantity"])
        left.setdefault(message["order_id"], []).append(entry)
    assert left == {
        asks[0]: [(3, 0)],
        asks[1]: [(4, 0)],
        asks[2]: [(3, 6), (6, 0)],
        bid: [(3, 7), (4, 3), (3, 0)],
        market: [(6, 2)],
    }


def test_only_those_who_asked_are_told(service: Service, target: Target) -> None:
    listening = service.register("Listening", webhook_url=f"{target.url}/x")
    silent = service.register("Silent")
    silent.place("ask", 5, 100)
    listening.cancel(listening.place("bid", 1, 1))
    listening.place("bid", 1, 100)
    (message,) = target.received(1)
    assert message["side"] == "bid"


def test_a_failed_delivery_is_tried_again(service: Service, target: Target) -> None:
    known = service.health()
    target.statuses = [500]
    seller = service.register("Seller", webhook_url=target.url)
    buyer = service.register("Buyer")
    seller.place("ask", 1, 100)
    buyer.place("bid", 1, 100)
    first, second = target.received(2)
    assert first == second
    eventually(lambda: service.health()["webhooks_delivered"] == known["webhooks_delivered"] + 1)
    assert service.health()["webhooks_failed"] == known["webhooks_failed"]


def test_a_redirect_is_not_followed(service: Service, target: Target) -> None:
    target.statuses = [301, 307]
    seller = service.register("Seller", webhook_url=f"{target.url}/asked")
    buyer = service.register("Buyer")
    seller.place("ask", 1, 100)
    buyer.place("bid", 1, 100)
    target.received(3)
    assert target.paths == ["/asked"] * 3


def test_a_slow_target_does_not_delay_trading_or_others(service: Service, target: Target) -> None:
    released = Event()
    target.on_arrival = lambda message: wait(released, message)
    other = Target()
    try:
        slow = service.register("Slow", webhook_url=f"{target.url}/slow")
        quick = service.register("Quick", webhook_url=f"{other.url}/quick")
        for _ in range(10):
            slow.place("ask", 1, 100)
            quick.place("bid", 1, 100)
        assert slow.cash() == 1000
        other.received(10)
        assert target.messages == []
        released.set()
        target.received(10)
    finally:
        released.set()
        other.stop()


def wait(released: Event, _: object) -> None:
    assert released.wait(10)


def test_messages_beyond_the_bound_are_dropped_and_counted(
    start_service: StartService, target: Target
) -> None:
    service = start_service(EXCHANGE_WEBHOOK_QUEUE_MAX="1")
    released = Event()
    target.on_arrival = lambda message: wait(released, message)
    try:
        seller, buyer = pair(service, target)
        seller.place("ask", 100, 100)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda _: buyer.place("bid", 1, 100), range(100)))
        figures = eventually(lambda: (h := service.health())["webhooks_dropped"] > 0 and h)
        assert isinstance(figures, dict)
        assert seller.cash() == 10_000
    finally:
        released.set()

    def settled() -> bool:
        health = service.health()
        counted = ("webhooks_delivered", "webhooks_dropped", "webhooks_failed")
        return sum(int(health[name]) for name in counted) == 200

    eventually(settled)
    assert service.health()["webhooks_failed"] == 0
    assert len(target.messages) == service.health()["webhooks_delivered"]


def test_a_target_that_never_answers_does_not_hold_a_stop_up(
    start_service: StartService, target: Target
) -> None:
    service = start_service()
    released, arrived = Event(), Event()

    def hold(message: dict[str, Any]) -> None:
        arrived.set()
        wait(released, message)

    target.on_arrival = hold
    try:
        seller, buyer = pair(service, target)
        seller.place("ask", 1, 100)
        buyer.place("bid", 1, 100)
        assert arrived.wait(10)
        service.stop()
        assert service.sql("SELECT count(*) FROM trades") == [(1,)]
    finally:
        released.set()


def test_names_without_an_answer_keep_no_other_waiting_nor_a_stop(
    start_service: StartService, target: Target, case: str
) -> None:
    service = start_service(module="tests.silent_names", TEST_CASE=case)
    other = service.register("Other")
    for number in range(5):
        deaf = service.register("Deaf", webhook_url=f"http://silent{number}.test/")
        deaf.place("ask", 1, 100)
        other.place("bid", 1, 100)
    eventually(lambda: service.health()["webhooks_in_flight"] == 5)
    good = service.register("Good", webhook_url=target.url.replace(HOST, "localhost"))
    good.place("ask", 1, 100)
    other.place("bid", 1, 100)
    target.received(1)
    service.stop()


def test_what_a_stop_cuts_off_is_counted_and_logged(
    start_service: StartService, target: Target
) -> None:
    service = start_service()
    released = Event()
    target.on_arrival = lambda message: wait(released, message)
    try:
        deaf, other = service.register("Deaf", webhook_url=target.url), service.register("Other")
        for _ in range(7):
            deaf.place("ask", 1, 100)
            other.place("bid", 1, 100)
        eventually(lambda: service.health()["webhooks_waiting"] == 3)
        assert service.health()["webhooks_in_flight"] == 4
        service.stop()
    finally:
        released.set()
    [line] = [line for line in service.text().splitlines() if "webhook" in line]
    assert line.endswith(
        "7 webhook messages are given up: 3 waited, 4 were on their way and may have arrived"
    )


def test_a_target_that_is_not_there_is_no_error_of_ours(service: Service, target: Target) -> None:
    gone = Target()
    gone.stop()
    seller = service.register("Seller", webhook_url=gone.url)
    buyer = service.register("Buyer", webhook_url=target.url)
    for _ in range(3):
        seller.place("ask", 1, 100)
        buyer.place("bid", 1, 100)
    target.received(3)
    eventually(lambda: service.health()["webhooks_waiting"] == 0)


def test_a_private_target_that_was_registered_elsewhere_is_not_delivered_to(
    start_service: StartService, target: Target
) -> None:
    """Registered while private targets were allowed; they no longer are."""
    service = start_service()
    seller = service.register("Seller", webhook_url=target.url)
    named = service.register("Named", webhook_url=target.url.replace(HOST, "localhost"))
    service.stop()
    service = start_service(service.database_url, EXCHANGE_WEBHOOK_PRIVATE="0")
    service.again(seller).place("ask", 1, 100)
    service.again(named).place("bid", 1, 100)
    eventually(lambda: service.health()["webhooks_failed"] == 2)
    assert target.paths == []
    body = {"name": "New", "webhook_url": target.url}
    reply = service.client.request("POST", "/register", body, service.admin_key)
    assert reply.status == 422
    assert "webhook_url" in reply.json["detail"]


def test_a_target_that_never_answers_keeps_no_other_waiting(
    start_service: StartService, target: Target
) -> None:
    service = start_service()
    with socket.create_server((HOST, 0), backlog=50) as silent:
        deaf = service.register("Deaf", webhook_url=f"http://{HOST}:{silent.getsockname()[1]}/")
        other, good = service.register("Other"), service.register("Good", webhook_url=target.url)
        for _ in range(40):
            deaf.place("ask", 1, 100)
            other.place("bid", 1, 100)
        eventually(lambda: service.health()["webhooks_waiting"] >= 30)
        good.place("ask", 1, 100)
        other.place("bid", 1, 100)
        [message] = target.received(1)
        assert message["side"] == "ask"
        # Those of the other target are still where they were.
        assert service.health()["webhooks_waiting"] >= 30


def test_one_target_leaves_room_for_those_of_others() -> None:
    async def run() -> tuple[dict[str, float], dict[str, float]]:
        webhooks = Webhooks(private_allowed=True, queue_max=100)
        with socket.create_server((HOST, 0), backlog=50) as silent:
            address = f"http://{HOST}:{silent.getsockname()[1]}"
            async with webhooks.opened():
                webhooks.enqueue([Notice(f"{address}/bad", b"{}")] * 1000)
                bad = webhooks.figures()
                webhooks.enqueue([Notice(f"{address}/good", b"{}")] * 20)
                return bad, webhooks.figures()

    bad, both = asyncio.run(run())
    assert bad["webhooks_waiting"] == 50
    assert both["webhooks_waiting"] == 70
    assert both["webhooks_dropped"] == bad["webhooks_dropped"] == 950
