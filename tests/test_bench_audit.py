"""The audit finds nothing in a correct final state, and each violation in a wrong one."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from bench import audit
from bench.audit import Held, Sent, SentOrder, StoredOrder, StoredTrade
from bench.wire import BookDepth, Level, OrderDetail, TradeDetail

NAMES = ["broker 0", "broker 1"]
IDS = ["b0", "b1"]


def order(id: str, side: str, price: int | None, quantity: int, **changes: Any) -> OrderDetail:
    kind = "limit" if price else "market"
    shown = OrderDetail(id, side, kind, "ABCD3", price, quantity, quantity, "open", None, [])
    return replace(shown, **changes)


ASK_SIDE = TradeDetail("t1", 100, 30, "broker 1")
BID_SIDE = TradeDetail("t1", 100, 30, "broker 0")
RESTING = Held(0, order("a", "ask", 100, 50, remaining_quantity=20, trades=[ASK_SIDE]))
FILLED = Held(
    1,
    order(
        "b",
        "bid",
        105,
        30,
        remaining_quantity=0,
        status="closed",
        close_reason="filled",
        trades=[BID_SIDE],
    ),
)
LOW_BID = Held(1, order("c", "bid", 90, 10))
CANCELLED = Held(0, order("d", "bid", 80, 10, status="closed", close_reason="cancelled"))
EXPIRED = Held(0, order("e", "bid", 70, 10, status="closed", close_reason="expired"))
STATE = [RESTING, FILLED, LOW_BID, CANCELLED, EXPIRED]
BALANCES = [3000, -3000]
BOOK = BookDepth("ABCD3", asks=[Level(100, 20, 1)], bids=[Level(90, 10, 1)])


def as_sent(held: Held) -> SentOrder:
    shown = held.order
    return SentOrder(held.broker, shown.symbol, shown.side, shown.price, shown.quantity)


SENT = Sent({held.order.id: as_sent(held) for held in STATE}, [], frozenset({"d"}))
STORED = [
    StoredOrder(
        held.order.id,
        IDS[held.broker],
        "ABCD3",
        held.order.side,
        held.order.price,
        held.order.quantity,
        held.order.remaining_quantity,
        held.order.close_reason,
    )
    for held in STATE
]
STORED_TRADES = [StoredTrade("t1", "ABCD3", 100, 30, frozenset({"a", "b"}))]


def changed(original: Held, **changes: Any) -> list[Held]:
    """The state with one order changed."""
    new = original._replace(order=replace(original.order, **changes))
    return [new if held is original else held for held in STATE]


def test_a_correct_state_has_no_findings() -> None:
    assert audit.order_findings(SENT, STATE) == []
    assert audit.state_findings(STATE) == []
    assert audit.trade_findings(STATE, NAMES, 1) == []
    assert audit.cash_findings(STATE, BALANCES) == []
    assert audit.book_findings(STATE, [BOOK]) == []
    assert audit.stored_order_findings(STATE, IDS, STORED) == []
    assert audit.stored_trade_findings(STATE, STORED_TRADES) == []
    assert audit.stored_cash_findings(BALANCES, IDS, {"b0": 3000, "b1": -3000}) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (STATE[:-1], "lost"),
        ([*STATE, LOW_BID], "2 times"),
        ([*STATE, Held(0, order("x", "bid", 60, 10))], "never sent"),
        (changed(LOW_BID, price=91), "was sent as"),
        (changed(LOW_BID, quantity=11), "was sent as"),
        (changed(CANCELLED, status="open", close_reason=None), "cancel was acknowledged"),
        ([Held(0, LOW_BID.order) if held is LOW_BID else held for held in STATE], "was sent as"),
    ],
)
def test_a_wrong_set_of_orders_is_found(state: list[Held], words: str) -> None:
    (finding,) = audit.order_findings(SENT, state)
    assert words in finding


def test_an_order_without_an_answer_may_be_there_once() -> None:
    unknown = Held(0, order("x", "bid", 60, 10))
    sent = SENT._replace(uncertain=[as_sent(unknown)])
    assert audit.order_findings(sent, STATE) == []
    assert audit.order_findings(sent, [*STATE, unknown]) == []
    twin = unknown._replace(order=replace(unknown.order, id="y"))
    assert len(audit.order_findings(sent, [*STATE, unknown, twin])) == 1


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed(RESTING, remaining_quantity=21), "is not remaining"),
        (changed(RESTING, trades=[ASK_SIDE, ASK_SIDE]), "is not remaining"),
        (changed(LOW_BID, close_reason="expired"), "is open"),
        (changed(FILLED, close_reason="cancelled"), "cancelled"),
        (changed(CANCELLED, close_reason=None), "is closed"),
        (changed(EXPIRED, close_reason="bored"), "bored"),
        (changed(LOW_BID, order_type="market"), "market"),
    ],
)
def test_a_wrong_state_of_an_order_is_found(state: list[Held], words: str) -> None:
    (finding,) = audit.state_findings(state)
    assert words in finding


@pytest.mark.parametrize(
    ("state", "count", "words"),
    [
        (changed(FILLED, trades=[]), 1, "one bid and one ask"),
        (changed(RESTING, trades=[ASK_SIDE, ASK_SIDE]), 1, "one bid and one ask"),
        (changed(FILLED, side="ask"), 1, "one bid and one ask"),
        (changed(FILLED, trades=[replace(BID_SIDE, price=99)]), 1, "do not agree"),
        (changed(FILLED, trades=[replace(BID_SIDE, quantity=29)]), 1, "do not agree"),
        (changed(FILLED, symbol="WXYZ4"), 1, "do not agree"),
        (changed(FILLED, trades=[replace(BID_SIDE, counterparty_broker="?")]), 1, "counterparty"),
        (changed(FILLED, price=99), 1, "breaks the limit"),
        (changed(RESTING, price=101), 1, "breaks the limit"),
        (STATE, 2, "counts 2 trades"),
    ],
)
def test_a_wrong_trade_is_found(state: list[Held], count: int, words: str) -> None:
    findings = audit.trade_findings(state, NAMES, count)
    assert any(words in finding for finding in findings), findings


@pytest.mark.parametrize(
    ("balances", "words"),
    [([3001, -3001], "the trades give"), ([3000, -2999], "sum to zero")],
)
def test_wrong_cash_is_found(balances: list[int], words: str) -> None:
    assert any(words in finding for finding in audit.cash_findings(STATE, balances))


@pytest.mark.parametrize(
    ("book", "words"),
    [
        (BookDepth("ABCD3", asks=[], bids=BOOK.bids), "the asks"),
        (BookDepth("ABCD3", asks=BOOK.asks, bids=[Level(90, 9, 1)]), "the bids"),
        (BookDepth("ABCD3", asks=BOOK.asks, bids=[Level(90, 10, 2)]), "the bids"),
        (BookDepth("ABCD3", asks=BOOK.asks, bids=[Level(100, 10, 1)]), "crossed"),
    ],
)
def test_a_wrong_book_is_found(book: BookDepth, words: str) -> None:
    assert any(words in finding for finding in audit.book_findings(STATE, [book]))


def test_a_book_deeper_than_the_api_shows_is_compared_as_far_as_it_goes() -> None:
    bids = [Held(0, order(f"o{price}", "bid", price, 10)) for price in range(1, 61)]
    levels = [Level(price, 10, 1) for price in range(60, 10, -1)]
    assert audit.book_findings(bids, [BookDepth("ABCD3", asks=[], bids=levels)]) == []
    assert audit.book_findings(bids, [BookDepth("ABCD3", asks=[], bids=levels[:-1])])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "not in the database"),
        (lambda rows: [*rows, rows[0]], "twice"),
        (lambda rows: [*rows, rows[0]._replace(id="x")], "database only"),
        (lambda rows: [rows[0]._replace(remaining_quantity=19), *rows[1:]], "in the database"),
        (lambda rows: [rows[0]._replace(broker_id="b1"), *rows[1:]], "in the database"),
        (lambda rows: [*rows[:3], rows[3]._replace(close_reason=None), rows[4]], "cancelled"),
    ],
)
def test_a_stored_order_that_differs_is_found(
    change: Callable[[list[StoredOrder]], list[StoredOrder]], words: str
) -> None:
    (finding,) = audit.stored_order_findings(STATE, IDS, change(STORED))
    assert words in finding


def test_a_row_need_not_have_been_told_of_the_expiry() -> None:
    untold = [*STORED[:4], STORED[4]._replace(close_reason=None)]
    assert audit.stored_order_findings(STATE, IDS, untold) == []


@pytest.mark.parametrize(
    "rows",
    [
        [],
        STORED_TRADES * 2,
        [STORED_TRADES[0]._replace(price=99)],
        [STORED_TRADES[0]._replace(order_ids=frozenset({"a", "c"}))],
        [*STORED_TRADES, STORED_TRADES[0]._replace(id="t2")],
    ],
)
def test_a_stored_trade_that_differs_is_found(rows: list[StoredTrade]) -> None:
    assert audit.stored_trade_findings(STATE, rows)


@pytest.mark.parametrize(
    "stored", [{}, {"b0": 3000, "b1": -2999}, {"b0": 3000, "b1": -3000, "b2": 0}]
)
def test_stored_cash_that_differs_is_found(stored: dict[str, int]) -> None:
    assert audit.stored_cash_findings(BALANCES, IDS, stored)
