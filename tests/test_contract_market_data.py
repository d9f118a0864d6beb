"""Prices, books and balances over HTTP."""

from client import Broker


def trade(
    seller: Broker, buyer: Broker, price: int, quantity: int = 1, *, symbol: str = "PETR4"
) -> None:
    seller.place("ask", quantity, price, symbol=symbol)
    buyer.place("bid", quantity, symbol=symbol)


# ---- price ----


def test_there_is_no_price_before_the_first_trade(alice: Broker) -> None:
    alice.place("ask", 1, 100)
    for symbol in ("PETR4", "NEVER1"):
        reply = alice.price(symbol)
        assert reply.status == 404
        assert set(reply.json) == {"code", "detail"}


def test_the_price_is_the_mean_of_the_last_trades_rounded_down(alice: Broker, bob: Broker) -> None:
    for price in (100, 101, 103):
        trade(alice, bob, price, quantity=price)  # quantities do not weigh
    for trades, average, counted in ((1, 103, 1), (2, 102, 2), (3, 101, 3), (1000, 101, 3)):
        assert alice.price(query=f"trades={trades}").json == {
            "symbol": "PETR4",
            "last_price": 103,
            "average_price": average,
            "trades_in_average": counted,
        }
    assert alice.price().json == alice.price(query="trades=50").json


def test_fifty_trades_are_averaged_unless_asked_otherwise(alice: Broker, bob: Broker) -> None:
    alice.place("ask", 1, 10_000)
    alice.place("ask", 60, 20_000)
    for _ in range(51):
        bob.place("bid", 1)
    assert alice.price().json["trades_in_average"] == 50
    assert alice.price().json["average_price"] == 20_000
    everything = alice.price(query="trades=1000").json
    assert everything["trades_in_average"] == 51
    assert everything["average_price"] == (10_000 + 50 * 20_000) // 51


def test_each_fill_is_a_trade_of_the_average(alice: Broker, bob: Broker) -> None:
    for price in (10, 20, 40):
        alice.place("ask", 1, price)
    bob.place("bid", 3)
    price = bob.price(query="trades=2").json
    assert (price["last_price"], price["average_price"]) == (40, 30)


def test_prices_of_symbols_do_not_mix(alice: Broker, bob: Broker) -> None:
    trade(alice, bob, 10)
    trade(alice, bob, 90, symbol="VALE3")
    assert alice.price("PETR4").json["average_price"] == 10
    assert alice.price("VALE3").json["average_price"] == 90


# ---- book ----


def test_the_book_shows_levels_best_first_with_sums_and_counts(alice: Broker, bob: Broker) -> None:
    for price, quantity in ((105, 1), (103, 2), (103, 3), (110, 4)):
        alice.place("ask", quantity, price)
    for price, quantity in ((95, 1), (99, 2), (99, 3), (90, 4)):
        bob.place("bid", quantity, price)
    assert alice.book().json == {
        "symbol": "PETR4",
        "depth": 10,
        "asks": [
            {"price": 103, "total_quantity": 5, "order_count": 2},
            {"price": 105, "total_quantity": 1, "order_count": 1},
            {"price": 110, "total_quantity": 4, "order_count": 1},
        ],
        "bids": [
            {"price": 99, "total_quantity": 5, "order_count": 2},
            {"price": 95, "total_quantity": 1, "order_count": 1},
            {"price": 90, "total_quantity": 4, "order_count": 1},
        ],
    }


def test_a_level_counts_what_remains(alice: Broker, bob: Broker) -> None:
    alice.place("ask", 10, 100)
    cancelled = alice.place("ask", 10, 100)
    alice.place("ask", 10, 100)
    bob.place("bid", 3, 100)
    alice.cancel(cancelled)
    level = {"price": 100, "total_quantity": 17, "order_count": 2}
    assert alice.book().json["asks"] == [level]
    bob.place("bid", 17, 100)
    assert alice.book().json["asks"] == []


def test_the_depth_is_1_to_50_levels_of_each_side(alice: Broker) -> None:
    for number in range(1, 53):
        alice.place("bid", 1, number)
        alice.place("ask", 1, 1000 - number)
    for query, depth in (("", 10), ("depth=1", 1), ("depth=50", 50)):
        book = alice.book(query=query).json
        assert book["depth"] == depth
        assert [level["price"] for level in book["bids"]] == [52 - n for n in range(depth)]
        assert [level["price"] for level in book["asks"]] == [948 + n for n in range(depth)]


def test_a_symbol_that_nobody_has_named_has_an_empty_book(alice: Broker) -> None:
    reply = alice.book("never1", "depth=3")
    assert reply.status == 200
    assert reply.json == {"symbol": "NEVER1", "depth": 3, "asks": [], "bids": []}


# ---- balance ----


def test_a_balance_is_sells_minus_buys(alice: Broker, bob: Broker) -> None:
    assert alice.balance().json == {"broker_id": alice.id, "broker_name": "Alice", "balance": 0}
    trade(alice, bob, 150, 4)
    trade(bob, alice, 200, 1, symbol="VALE3")
    assert alice.balance().json == {"broker_id": alice.id, "broker_name": "Alice", "balance": 400}
    assert bob.balance().json == {"broker_id": bob.id, "broker_name": "Bob", "balance": -400}


def test_a_resting_or_cancelled_order_moves_no_cash(alice: Broker, bob: Broker) -> None:
    alice.cancel(alice.place("ask", 5, 100))
    bob.place("bid", 5, 100)
    assert (alice.cash(), bob.cash()) == (0, 0)


def test_a_balance_may_leave_64_bits(alice: Broker, bob: Broker) -> None:
    for number in range(1, 13):
        trade(alice, bob, 10**9, 10**9)
        assert alice.balance().json["balance"] == number * 10**18
    assert bob.balance().json["balance"] == -12 * 10**18
    assert alice.price().json["average_price"] == 10**9
