"""The audit finds nothing in a correct final state, and each violation in a wrong one."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from bench import audit
from bench.audit import Held, Sent, SentOrder, StoredOrder, StoredTrade
from bench.wire import BookDepth, Level, OrderDetail, Price, TradeDetail

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


S_US = 1_000_000
DAY_US = 86_400 * S_US
# When each was created and closed, seconds of the day.
SPANS_S = {"a": (1, None), "b": (2, 2), "c": (3, None), "d": (4, 5), "e": (6, 9)}
ENDS_US = {"a": DAY_US, "b": DAY_US, "c": DAY_US, "d": DAY_US, "e": 8 * S_US}
SENT = Sent(
    {held.order.id: as_sent(held) for held in STATE},
    [],
    frozenset({"d"}),
    frozenset({"d"}),
    ENDS_US,
)
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
        SPANS_S[held.order.id][0] * S_US,
        ENDS_US[held.order.id],
        None if (closed_s := SPANS_S[held.order.id][1]) is None else closed_s * S_US,
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
    assert audit.ending_findings(SENT, STORED) == []
    assert audit.passed_over_findings(STORED) == []


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


def stored(id: str, **changes: Any) -> list[StoredOrder]:
    """The rows with one of them changed."""
    return [row._replace(**changes) if row.id == id else row for row in STORED]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (stored("c", close_reason="cancelled", closed_us=5 * S_US), "nobody has asked"),
        (stored("c", close_reason="unfilled", closed_us=5 * S_US), "has a limit"),
        (stored("e", closed_us=8 * S_US - 1), "before its end"),
        (stored("b", closed_us=DAY_US), "after its end"),
        (stored("c", valid_until_us=DAY_US - 1), "was sent with"),
        (stored("c", valid_until_us=None), "was sent with"),
    ],
)
def test_an_end_that_nobody_has_asked_for_is_found(rows: list[StoredOrder], words: str) -> None:
    (finding,) = audit.ending_findings(SENT, rows)
    assert words in finding


def test_an_order_that_is_open_behind_its_end_is_found() -> None:
    assert audit.outlived_findings(STATE, STORED, DAY_US - 1) == []
    assert len(audit.outlived_findings(STATE, STORED, DAY_US)) == 2  # those that rest


def test_a_cancel_without_an_answer_may_have_worked() -> None:
    rows = stored("c", close_reason="cancelled", closed_us=5 * S_US)
    assert audit.ending_findings(SENT._replace(cancels_asked=frozenset("cd")), rows) == []


def resting(id: str, side: str, price: int | None, *span_s: float | None) -> StoredOrder:
    """An order that traded nothing, in the book from one second to another or to the end."""
    created_s, closed_s = span_s
    assert created_s is not None
    closed_us = None if closed_s is None else int(closed_s * S_US)
    reason = None if closed_s is None else "unfilled" if price is None else "cancelled"
    ends_us = None if price is None else DAY_US
    return StoredOrder(
        id, "b0", "ABCD3", side, price, 10, 10, reason, int(created_s * S_US), ends_us, closed_us
    )


@pytest.mark.parametrize(
    ("maker", "taker"),
    [
        (resting("m", "ask", 100, 1, None), resting("t", "bid", 100, 3, None)),
        (resting("m", "bid", 100, 1, 9), resting("t", "ask", 99, 3, 8)),
        (resting("m", "ask", 100, 1, None), resting("t", "bid", None, 3, 3)),
        (resting("m", "bid", 100, 1, None), resting("t", "ask", None, 3, 3)),
    ],
)
def test_an_exchange_that_does_not_match_is_found(maker: StoredOrder, taker: StoredOrder) -> None:
    (finding,) = audit.passed_over_findings([taker, maker])
    assert finding == "order t came, met m and was left with a rest"


@pytest.mark.parametrize(
    ("maker", "taker"),
    [
        (resting("m", "ask", 100, 1, None), resting("t", "bid", 99, 3, None)),
        (resting("m", "ask", 100, 1, None), resting("t", "ask", 100, 3, None)),
        (resting("m", "ask", 100, 1, 3), resting("t", "bid", 100, 3, None)),
        (resting("m", "ask", 100, 3, None), resting("t", "bid", None, 1, 1)),
        # Both were there for a moment that transactions may overlap by.
        (resting("m", "ask", 100, 1, 3.9), resting("t", "bid", 100, 3, None)),
        (resting("m", "ask", 100, 1, None), resting("t", "bid", 100, 3, 3.9)),
        (
            resting("m", "ask", 100, 1, None),
            resting("t", "bid", 100, 3, None)._replace(symbol="WXYZ4"),
        ),
        (
            resting("m", "ask", 100, 1, None)._replace(valid_until_us=2 * S_US),
            resting("t", "bid", 100, 3, None),
        ),
        (
            resting("m", "ask", 100, 1, None),
            resting("t", "bid", 100, 3, 3)._replace(close_reason="filled", remaining_quantity=0),
        ),
    ],
)
def test_who_could_not_meet_is_not_passed_over(maker: StoredOrder, taker: StoredOrder) -> None:
    assert audit.passed_over_findings([maker, taker]) == []


LATEST = {"ABCD3": [100, 101]}


@pytest.mark.parametrize(
    "shown", [Price(101, 100, 2), Price(100, 101, 2), Price(100, 100, 1), None]
)
def test_a_wrong_price_is_found(shown: Price | None) -> None:
    assert len(audit.price_findings({"ABCD3": shown}, LATEST)) == 1


def test_a_price_is_that_of_the_latest_trades_or_there_is_none() -> None:
    assert audit.price_findings({"ABCD3": Price(100, 100, 2), "WXYZ4": None}, LATEST) == []
    assert len(audit.price_findings({"WXYZ4": Price(100, 100, 1)}, LATEST)) == 1
