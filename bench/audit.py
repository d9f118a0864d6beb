"""What must hold after a run, as pure functions: parsed data in, findings out; no finding is good.

A finding is one sentence. ``Held`` orders are what the exchange shows to their owners.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.wire import BookDepth, Level, OrderDetail, Price, TradeDetail

BOOK_DEPTH_MAX = 50
# So many trades are in the price that is read back.
PRICE_TRADES = 50
# Transactions that overlap may be stamped in another order than they take effect in, so an order
# that lay in the book for no longer than this while another was there may not have met it.
OVERLAP_MAX_US = 1_000_000
_CLOSED_REASONS = ("filled", "cancelled", "expired", "unfilled")

Findings = list[str]


class SentOrder(NamedTuple):
    """An order as it was sent; ``broker`` is its number in the run, price None for market."""

    broker: int
    symbol: str
    side: str
    price: int | None
    quantity: int


class Sent(NamedTuple):
    """All that was asked of the exchange: by order id, without an answer, and cancelled by id.

    ``cancels_asked`` are those too whose cancel has no answer or another one, and
    ``valid_until_us`` the ends that limit orders were sent with, by id, as far as they are known.
    """

    acknowledged: Mapping[str, SentOrder]
    uncertain: Sequence[SentOrder]
    cancelled: frozenset[str]
    cancels_asked: frozenset[str]
    valid_until_us: Mapping[str, int]


class Held(NamedTuple):
    """An order that the exchange shows to ``broker``."""

    broker: int
    order: OrderDetail


class StoredOrder(NamedTuple):
    """What a row of the database says of an order; an expired one may not have been told yet.

    Instants are microseconds since 1970.
    """

    id: str
    broker_id: str
    symbol: str
    side: str
    price: int | None
    quantity: int
    remaining_quantity: int
    close_reason: str | None
    created_us: int
    valid_until_us: int | None
    closed_us: int | None

    @property
    def left_us(self) -> float:
        """Until when it could be met."""
        return min(
            math.inf if self.closed_us is None else self.closed_us,
            math.inf if self.valid_until_us is None else self.valid_until_us,
        )


class StoredTrade(NamedTuple):
    """What a row of the database says of a trade."""

    id: str
    symbol: str
    price: int
    quantity: int
    order_ids: frozenset[str]


def order_findings(sent: Sent, held: Sequence[Held]) -> Findings:
    """Every acknowledged order is there once and as it was sent, and nothing else is there."""
    found: Findings = []
    times = Counter(each.order.id for each in held)
    found += [f"order {id} is listed {n} times" for id, n in times.items() if n > 1]
    found += [f"acknowledged order {id} is lost" for id in sent.acknowledged if id not in times]
    uncertain = Counter(sent.uncertain)
    for each in held:
        order = each.order
        shown = SentOrder(each.broker, order.symbol, order.side, order.price, order.quantity)
        expected = sent.acknowledged.get(order.id)
        if expected is None:
            uncertain[shown] -= 1
            if uncertain[shown] < 0:
                found.append(f"order {order.id} was never sent")
        elif shown != expected:
            found.append(f"order {order.id} was sent as {expected} and is {shown}")
        if order.id in sent.cancelled and order.status == "open":
            found.append(f"order {order.id} is open, its cancel was acknowledged")
    return found


def state_findings(held: Sequence[Held]) -> Findings:
    """Shares are conserved in each order, and its status says what has become of it."""
    found: Findings = []
    for _, order in held:
        traded = sum(trade.quantity for trade in order.trades)
        if order.quantity != order.remaining_quantity + traded:
            found.append(
                f"order {order.id}: quantity {order.quantity} is not remaining "
                f"{order.remaining_quantity} + traded {traded}"
            )
        if order.status == "open":
            fits = order.close_reason is None and order.remaining_quantity > 0
            fits = fits and order.order_type == "limit"
        else:
            fits = order.status == "closed" and order.close_reason in _CLOSED_REASONS
            fits = fits and (order.close_reason == "filled") == (order.remaining_quantity == 0)
        if not fits:
            found.append(
                f"order {order.id} ({order.order_type}) is {order.status}, close reason "
                f"{order.close_reason}, remaining {order.remaining_quantity}"
            )
    return found


def trade_findings(held: Sequence[Held], names: Sequence[str], count: int | None) -> Findings:
    """Each trade has one bid and one ask that agree on it, within both limits.

    ``names`` are those of the brokers by number, ``count`` is what the exchange counts itself.
    """
    found: Findings = []
    sides: defaultdict[str, list[tuple[Held, TradeDetail]]] = defaultdict(list)
    for each in held:
        for trade in each.order.trades:
            sides[trade.trade_id].append((each, trade))
    for trade_id, both in sides.items():
        if sorted(each.order.side for each, _ in both) != ["ask", "bid"]:
            found.append(f"trade {trade_id} is not on one bid and one ask but on {len(both)} sides")
            continue
        (one, seen), (other, also_seen) = both
        if (seen.price, seen.quantity, one.order.symbol) != (
            also_seen.price,
            also_seen.quantity,
            other.order.symbol,
        ):
            found.append(f"the two sides of trade {trade_id} do not agree")
        if (seen.counterparty_broker, also_seen.counterparty_broker) != (
            names[other.broker],
            names[one.broker],
        ):
            found.append(f"trade {trade_id} names the wrong counterparty")
        found += [
            f"trade {trade_id} at {trade.price} breaks the limit of order {each.order.id}"
            for each, trade in both
            if not _within_limit(each.order, trade.price)
        ]
    if count is not None and count != len(sides):
        found.append(f"the exchange counts {count} trades, its orders show {len(sides)}")
    return found


def cash_findings(held: Sequence[Held], balances: Sequence[int]) -> Findings:
    """Each balance (cents, by broker number) is what the broker's trades give; the sum is zero."""
    cash = [0] * len(balances)
    for each in held:
        sign = 1 if each.order.side == "ask" else -1
        cash[each.broker] += sign * sum(t.price * t.quantity for t in each.order.trades)
    found = [
        f"broker {broker} has {shown} cents, the trades give {expected}"
        for broker, (shown, expected) in enumerate(zip(balances, cash, strict=True))
        if shown != expected
    ]
    if sum(balances):
        found.append(f"cash does not sum to zero but to {sum(balances)} cents")
    return found


