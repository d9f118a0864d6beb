"""The engine against the reference, after every step of random commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis_profile import PROPERTY, STATEFUL
from msgspec.structs import asdict
from reference import ReferenceExchange

from common.book import Book
from common.engine import Engine
from common.expiry import due
from common.matching import close
from common.model import (
    BOOK_DEPTH_MAX,
    BookDepth,
    CloseReason,
    Level,
    NewOrder,
    Order,
    OrderType,
    Side,
    Trade,
)
from common.views import reason_at

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
SYMBOLS = ("ABC", "XYZ")
BROKERS = (1, 2, 3)
ALL = 10**9


def new_order(
    symbol: str, side: Side, price: int | None, quantity: int, end_us: int | None
) -> NewOrder:
    """A limit order, or a market order when there is no price."""
    if price is None:
        return NewOrder("1", side, OrderType.MARKET, symbol, None, quantity, None)
    return NewOrder("1", side, OrderType.LIMIT, symbol, price, quantity, end_us)


def accepted(asked: NewOrder, sequence: int, now_us: int, broker_id: int = 1) -> Order:
    return asked.accepted(
        order_id=sequence << 32, sequence=sequence, broker_id=broker_id, now_us=now_us
    )


def book_of(engine: Engine, symbol: str, depth: int = BOOK_DEPTH_MAX) -> BookDepth:
    book = engine.books.get(symbol, Book())
    return BookDepth(symbol, depth, book.asks.depth(depth), book.bids.depth(depth))


def as_of(order: Order, now_us: int) -> dict[str, object]:
    """How it stands at that instant, though nobody may have noticed yet that it has ended."""
    stands = asdict(order)
    if order.is_open and reason_at(order, now_us) is not None:
        stands |= {"close_reason": CloseReason.EXPIRED, "closed_at_us": order.valid_until_us}
    return stands


def balance_of(trades: list[Trade], broker_id: int) -> int:
    cash = 0
    for trade in trades:
        cash += trade.cash if trade.seller_id == broker_id else 0
        cash -= trade.cash if trade.buyer_id == broker_id else 0
    return cash


symbols = st.sampled_from(SYMBOLS)
brokers = st.sampled_from(BROKERS)
sides = st.sampled_from(Side)
prices = st.none() | st.integers(8, 12)
quantities = st.integers(1, 10)
# Around whole seconds, and sometimes over at once.
spans_us = st.builds(
    lambda second, offset_us: second * SECOND_US + offset_us,
    st.integers(0, 4),
    st.sampled_from([-1, 0, 1, 500_000]),
)
pauses_us = st.sampled_from([0, 1, 999_999, SECOND_US, 1_500_000, 3 * SECOND_US])


class EngineAgainstReference(RuleBasedStateMachine):
    """Two exchanges get the same commands and must always look the same."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()
        self.reference = ReferenceExchange()
        self.orders: dict[int, Order] = {}
        self.trades: list[Trade] = []
        self.now_us = START_US
        self.sequence = 0
        # Whose books have noticed by now what has ended.
        self.looked_at: Sequence[str] = SYMBOLS

    @rule(
        symbol=symbols,
        broker_id=brokers,
        side=sides,
        price=prices,
        quantity=quantities,
        span_us=spans_us,
    )
    def submit(
        self,
        *,
        symbol: str,
        broker_id: int,
        side: Side,
        price: int | None,
        quantity: int,
        span_us: int,
    ) -> None:
        asked = new_order(symbol, side, price, quantity, self.now_us + span_us)
        self.sequence += 1
        order = accepted(asked, self.sequence, self.now_us, broker_id)
        self.orders[order.id] = order
        self.engine.expire(symbol, self.now_us)
        self.looked_at = [symbol]
        trades, makers = self.engine.submit(order)
        self.trades.extend(trades)
        assert [maker.id for maker in makers] == [trade.maker_order_id for trade in trades]
        assert list(trades) == self.reference.submit(
            asked,
            order_id=order.id,
            sequence=order.sequence,
            broker_id=broker_id,
            now_us=self.now_us,
        )

    @rule(choice=st.integers(0, 1000))
    def cancel(self, choice: int) -> None:
        """As an exchange does: what has ended or is closed already stays as it is."""
        resting = sorted(self.engine.resting(), key=lambda order: order.id)
        # Mostly an open order, now and then one that may be closed.
        orders = resting if resting and choice % 4 else list(self.orders.values())
        if not orders:
            return
        order = orders[choice % len(orders)]
        self.engine.expire(order.symbol, self.now_us)
        self.looked_at = [order.symbol]
        if order.is_open:
            self.engine.cancel(order, self.now_us)
        self.reference.cancel(order.id, self.now_us)

    @rule(pause_us=pauses_us)
    def expire(self, pause_us: int) -> None:
        self.now_us += pause_us
        self.reference.expire(self.now_us)
        self.looked_at = []

    @rule(at_least=st.sampled_from([1, 2, ALL]))
    def sweep(self, at_least: int) -> None:
        late = [order for order in self.engine.resting() if reason_at(order, self.now_us)]
        ended = self.engine.sweep(self.now_us, at_least)
        # One that looks at what ends later in this second only leaves the other book to the next.
        ended = ended or self.engine.sweep(self.now_us, at_least)
        assert bool(ended) == bool(late)
        assert at_least < ALL or len(ended) == len(late)
        for symbol in SYMBOLS:
            of_symbol = [order for order in late if order.symbol == symbol]
            of_symbol.sort(key=lambda order: (due(order), order.sequence))
            assert [order for order in ended if order.symbol == symbol] in ([], of_symbol)
        self.looked_at = SYMBOLS if at_least == ALL else []

    @invariant()
    def the_engine_is_sound(self) -> None:
        self.engine.check()

    @invariant()
    def orders_are_equal(self) -> None:
        assert self.orders.keys() == self.reference.orders.keys()
        for order in self.orders.values():
            assert as_of(order, self.now_us) == asdict(self.reference.orders[order.id])
        resting = [order for order in self.engine.resting() if not reason_at(order, self.now_us)]
        assert {order.id for order in resting} == {order.id for order in self.reference.resting}

    @invariant()
    def books_are_equal(self) -> None:
        for symbol in self.looked_at:
            for depth in (1, BOOK_DEPTH_MAX):
                assert book_of(self.engine, symbol, depth) == self.reference.book(symbol, depth)
            for side in Side:
                book = self.engine.books.get(symbol, Book())
                resting = (book.bids if side is Side.BID else book.asks).orders()
                expected = [order.id for order in self.reference.side(symbol, side)]
                assert [order.id for order in resting] == expected

    @invariant()
    def trades_and_balances_are_equal(self) -> None:
        assert self.trades == self.reference.trades
        assert len({trade.id for trade in self.trades}) == len(self.trades)
        balances = [balance_of(self.trades, broker_id) for broker_id in BROKERS]
        assert balances == [self.reference.balance(broker_id) for broker_id in BROKERS]
        assert sum(balances) == 0

    @invariant()
    def nothing_is_created_or_destroyed(self) -> None:
        for order in self.orders.values():
            traded = sum(trade.quantity for trade in order.trades)
            assert order.quantity == order.remaining_quantity + traded


