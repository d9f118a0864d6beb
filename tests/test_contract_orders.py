"""Orders over HTTP: what is accepted, how it is matched, shown, cancelled, expired and kept."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from client import Broker, Service, eventually, in_seconds, order_body

from common.model import LOOKED_AT_MAX

DETAIL_FIELDS = {
    "id",
    "side",
    "order_type",
    "symbol",
    "price",
    "quantity",
    "remaining_quantity",
    "status",
    "close_reason",
    "valid_until",
    "created_at",
    "trades",
}
TRADE_FIELDS = {"trade_id", "price", "quantity", "counterparty_broker", "executed_at"}


def fills(detail: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(t["price"], t["quantity"], t["counterparty_broker"]) for t in detail["trades"]]


def instant(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    assert parsed.utcoffset() == timedelta(0)
    return parsed


# ---- shapes ----


def test_a_limit_order_is_acknowledged_and_shown_with_all_its_fields(alice: Broker) -> None:
    until = datetime(2033, 1, 31, 18, 0, 0, 123456, UTC)
    reply = alice.order(side="ask", price=1050, quantity=7, valid_until=until.isoformat())
    assert reply.status == 201
    assert reply.headers["Content-Type"].startswith("application/json")
    order_id = reply.json["order_id"]
    assert reply.json == {"order_id": order_id, "status": "open", "remaining_quantity": 7}
    assert str(uuid.UUID(order_id)) == order_id
    detail = alice.detail(order_id)
    assert set(detail) == DETAIL_FIELDS
    assert instant(detail["valid_until"]) == until
    assert abs(instant(detail["created_at"]) - datetime.now(UTC)) < timedelta(seconds=10)
    assert {name: detail[name] for name in DETAIL_FIELDS - {"valid_until", "created_at"}} == {
        "id": order_id,
        "side": "ask",
        "order_type": "limit",
        "symbol": "PETR4",
        "price": 1050,
        "quantity": 7,
        "remaining_quantity": 7,
        "status": "open",
        "close_reason": None,
        "trades": [],
    }


def test_a_trade_is_shown_to_both_sides_with_all_its_fields(alice: Broker, bob: Broker) -> None:
    ask = alice.place("ask", 5, 900)
    bid = bob.place("bid", 5, 1000)
    (sold,), (bought,) = alice.detail(ask)["trades"], bob.detail(bid)["trades"]
    assert set(sold) == set(bought) == TRADE_FIELDS
    assert sold.pop("counterparty_broker") == "Bob"
    assert bought.pop("counterparty_broker") == "Alice"
    assert sold == bought
    assert (sold["price"], sold["quantity"]) == (900, 5)
    assert instant(sold["executed_at"]) >= instant(alice.detail(ask)["created_at"])
    uuid.UUID(sold["trade_id"])


def test_limit_is_the_default_order_type(alice: Broker) -> None:
    assert alice.detail(alice.order().json["order_id"])["order_type"] == "limit"
    assert alice.detail(alice.order(order_type="limit").json["order_id"])["order_type"] == "limit"


@pytest.mark.parametrize("ignored", [..., None, "2001-01-01T00:00:00Z", "nonsense", 5])
def test_a_market_order_ignores_valid_until_and_shows_none(alice: Broker, ignored: object) -> None:
    reply = alice.order(order_type="market", quantity=3, valid_until=ignored)
    assert (reply.status, reply.json["status"], reply.json["remaining_quantity"]) == (
        201,
        "closed",
        3,
    )
    detail = alice.detail(reply.json["order_id"])
    assert (detail["order_type"], detail["price"], detail["valid_until"]) == ("market", None, None)
    assert (detail["status"], detail["close_reason"]) == ("closed", "unfilled")


def test_ids_sort_in_the_order_of_acceptance(alice: Broker, bob: Broker) -> None:
    ids = [broker.place("bid", 1, 10) for broker in (alice, bob) * 5]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "until",
    [
        "2033-01-31T18:00:00Z",
        "2033-01-31T15:00:00-03:00",
        "2033-02-01T03:30+09:30",
        "2033-01-31T18:00:00.000000+00:00",
    ],
)
def test_valid_until_takes_any_offset(alice: Broker, until: str) -> None:
    detail = alice.detail(alice.order(valid_until=until).json["order_id"])
    assert instant(detail["valid_until"]) == datetime(2033, 1, 31, 18, tzinfo=UTC)


def test_the_largest_and_the_smallest_values_are_accepted(service: Service, alice: Broker) -> None:
    for fields in (
        {"price": 10**9, "quantity": 10**9, "symbol": "ABCDEFGHIJ12", "document_number": "9" * 20},
        {"price": 1, "quantity": 1, "symbol": "A", "document_number": "é"},
    ):
        for until in ("9999-12-31T23:59:59.999999Z", in_seconds(3600)):
            reply = alice.order(**fields, valid_until=until)
            assert reply.status == 201, reply
            detail = alice.detail(reply.json["order_id"])
            assert {name: detail[name] for name in ("price", "quantity", "symbol")} == {
                name: fields[name] for name in ("price", "quantity", "symbol")
            }
            assert instant(detail["valid_until"]) == datetime.fromisoformat(until)
    eventually(lambda: service.sql("SELECT count(*) FROM orders") == [(4,)])


def test_the_symbol_is_folded_to_upper_case_in_body_and_path(alice: Broker, bob: Broker) -> None:
    ask = alice.place("ask", 2, 100, symbol="petr4")
    assert alice.detail(ask)["symbol"] == "PETR4"
    bob.place("bid", 1, symbol="Petr4")
    for symbol in ("petr4", "PETR4", "pEtR4", "%70etr4"):
        assert alice.price(symbol).json["symbol"] == "PETR4"
        book = alice.book(symbol).json
        assert book["symbol"] == "PETR4"
        assert book["asks"] == [{"price": 100, "total_quantity": 1, "order_count": 1}]
    assert [order["id"] for order in alice.listed("symbol=petr4")] == [ask]


# ---- the matching rule ----


def test_the_best_price_trades_first_and_at_one_price_the_oldest(service: Service) -> None:
    sellers = [service.register(name) for name in ("late best", "first", "second", "worse")]
    sellers[3].place("ask", 10, 103)
    sellers[1].place("ask", 10, 102)
    sellers[2].place("ask", 10, 102)
    sellers[0].place("ask", 10, 101)
    buyer = service.register("buyer")
    bid = buyer.place("bid", 35, 103)
    assert fills(buyer.detail(bid)) == [
        (101, 10, "late best"),
        (102, 10, "first"),
        (102, 10, "second"),
        (103, 5, "worse"),
    ]


def test_bids_trade_from_the_highest_price_down(alice: Broker, bob: Broker) -> None:
    for price in (99, 101, 100):
        alice.place("bid", 1, price)
    ask = bob.place("ask", 9, 100)
    assert fills(bob.detail(ask)) == [(101, 1, "Alice"), (100, 1, "Alice")]
    assert bob.detail(ask)["remaining_quantity"] == 7


def test_a_trade_executes_at_the_price_of_the_resting_order(alice: Broker, bob: Broker) -> None:
    alice.place("bid", 1, 500)
    bob.place("ask", 1, 1)
    alice.place("ask", 1, 600, symbol="VALE3")
    bob.place("bid", 1, 999, symbol="VALE3")
    assert alice.price("PETR4").json["last_price"] == 500
    assert alice.price("VALE3").json["last_price"] == 600


def test_prices_that_do_not_meet_do_not_trade(alice: Broker, bob: Broker) -> None:
    alice.place("ask", 1, 101)
    bob.place("bid", 1, 100)
    assert alice.price().status == 404
    assert [len(alice.book().json[side]) for side in ("asks", "bids")] == [1, 1]


def test_orders_of_different_symbols_never_meet(alice: Broker, bob: Broker) -> None:
    alice.place("ask", 1, 100, symbol="PETR3")
    assert bob.order(order_type="market", symbol="PETR4").json["remaining_quantity"] == 10


def test_a_partial_fill_of_the_resting_order_keeps_its_place(service: Service) -> None:
    first, second, buyer = (service.register(name) for name in ("first", "second", "buyer"))
    ask = first.place("ask", 10, 100)
    second.place("ask", 10, 100)
    buyer.place("bid", 4, 100)
    detail = first.detail(ask)
    assert (detail["status"], detail["remaining_quantity"]) == ("open", 6)
    bid = buyer.place("bid", 8, 100)
    assert fills(buyer.detail(bid)) == [(100, 6, "first"), (100, 2, "second")]
    detail = first.detail(ask)
    assert (detail["status"], detail["close_reason"]) == ("closed", "filled")
    assert fills(detail) == [(100, 4, "buyer"), (100, 6, "buyer")]


def test_the_rest_of_a_partly_filled_limit_order_rests(alice: Broker, bob: Broker) -> None:
    alice.place("ask", 4, 100)
    reply = bob.order(side="bid", price=101, quantity=10)
    assert (reply.json["status"], reply.json["remaining_quantity"]) == ("open", 6)
    book = bob.book().json
    assert book["asks"] == []
    assert book["bids"] == [{"price": 101, "total_quantity": 6, "order_count": 1}]


def test_a_full_fill_closes_both_sides_as_filled(alice: Broker, bob: Broker) -> None:
    ask = alice.place("ask", 4, 100)
    reply = bob.order(side="bid", price=100, quantity=4)
    assert (reply.json["status"], reply.json["remaining_quantity"]) == ("closed", 0)
    for detail in (alice.detail(ask), bob.detail(reply.json["order_id"])):
        assert (detail["status"], detail["close_reason"]) == ("closed", "filled")
        assert detail["remaining_quantity"] == 0


def test_a_market_order_takes_what_there_is_and_closes_unfilled(alice: Broker, bob: Broker) -> None:
    alice.place("ask", 3, 100)
    alice.place("ask", 4, 10**9)
    reply = bob.order(order_type="market", quantity=10)
    assert (reply.json["status"], reply.json["remaining_quantity"]) == ("closed", 3)
    detail = bob.detail(reply.json["order_id"])
    assert (detail["close_reason"], fills(detail)) == (
        "unfilled",
        [(100, 3, "Alice"), (10**9, 4, "Alice")],
    )
    assert bob.book().json == {"symbol": "PETR4", "depth": 10, "asks": [], "bids": []}


def test_a_market_order_that_is_filled_closes_as_filled(alice: Broker, bob: Broker) -> None:
    alice.place("bid", 3, 100)
    order_id = bob.place("ask", 3)
    assert bob.detail(order_id)["close_reason"] == "filled"


def test_a_broker_may_trade_with_itself(alice: Broker) -> None:
    ask = alice.place("ask", 3, 100)
    bid = alice.place("bid", 2, 100)
    for order_id in (ask, bid):
        assert fills(alice.detail(order_id)) == [(100, 2, "Alice")]
    assert alice.cash() == 0


def test_quantities_are_conserved_over_many_orders(service: Service) -> None:
    brokers = [service.register(f"broker {number}") for number in range(3)]
    ids = []
    for step in range(60):
        broker = brokers[step % 3]
        side, price = ("bid", 100 + step % 7) if step % 2 else ("ask", 103 - step % 5)
        ids.append((broker, broker.place(side, 1 + step % 11, price)))
    for broker, order_id in ids:
        detail = broker.detail(order_id)
        traded = sum(trade["quantity"] for trade in detail["trades"])
        assert detail["quantity"] == detail["remaining_quantity"] + traded
    book = brokers[0].book(query="depth=50").json
    assert (
        not book["bids"]
        or not book["asks"]
        or (book["bids"][0]["price"] < book["asks"][0]["price"])
    )
    assert sum(broker.cash() for broker in brokers) == 0


# ---- cancelling ----


def test_a_cancelled_order_leaves_the_book_and_never_trades(alice: Broker, bob: Broker) -> None:
    ask = alice.place("ask", 5, 100)
    bob.place("bid", 2, 100)
    reply = alice.cancel(ask)
    assert (reply.status, reply.json) == (204, None)
    assert alice.book().json["asks"] == []
    assert bob.order(order_type="market").json["remaining_quantity"] == 10
    detail = alice.detail(ask)
    assert (detail["status"], detail["close_reason"]) == ("closed", "cancelled")
    assert (detail["remaining_quantity"], fills(detail)) == (3, [(100, 2, "Bob")])


def test_cancelling_again_succeeds_and_changes_nothing(alice: Broker) -> None:
    order_id = alice.place("ask", 5, 100)
    assert alice.cancel(order_id).status == 204
    detail = alice.detail(order_id)
    assert [alice.cancel(order_id).status for _ in range(2)] == [204, 204]
    assert alice.detail(order_id) == detail


def test_cancelling_a_filled_order_succeeds_and_changes_nothing(alice: Broker, bob: Broker) -> None:
    ask = alice.place("ask", 5, 100)
    bob.place("bid", 5, 100)
    assert alice.cancel(ask).status == 204
    assert alice.detail(ask)["close_reason"] == "filled"


@pytest.mark.parametrize("name", [str(uuid.UUID(int=7)), "no-uuid", "%00", "1", "'; --"])
def test_cancelling_an_unknown_order_succeeds(alice: Broker, name: str) -> None:
    reply = alice.cancel(name.replace(" ", "%20"))
    assert (reply.status, reply.json) == (204, None)


def test_another_brokers_order_is_neither_shown_nor_cancelled(alice: Broker, bob: Broker) -> None:
    order_id = alice.place("ask", 5, 100)
    for attempt in (bob.show(order_id), bob.cancel(order_id)):
        assert attempt.status == 403
        assert set(attempt.json) == {"code", "detail"}
    assert alice.detail(order_id)["status"] == "open"
    assert bob.listed() == []
    alice.cancel(order_id)
    assert bob.cancel(order_id).status == 403
    assert bob.show(order_id).status == 403


def test_ids_are_taken_in_upper_case_too(alice: Broker) -> None:
    order_id = alice.place("ask", 5, 100)
    assert alice.detail(order_id.upper())["id"] == order_id
    assert alice.cancel(order_id.upper()).status == 204
    assert alice.detail(order_id)["close_reason"] == "cancelled"


# ---- listing ----


def test_own_orders_are_listed_newest_first_page_by_page(alice: Broker, bob: Broker) -> None:
    ids = [alice.place("bid", 1, 10 + number) for number in range(7)]
    bob.place("bid", 1, 10)
    first = alice.orders("limit=3")
    assert set(first.json) == {"orders", "next_cursor"}
    assert [order["id"] for order in first.json["orders"]] == ids[:3:-1]
    # What comes meanwhile does not shift the pages.
    newest = alice.place("bid", 1, 99)
    second = alice.orders(f"limit=3&cursor={first.json['next_cursor']}")
    third = alice.orders(f"limit=3&cursor={second.json['next_cursor']}")
    rest = second.json["orders"] + third.json["orders"]
    assert [order["id"] for order in rest] == ids[3::-1]
    assert third.json["next_cursor"] is None
    assert alice.orders("limit=1").json["orders"] == [alice.detail(newest)]


def test_a_page_that_is_just_full_is_the_last(alice: Broker) -> None:
    for _ in range(4):
        alice.place("bid", 1, 10)
    assert alice.orders("limit=4").json["next_cursor"] is None
    assert alice.orders("limit=3").json["next_cursor"] is not None
    assert alice.orders().json == alice.orders("limit=50").json


def test_a_listing_shows_orders_as_the_detail_does(alice: Broker, bob: Broker) -> None:
    ids = [alice.place("ask", 5, 100), alice.place("ask", 5, 100), alice.place("ask", 5, 101)]
    bob.place("bid", 7, 100)
    alice.cancel(ids[2])
    assert alice.listed() == [alice.detail(order_id) for order_id in reversed(ids)]


def test_a_listing_can_be_narrowed_by_status_and_symbol(alice: Broker, bob: Broker) -> None:
    petr = [alice.place("ask", 5, 100 + number) for number in range(4)]
    vale = [alice.place("ask", 5, 100 + number, symbol="VALE3") for number in range(4)]
    bob.place("bid", 5, 100)
    alice.cancel(petr[2])
    alice.cancel(vale[1])
    newest_first = sorted(petr + vale, reverse=True)
    closed = {petr[0], petr[2], vale[1]}
    for limit in (1, 2, 500):
        for query, expected in {
            "": newest_first,
            "status=open": [i for i in newest_first if i not in closed],
            "status=closed": [i for i in newest_first if i in closed],
            "symbol=VALE3": vale[::-1],
            "status=closed&symbol=PETR4": [petr[2], petr[0]],
            "status=open&symbol=VALE3": [vale[3], vale[2], vale[0]],
            "symbol=NONE3": [],
        }.items():
            listed = alice.listed(query, limit)
            assert [order["id"] for order in listed] == expected, (query, limit)


def test_one_page_looks_at_a_bounded_number_of_orders_and_the_next_goes_on(alice: Broker) -> None:
    old = alice.place("bid", 1, 10, symbol="VALE3")
    receipts = alice.place_all([{"order_type": "market"}] * LOOKED_AT_MAX)
    assert {receipt["status"] for receipt in receipts} == {"closed"}
    first = alice.orders("symbol=VALE3&limit=5").json
    assert first["orders"] == []
    second = alice.orders(f"symbol=VALE3&limit=5&cursor={first['next_cursor']}").json
    assert [order["id"] for order in second["orders"]] == [old]
    assert second["next_cursor"] is None
    # What is open is found at once among any number of closed orders.
    open_ones = alice.orders("status=open").json
    assert [order["id"] for order in open_ones["orders"]] == [old]
    assert open_ones["next_cursor"] is None
    assert len(alice.listed("status=closed", 500)) == LOOKED_AT_MAX
    assert len(alice.listed("", 500)) == LOOKED_AT_MAX + 1


def test_a_broker_without_orders_has_an_empty_listing(alice: Broker) -> None:
    assert alice.orders().json == {"orders": [], "next_cursor": None}


# ---- expiry ----


def test_an_order_ends_at_valid_until_for_every_reader(alice: Broker, bob: Broker) -> None:
    order_id = alice.place("ask", 5, 100, valid_until=in_seconds(0.3))
    assert len(bob.book().json["asks"]) == 1
    assert alice.detail(order_id)["status"] == "open"
    eventually(lambda: bob.book().json["asks"] == [], 5)
    assert instant(alice.detail(order_id)["valid_until"]) <= datetime.now(UTC)
    assert bob.order(order_type="market").json["remaining_quantity"] == 10
    detail = alice.detail(order_id)
    assert (detail["status"], detail["close_reason"]) == ("closed", "expired")
    assert (detail["remaining_quantity"], detail["trades"]) == (5, [])
    assert [order["id"] for order in alice.listed("status=closed")] == [order_id]
    assert alice.listed("status=open") == []
    assert alice.cancel(order_id).status == 204
    assert alice.detail(order_id) == detail


def test_an_order_that_has_ended_never_trades_though_nobody_looked(
    alice: Broker, bob: Broker
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=0.2)
    alice.place("ask", 5, 100, valid_until=until.isoformat())
    eventually(lambda: datetime.now(UTC) > until, 5)
    assert bob.order(side="bid", price=100).json["remaining_quantity"] == 10


def test_an_order_trades_until_it_ends_and_the_rest_expires(alice: Broker, bob: Broker) -> None:
    order_id = alice.place("ask", 5, 100, valid_until=in_seconds(0.5))
    bob.place("bid", 2, 100)
    detail = eventually(
        lambda: (d := alice.detail(order_id))["status"] == "closed" and d,
        5,
    )
    assert isinstance(detail, dict)
    assert (detail["close_reason"], detail["remaining_quantity"]) == ("expired", 3)
    assert fills(detail) == [(100, 2, "Bob")]


def test_an_order_ends_in_the_database_without_anyone_touching_it(
    service: Service, alice: Broker
) -> None:
    alice.place("ask", 5, 100, valid_until=in_seconds(0.3))
    kept = alice.place("ask", 5, 100)
    query = "SELECT closed_at = valid_until FROM orders WHERE close_reason = 'expired'"
    assert eventually(lambda: service.sql(query), 5) == [(True,)]
    open_orders = "SELECT id::text FROM orders WHERE close_reason IS NULL"
    assert service.sql(open_orders) == [(kept,)]


def test_many_orders_end_in_the_same_instant(service: Service, alice: Broker) -> None:
    until = in_seconds(0.6)
    for number in range(20):
        alice.place("ask", 1, 100 + number % 3, valid_until=until)
    count = "SELECT count(*) FROM orders WHERE close_reason = 'expired' AND remaining_quantity = 1"
    eventually(lambda: service.sql(count) == [(20,)], 5)
    assert alice.listed("status=open") == []


def test_the_orders_of_many_symbols_end_in_the_same_instant(
    service: Service, alice: Broker, bob: Broker
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=4)
    symbols = [f"CLOSE{number}" for number in range(30)]
    order = {"side": "ask", "quantity": 1, "price": 100, "valid_until": until.isoformat()}
    placed = alice.place_all([{**order, "symbol": symbol} for symbol in symbols * 10])
    ids = {receipt["order_id"] for receipt in placed}
    eventually(lambda: datetime.now(UTC) > until, 10)
    # More than are closed before anybody asks, so some are shown as closed before they are.
    assert alice.listed("status=open") == []
    closed = alice.listed("status=closed")
    assert {each["id"] for each in closed} == ids
    assert {each["close_reason"] for each in closed} == {"expired"}
    assert {alice.detail(each)["close_reason"] for each in list(ids)[::30]} == {"expired"}
    assert [bob.book(symbol).json["asks"] for symbol in symbols] == [[]] * len(symbols)
    count = "SELECT count(*) FROM orders WHERE close_reason = 'expired' AND closed_at = valid_until"
    eventually(lambda: service.sql(count) == [(len(ids),)], 10)


# ---- what is kept ----

NASTY = [
    '"',
    "'; DROP TABLE x;--",
    "a,b,c",
    "back\\slash\\",
    "{1,2}",
    "}{",
    "NULL",
    "null",
    '\\"',
    " lead and trail ",
    "\t\n\r\x01\x7f",
    "ção ß Ωмир 日本",
    "👩‍🚀🇧🇷é",
    "%s %(id)s $1 :x ?",
    "\u2028\u202e\ufeff\uffff",
    "(),;--/**/E'\\x00'",
]


def test_document_numbers_reach_the_database_unchanged(service: Service, alice: Broker) -> None:
    # One after the other and closed at once, so that many of them are written by one statement.
    ids = {alice.place("bid", 1, document_number=text): text for text in NASTY}
    query = "SELECT id::text, document_number FROM orders"
    eventually(lambda: len(service.sql(query)) == len(NASTY))
    assert dict(service.sql(query)) == ids


def test_names_of_any_script_are_kept_and_shown(service: Service) -> None:
    names = [*NASTY, "é" * 100, "👩" * 100, "x"]
    sellers = [service.register(name) for name in names]
    buyer = service.register("buyer")
    for seller in sellers:
        assert seller.balance().json["broker_name"] == seller.name
        seller.place("ask", 1, 100)
    bid = buyer.place("bid", len(names), 100)
    shown = [trade["counterparty_broker"] for trade in buyer.detail(bid)["trades"]]
    assert shown == names
    stored = service.sql("SELECT name FROM brokers ORDER BY id")
    assert [name for (name,) in stored] == [*names, "buyer"]


def test_an_order_and_its_trades_are_in_the_database_as_they_are_shown(
    service: Service, alice: Broker, bob: Broker
) -> None:
    ask = alice.place("ask", 5, 100)
    bid = bob.place("bid", 3, 120)
    query = (
        "SELECT id::text, broker_id::text, side, order_type, symbol, price, quantity,"
        " remaining_quantity, close_reason FROM orders ORDER BY id"
    )
    expected = [
        (ask, alice.id, "ask", "limit", "PETR4", 100, 5, 2, None),
        (bid, bob.id, "bid", "limit", "PETR4", 120, 3, 0, "filled"),
    ]
    eventually(lambda: service.sql(query) == expected, 5)
    trades = "SELECT id::text, maker_order_id::text, taker_order_id::text, price, quantity, symbol"
    (trade,) = bob.detail(bid)["trades"]
    assert service.sql(f"{trades} FROM trades") == [(trade["trade_id"], ask, bid, 100, 3, "PETR4")]
    cash = "SELECT broker_id::text, sum(cash) FROM balances GROUP BY broker_id"
    assert dict(service.sql(cash)) == {alice.id: 300, bob.id: -300}


def test_orders_of_many_brokers_at_the_same_time_are_all_matched(service: Service) -> None:
    brokers = [service.register(f"broker {number}") for number in range(4)]

    def trade(number: int) -> None:
        for step in range(25):
            brokers[number].place("bid" if number % 2 else "ask", 2, 100 + step % 2 * number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(trade, range(4)))
    details = [detail for broker in brokers for detail in broker.listed()]
    assert len(details) == 100
    bought, sold = (
        sum(t["quantity"] for d in details if d["side"] == side for t in d["trades"])
        for side in ("bid", "ask")
    )
    assert bought == sold > 0
    assert sum(broker.cash() for broker in brokers) == 0


def test_a_body_may_take_any_order_and_white_space(alice: Broker) -> None:
    body = order_body()
    text = "\r\n\t{ " + " , ".join(
        f'"{name}" : {value if isinstance(value, int) else chr(34) + str(value) + chr(34)}'
        for name, value in reversed(body.items())
    )
    assert alice.request("POST", "/orders", f"{text} }}\n".encode()).status == 201
    escaped = b'{"sid\\u0065":"b\\u0069d"' + b"".join(
        f',"{name}":"{value}"'.encode() if isinstance(value, str) else f',"{name}":{value}'.encode()
        for name, value in body.items()
        if name != "side"
    )
    assert alice.request("POST", "/orders", escaped + b"}").status == 201


def test_an_order_is_there_for_the_next_request(alice: Broker, reads_memory: bool) -> None:
    for number in range(20):
        order_id = alice.place("bid", 1, 10)
        # Without the broker's own waiting for what it has written.
        reply = alice.client.request("GET", f"/orders/{order_id}", key=alice.key)
        assert reply.status == 200
        if reads_memory:
            reply = alice.client.request("GET", "/stocks/PETR4/book", key=alice.key)
            assert reply.json["bids"][0]["order_count"] == number + 1