def book_findings(held: Sequence[Held], books: Iterable[BookDepth]) -> Findings:
    """Each book shows exactly the open orders and is not crossed."""
    levels: defaultdict[tuple[str, str], defaultdict[int, list[int]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for _, order in held:
        if order.status == "open" and order.price is not None:
            levels[order.symbol, order.side][order.price].append(order.remaining_quantity)
    found: Findings = []
    for book in books:
        for side, shown in (("bid", book.bids), ("ask", book.asks)):
            best_first = sorted(levels[book.symbol, side].items(), reverse=side == "bid")
            expected = [Level(price, sum(all_), len(all_)) for price, all_ in best_first]
            if shown != expected[:BOOK_DEPTH_MAX]:
                found.append(f"the {side}s of {book.symbol} are not what its open orders give")
        if book.bids and book.asks and book.bids[0].price >= book.asks[0].price:
            found.append(
                f"the book of {book.symbol} is crossed: bid {book.bids[0].price}, "
                f"ask {book.asks[0].price}"
            )
    return found


def crossed_findings(resting: Iterable[tuple[str, int | None, int | None]]) -> Findings:
    """No symbol's best bid (cents, None without one) reaches its best ask."""
    return [
        f"the book of {symbol} is crossed: bid {bid}, ask {ask}"
        for symbol, bid, ask in resting
        if bid is not None and ask is not None and bid >= ask
    ]


def ending_findings(sent: Sent, stored: Iterable[StoredOrder]) -> Findings:
    """Every order has the end that it was sent with, and none was closed without a reason."""
    found: Findings = []
    for row in stored:
        wanted_us = sent.valid_until_us.get(row.id, row.valid_until_us)
        if row.valid_until_us != wanted_us:
            found.append(f"order {row.id} ends at {row.valid_until_us}, was sent with {wanted_us}")
        if row.close_reason == "cancelled" and row.id not in sent.cancels_asked:
            found.append(f"order {row.id} is cancelled, which nobody has asked for")
        if row.close_reason == "unfilled" and row.price is not None:
            found.append(f"order {row.id} has a limit and is closed as unfilled")
        ended = (row.closed_us or 0) >= (row.valid_until_us or math.inf)
        if row.close_reason == "expired" and not ended:
            found.append(f"order {row.id} has expired at {row.closed_us}, before its end")
        if row.close_reason == "filled" and ended:
            found.append(f"order {row.id} was filled at {row.closed_us}, after its end")
    return found


def outlived_findings(
    held: Sequence[Held], stored: Iterable[StoredOrder], read_us: float
) -> Findings:
    """Nothing is shown as open that had ended before it was read, microseconds since 1970."""
    ends_us = {row.id: row.valid_until_us for row in stored}
    return [
        f"order {order.id} is open, its end was at {end_us}"
        for _, order in held
        if order.status == "open"
        and (end_us := ends_us.get(order.id)) is not None
        and end_us <= read_us
    ]


def passed_over_findings(stored: Iterable[StoredOrder]) -> Findings:
    """Nobody was left with a rest while somebody whom he meets lay in the book."""
    of_symbol: defaultdict[str, list[StoredOrder]] = defaultdict(list)
    for row in stored:
        of_symbol[row.symbol].append(row)
    found: Findings = []
    for rows in of_symbol.values():
        # Of one instant market orders first: they can only have met who was there before.
        rows.sort(key=lambda row: (row.created_us, row.price is not None))
        resting: dict[str, list[tuple[int, float, str]]] = {"bid": [], "ask": []}
        for row in rows:
            is_left = row.close_reason != "filled" or row.left_us > row.created_us
            others, here_us = resting["ask" if row.side == "bid" else "bid"], row.created_us
            while others and others[0][1] <= here_us + OVERLAP_MAX_US:
                heapq.heappop(others)
            stays = row.price is None or row.left_us > here_us + OVERLAP_MAX_US
            if is_left and stays and others and _meets(row, others[0][0]):
                found.append(f"order {row.id} came, met {others[0][2]} and was left with a rest")
            if row.price is not None and is_left:
                rank = row.price if row.side == "ask" else -row.price
                heapq.heappush(resting[row.side], (rank, row.left_us, row.id))
    return found


def _meets(taker: StoredOrder, rank: int) -> bool:
    """Whether the best order of the other side is within a taker's limit; see the ranks above."""
    if taker.price is None:
        return True
    return rank <= taker.price if taker.side == "bid" else -rank >= taker.price


def price_findings(
    shown: Mapping[str, Price | None], latest: Mapping[str, Sequence[int]]
) -> Findings:
    """Each price is that of the ``latest`` trades of its symbol, newest first and at most
    ``PRICE_TRADES``; None where there is none."""
    return [
        f"the price of {symbol} is {price}, its latest trades are at {list(latest[symbol][:3])}…"
        if symbol in latest
        else f"the price of {symbol} is {price}, it has no trades"
        for symbol, price in shown.items()
        if price != _price_of(latest.get(symbol, ()))
    ]


def _price_of(latest: Sequence[int]) -> Price | None:
    return Price(latest[0], sum(latest) // len(latest), len(latest)) if latest else None


def stored_order_findings(
    held: Sequence[Held], broker_ids: Sequence[str], stored: Sequence[StoredOrder]
) -> Findings:
    """Memory and database tell the same of every order."""
    rows = {row.id: row for row in stored}
    found = [f"order {id} is twice in the database" for id in _repeated(row.id for row in stored)]
    shown = {each.order.id for each in held}
    found += [f"order {id} is in the database only" for id in rows if id not in shown]
    for broker, order in held:
        row = rows.get(order.id)
        if row is None:
            found.append(f"order {order.id} is not in the database")
            continue
        expected = StoredOrder(
            order.id,
            broker_ids[broker],
            order.symbol,
            order.side,
            order.price,
            order.quantity,
            order.remaining_quantity,
            order.close_reason,
            row.created_us,
            row.valid_until_us,
            row.closed_us,
        )
        # Past its valid_until an order reads as expired, whether or not its row has been told.
        untold = row.close_reason is None and order.close_reason == "expired"
        if row != (expected._replace(close_reason=None) if untold else expected):
            found.append(f"order {order.id} is {expected} and in the database {row}")
    return found


def stored_trade_findings(held: Sequence[Held], stored: Sequence[StoredTrade]) -> Findings:
    """Memory and database tell the same of every trade."""
    orders: defaultdict[str, set[str]] = defaultdict(set)
    terms: dict[str, tuple[str, int, int]] = {}
    for _, order in held:
        for trade in order.trades:
            orders[trade.trade_id].add(order.id)
            terms[trade.trade_id] = (order.symbol, trade.price, trade.quantity)
    shown = {StoredTrade(id, *terms[id], frozenset(ids)) for id, ids in orders.items()}
    rows = set(stored)
    found = [f"trade {id} is twice in the database" for id in _repeated(row.id for row in stored)]
    found += [f"trade {trade.id} is not in the database like this" for trade in shown - rows]
    found += [f"trade {row.id} is in the database only like this" for row in rows - shown]
    return found


def stored_cash_findings(
    balances: Sequence[int], broker_ids: Sequence[str], stored: Mapping[str, int]
) -> Findings:
    """Memory and database tell the same of every broker's cash, in cents."""
    found = [
        f"broker {id} has {shown} cents and in the database {stored.get(id, 0)}"
        for id, shown in zip(broker_ids, balances, strict=True)
        if stored.get(id, 0) != shown
    ]
    known = set(broker_ids)
    return found + [f"balance of unknown broker {id}" for id in stored if id not in known]


def _within_limit(order: OrderDetail, price: int) -> bool:
    if order.price is None:
        return True
    return price <= order.price if order.side == "bid" else price >= order.price


def _repeated(ids: Iterable[str]) -> list[str]:
    return [id for id, times in Counter(ids).items() if times > 1]