TestEngineAgainstReference = EngineAgainstReference.TestCase
TestEngineAgainstReference.settings = STATEFUL


# ---- determinism ----


@dataclass(frozen=True)
class Command:
    """A new order, or the cancel of an earlier one, some time after the command before."""

    pause_us: int
    asked: tuple[str, Side, int | None, int, int] | None
    cancelled: int


commands = st.builds(
    Command,
    pauses_us,
    st.none() | st.tuples(symbols, sides, prices, quantities, spans_us),
    st.integers(0, 1000),
)


def replay(commands: list[Command], looks: list[int]) -> tuple[object, ...]:
    """All that can be seen at the end, when somebody also looks at odd moments in between."""
    engine, orders, trades, now_us = Engine(), list[Order](), list[Trade](), START_US
    for number, command in enumerate(commands):
        for look_us in looks[number::7]:
            # Any instant between this command and the next; the past too.
            until_us = now_us + min(look_us, command.pause_us)
            if look_us % 3:
                engine.expire(SYMBOLS[look_us % 2], until_us)
            else:
                engine.sweep(until_us, 1 if look_us % 2 else ALL)
            engine.check()
        now_us += command.pause_us
        if command.asked is not None:
            *what, span_us = command.asked
            asked = new_order(*what, end_us=now_us + span_us)  # type: ignore[arg-type, misc]
            orders.append(accepted(asked, len(orders) + 1, now_us, len(orders) % 3))
            engine.expire(asked.symbol, now_us)
            trades.extend(engine.submit(orders[-1]).trades)
        elif orders:
            order = orders[command.cancelled % len(orders)]
            engine.expire(order.symbol, now_us)
            if order.is_open:
                engine.cancel(order, now_us)
    engine.sweep(now_us, ALL)
    engine.check()
    books = [book_of(engine, symbol) for symbol in SYMBOLS]
    return trades, [asdict(order) for order in orders], books, engine.open_count


@PROPERTY
@given(st.lists(commands, max_size=40), st.lists(st.integers(-SECOND_US, 4 * SECOND_US)))
def test_the_same_commands_give_the_same_exchange_whenever_somebody_looks(
    commands: list[Command], looks: list[int]
) -> None:
    assert replay(commands, looks) == replay(commands, [])


