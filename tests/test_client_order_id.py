"""Safe retries: an order with a ``client_order_id`` that is sent again is not placed again."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from client import Broker, Reply, Service, eventually, in_seconds, order_body
from conftest import StartService

OWN_ID = "order 7/2026~"


def send(broker: Broker, body: dict[str, object]) -> Reply:
    return broker.request("POST", "/orders", body)


def is_replay(reply: Reply, first: Reply) -> bool:
    return (
        reply.status == 200
        and reply.headers["Idempotent-Replay"] == "true"
        and reply.json["order_id"] == first.json["order_id"]
    )


def placed(broker: Broker, body: dict[str, object]) -> Reply:
    reply = send(broker, body)
    assert reply.status == 201, reply
    assert reply.headers["Idempotent-Replay"] is None
    return reply


# ---- the same order again ----


@pytest.mark.parametrize("own_id", ["x", OWN_ID, '"\\{},NULL', " ", "y" * 64])
def test_the_same_order_again_is_the_order_that_there_is(alice: Broker, own_id: str) -> None:
    body = order_body(client_order_id=own_id)
    first = placed(alice, body)
    again = send(alice, body)
    assert is_replay(again, first)
    assert again.json == first.json
    assert [order["id"] for order in alice.listed()] == [first.json["order_id"]]


def test_the_symbol_and_the_offset_may_be_written_in_another_way(alice: Broker) -> None:
    until = "2033-01-31T18:00:00"
    body = order_body(client_order_id=OWN_ID, valid_until=f"{until}+00:00")
    first = placed(alice, body)
    same = body | {"symbol": "petr4", "valid_until": f"{until}.000000Z"}
    assert is_replay(send(alice, same), first)


def test_a_replay_shows_how_the_order_stands_now(alice: Broker, bob: Broker) -> None:
    body = order_body(side="ask", quantity=10, price=1000, client_order_id=OWN_ID)
    first = placed(alice, body)
    bob.place("bid", 4, 1000)
    partly = send(alice, body)
    assert is_replay(partly, first)
    assert (partly.json["status"], partly.json["remaining_quantity"]) == ("open", 6)
    bob.place("bid", 6, 1000)
    filled = send(alice, body)
    assert is_replay(filled, first)
    assert (filled.json["status"], filled.json["remaining_quantity"]) == ("closed", 0)


def test_a_cancelled_order_is_not_placed_again(alice: Broker) -> None:
    body = order_body(client_order_id=OWN_ID)
    first = placed(alice, body)
    alice.cancel(first.json["order_id"])
    again = send(alice, body)
    assert is_replay(again, first)
    assert again.json["status"] == "closed"
    assert alice.book().json["bids"] == []


def test_a_market_order_that_found_nobody_is_not_tried_again(alice: Broker, bob: Broker) -> None:
    body = order_body(order_type="market", side="bid", client_order_id=OWN_ID)
    first = placed(alice, body)
    bob.place("ask", 10, 1000)
    again = send(alice, body)
    assert is_replay(again, first)
    assert again.json == {**first.json, "status": "closed"}


def test_of_many_that_come_at_once_one_is_placed(alice: Broker, bob: Broker) -> None:
    body = order_body(side="bid", quantity=3, client_order_id=OWN_ID)
    bob.place("ask", 100, 1000)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: send(alice, body), range(16)))
    assert sorted(reply.status for reply in replies) == [200] * 15 + [201]
    assert len({reply.json["order_id"] for reply in replies}) == 1
    assert alice.cash() == -3 * 1000


def test_an_order_that_has_ended_since_is_still_the_order_that_there_is(alice: Broker) -> None:
    body = order_body(client_order_id=OWN_ID, valid_until=in_seconds(0.5))
    first = placed(alice, body)
    eventually(lambda: alice.detail(first.json["order_id"])["close_reason"] == "expired")
    again = send(alice, body)
    assert is_replay(again, first)
    assert again.json["status"] == "closed"


def test_an_order_that_has_ended_before_it_came_is_refused_and_leaves_its_id_free(
    alice: Broker,
) -> None:
    body = order_body(client_order_id=OWN_ID)
    reply = send(alice, body | {"valid_until": "2020-01-31T18:00:00Z"})
    assert reply.status == 422
    assert reply.json["detail"].startswith("valid_until: ")
    placed(alice, body)


# ---- what is not the same ----


@pytest.mark.parametrize(
    "other",
    [
        {"document_number": "1"},
        {"side": "ask"},
        {"symbol": "VALE3"},
        {"price": 1001},
        {"quantity": 11},
        {"valid_until": "2033-01-31T18:00:00Z"},
        {"order_type": "market", "price": ..., "valid_until": ...},
    ],
)
def test_another_order_under_the_same_id_is_refused(
    alice: Broker, other: dict[str, object]
) -> None:
    body = order_body(client_order_id=OWN_ID)
    first = placed(alice, body)
    different = {name: value for name, value in (body | other).items() if value is not ...}
    reply = send(alice, different)
    assert reply.status == 409
    assert reply.json["code"] == "client_order_id_reused"
    assert reply.json["detail"].startswith("client_order_id: ")
    assert first.json["order_id"] in reply.json["detail"]
    assert is_replay(send(alice, body), first)
    assert len(alice.listed()) == 1


def test_each_broker_has_ids_of_its_own(alice: Broker, bob: Broker) -> None:
    body = order_body(client_order_id=OWN_ID)
    assert placed(alice, body).json["order_id"] != placed(bob, body).json["order_id"]


def test_without_an_id_each_order_is_a_new_one(alice: Broker) -> None:
    body = order_body(client_order_id=None)
    assert placed(alice, body).json["order_id"] != placed(alice, body).json["order_id"]


def test_an_order_that_was_refused_leaves_its_id_free(alice: Broker) -> None:
    body = order_body(client_order_id=OWN_ID)
    assert send(alice, body | {"quantity": 0}).status == 422
    placed(alice, body)


@pytest.mark.parametrize("own_id", ["", "x" * 65, 7, "tab\t", "line\n", "é", "\x7f", "\0", ["x"]])
def test_an_id_that_is_none_is_refused_by_name(alice: Broker, own_id: object) -> None:
    reply = alice.order(client_order_id=own_id)
    assert reply.status == 422
    assert reply.json["detail"].startswith("client_order_id: expected ")


def test_who_has_no_key_learns_nothing(service: Service, alice: Broker) -> None:
    body = order_body(client_order_id=OWN_ID)
    placed(alice, body)
    assert service.client.request("POST", "/orders", body, "wrong").status == 401


# ---- how long it is remembered ----


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_forgets_no_id(
    start_service: StartService, tmp_path: Path, case: str, how: signal.Signals
) -> None:
    log = {"EXCHANGE_DURABILITY": "wal", "EXCHANGE_WAL_DIR": str(tmp_path / "wal")}
    settings = {} if case == "casev1" else log
    service = start_service(**settings)
    alice, bob = service.register("Alice"), service.register("Bob")
    resting = order_body(client_order_id="rests")
    filled = order_body(side="ask", symbol="VALE3", client_order_id="fills")
    firsts = placed(alice, resting), placed(alice, filled)
    bob.place("bid", 10, 1000, symbol="VALE3")
    bob.place("ask", 4, 1000)
    if how is signal.SIGKILL:
        service.kill()
    else:
        service.stop()
    service = start_service(service.database_url, **settings)
    alice, bob = service.again(alice), service.again(bob)
    again = send(alice, resting), send(alice, filled)
    assert is_replay(again[0], firsts[0])
    assert again[0].json["remaining_quantity"] == 6
    assert is_replay(again[1], firsts[1])
    assert again[1].json["status"] == "closed"
    assert send(alice, resting | {"price": 1001}).status == 409
    # What rests is still one order: it trades once, and the replay says so.
    bob.place("ask", 6, 1000)
    assert send(alice, resting).json["status"] == "closed"


def test_after_the_window_an_id_may_name_a_new_order(start_service: StartService) -> None:
    service = start_service(EXCHANGE_RETRY_WINDOW_S="1")
    alice = service.register("Alice")
    body = order_body(client_order_id=OWN_ID)
    first = placed(alice, body)
    assert is_replay(send(alice, body), first)
    second = eventually(lambda: (reply := send(alice, body)).status == 201 and reply)
    assert isinstance(second, Reply)
    assert second.json["order_id"] != first.json["order_id"]
    assert is_replay(send(alice, body), second)
    service.stop()
    service = start_service(service.database_url)
    assert is_replay(send(service.again(alice), body), second)


@pytest.mark.matches_in_memory
def test_when_there_is_no_room_for_ids_orders_without_go_on(start_service: StartService) -> None:
    service = start_service(EXCHANGE_RETRY_MAX="4")
    alice = service.register("Alice")
    body = order_body(client_order_id="1")
    first = placed(alice, body)
    placed(alice, order_body(client_order_id="2"))
    refused = alice.order(client_order_id="3")
    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert refused.json["detail"].startswith("client_order_id: ")
    assert is_replay(send(alice, body), first)
    assert alice.order().status == 201
    assert service.health()["client_order_ids"] == 2
    # Others still have room: nobody has more than is free.
    placed(service.register("Bob"), body)
    assert service.health()["client_order_ids"] == 3
    service.reset()
    assert service.health()["client_order_ids"] == 0


def test_emptied_forgets_the_ids(service: Service, alice: Broker) -> None:
    placed(alice, order_body(client_order_id=OWN_ID))
    service.reset()
    placed(service.register("Alice"), order_body(client_order_id=OWN_ID))