# ---- examples ----


def resting(engine: Engine, sequence: int = 1, side: Side = Side.BID, price: int = 10) -> Order:
    asked = new_order("ABC", side, price, 5, START_US + 10 * SECOND_US)
    order = accepted(asked, sequence, START_US)
    engine.submit(order)
    return order


def test_an_order_whose_own_end_has_come_trades_no_more() -> None:
    engine = Engine()
    resting(engine, side=Side.ASK)
    late = accepted(new_order("ABC", Side.BID, 10, 5, START_US), 2, START_US)
    assert engine.submit(late) == ([], [])
    assert (late.close_reason, late.closed_at_us) == (CloseReason.EXPIRED, START_US)
    engine.check()


@pytest.mark.parametrize("late_us", [0, 1, 10 * SECOND_US])
def test_an_order_expires_at_its_end_no_matter_when_that_is_noticed(late_us: int) -> None:
    engine = Engine()
    order = resting(engine)
    assert list(engine.expire("ABC", START_US + 10 * SECOND_US + late_us)) == [order]
    assert order.closed_at_us == START_US + 10 * SECOND_US
    assert order.close_reason is CloseReason.EXPIRED


def test_a_book_without_orders_is_dropped() -> None:
    engine = Engine()
    engine.cancel(resting(engine), START_US)
    assert not engine.books
    assert not engine.open_count


def test_a_filled_order_does_not_expire() -> None:
    engine = Engine()
    maker, taker = resting(engine), resting(engine, 2, Side.ASK)
    assert list(engine.expire("ABC", START_US + 60 * SECOND_US)) == []
    assert {maker.close_reason, taker.close_reason} == {CloseReason.FILLED}


def test_a_sweep_looks_at_some_orders_at_a_time_also_while_they_have_not_ended_yet() -> None:
    engine, end_us = Engine(), START_US + SECOND_US + 500_000
    for sequence in range(1, 21):
        asked = new_order(f"S{sequence % 5}", Side.BID, 10, 1, end_us)
        engine.submit(accepted(asked, sequence, START_US))
    for untouched in (3, 1, 0, 0):
        assert engine.sweep(START_US + SECOND_US, 5) == []
        buckets = [near[0][2] for near in engine._expiry.near.values()]
        assert sum(isinstance(each, dict) for each in buckets) == untouched
    assert [len(engine.sweep(end_us, 5)) for _ in range(4)] == [8, 8, 4, 0]


def test_a_closed_order_does_not_wait_for_its_end() -> None:
    engine = Engine()
    engine.cancel(resting(engine), START_US)
    resting(engine, 2)
    resting(engine, 3, Side.ASK)
    assert not engine._expiry._far


def test_an_order_that_rests_again_keeps_what_it_had() -> None:
    before = Engine()
    first, second = resting(before, 1), resting(before, 2)
    before.submit(accepted(new_order("ABC", Side.ASK, 10, 2, None), 3, START_US))
    after = Engine()
    for order in (first, second):
        after.rest(order)
    after.check()
    assert book_of(after, "ABC") == book_of(before, "ABC")
    assert book_of(after, "ABC").bids == [Level(10, 8, 2)]
    assert list(after.expire("ABC", START_US + 10 * SECOND_US)) == [first, second]


def test_a_cleared_engine_knows_no_order() -> None:
    engine = Engine()
    resting(engine)
    engine.clear()
    engine.check()
    assert not engine.books
    assert list(engine.expire("ABC", START_US + 60 * SECOND_US)) == []


# ---- every invariant, corrupted on its own ----


def keep_an_empty_book(engine: Engine) -> None:
    engine.books["XYZ"] = Book()


def file_a_book_under_another_symbol(engine: Engine) -> None:
    engine.books["XYZ"] = engine.books.pop("ABC")


def miscount_the_open_orders(engine: Engine) -> None:
    engine.open_count += 1


def close_an_order_that_rests(engine: Engine) -> None:
    close(next(engine.resting()), CloseReason.CANCELLED, START_US)


def let_an_order_rest_twice(engine: Engine) -> None:
    engine.rest(next(engine.resting()))


def damage_a_book(engine: Engine) -> None:
    engine.books["ABC"].bids.levels[-10].total_quantity += 1


CORRUPTIONS = [
    keep_an_empty_book,
    file_a_book_under_another_symbol,
    miscount_the_open_orders,
    close_an_order_that_rests,
    let_an_order_rest_twice,
    damage_a_book,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_check_finds_a_corruption(corrupt: Callable[[Engine], None]) -> None:
    engine = Engine()
    resting(engine)
    engine.check()
    corrupt(engine)
    with pytest.raises(AssertionError):
        engine.check()
