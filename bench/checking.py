"""The audit of a trial: bring together what was sent and what there is, and let it be compared.

Through the API it reads everything back when nothing changes any more, which takes until the last
short-lived order has expired. From the database alone it needs no waiting: one snapshot after the
service has stopped holds all that was acknowledged.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg

from bench import audit, exchange_client, outcomes, stored_state, traffic, wire
from bench.exchange_client import Broker, FinalState, HarnessError, Session
from bench.load import Load
from bench.service import Place
from bench.spec import Started
from bench.traffic import Kind, Market, Tape
from bench.wire import OrderDetail, TradeDetail

FLUSH_PATIENCE_S = 60.0
# Orders must have expired by the clock of the service too, and its sweep may take a moment.
EXPIRY_MARGIN_S = 0.5


@dataclass
class Audit:
    """Findings by check; a check without findings has passed."""

    findings: dict[str, list[str]] = field(default_factory=dict)
    not_done: str | None = None
    trades: int | None = None

    @property
    def passed(self) -> bool:
        return self.not_done is None and not any(self.findings.values())

    def add_stop(self, finding: str | None) -> None:
        """What was wrong with the end of the service, if anything."""
        if finding:
            self.findings["service stops cleanly"] = [finding]

    def faults(self) -> list[str]:
        """One line for each check that failed, with its first finding."""
        lines = [f"audit not done: {self.not_done}"] if self.not_done else []
        return lines + [
            f"{check}: {found[0]} ({len(found)} findings)"
            for check, found in self.findings.items()
            if found
        ]


def sent(
    market: Market, tape: Tape, load: Load, acknowledged: dict[str, audit.SentOrder]
) -> audit.Sent:
    """All that was asked of the exchange: the seed orders, the tape and the staleness probe."""
    outcome, target = load.samples.outcome, tape.target
    all_acknowledged = acknowledged | load.seen.probed.acknowledged
    uncertain = list(load.seen.probed.uncertain)
    # A reply that never came, or that says "internal error", leaves open what has happened.
    lost = np.isin(outcome, (outcomes.RESET, outcomes.TIMEOUT, outcomes.MALFORMED))
    lost |= (outcome >= 500) & (outcome != 503)
    lost &= ~np.isnan(load.samples.sent_s)
    for index in np.flatnonzero(tape.kind == Kind.ORDER).tolist():
        order = sent_order(market, tape, index)
        if load.order_ids[index]:
            all_acknowledged[load.order_ids[index]] = order
        elif lost[index]:
            uncertain.append(order)
    left = (tape.kind == Kind.CANCEL) & ~np.isnan(load.samples.sent_s)
    cancelled, cancels_asked = (
        frozenset(load.order_ids[index] for index in target[cancels].tolist())
        for cancels in (left & (outcome == 204), left)
    )
    ends_us = valid_until_us(tape, load.started)
    return audit.Sent(
        all_acknowledged,
        uncertain,
        cancelled,
        cancels_asked,
        {id: end_us for id, end_us in zip(load.order_ids, ends_us, strict=True) if id and end_us},
    )


def valid_until_us(tape: Tape, started: Started) -> list[int | None]:
    """The end that each order of a tape was sent with, None where it has none."""
    ends_us = wire.whole_microseconds(started.epoch_s + tape.intended_s + tape.life_s)
    return [None if math.isnan(end_us) else int(end_us) for end_us in ends_us.tolist()]


def sent_order(market: Market, tape: Tape, index: int) -> audit.SentOrder:
    """The order at a position of the tape."""
    return audit.SentOrder(
        int(tape.broker[index]),
        market.symbols[tape.symbol[index]],
        traffic.SIDES[tape.side[index]],
        int(tape.price[index]) or None,
        int(tape.quantity[index]),
    )


def last_expiry_s(tape: Tape, started: Started) -> float:
    """When the last short-lived order has expired, in seconds since 1970."""
    short = tape.life_s <= traffic.SHORT_LIFE_MAX_S
    expiries = tape.intended_s[short] + tape.life_s[short]
    return started.epoch_s + (float(expiries.max()) if len(expiries) else 0.0)


async def through_api(
    place: Place, symbols: Sequence[str], brokers: list[Broker], asked: audit.Sent, expired_s: float
) -> Audit:
    """Read the final state when nothing changes any more, and compare, also with the database."""
    checked = Audit()
    try:
        async with Session(place.target) as session:
            await asyncio.sleep(max(0.0, expired_s + EXPIRY_MARGIN_S - time.time()))
            read_us = time.time() * 1e6
            state = await exchange_client.final_state(session, symbols, brokers)
            books = audit.book_findings(state.held, state.books)
            checked.findings = _findings(asked, state, brokers, books)
            checked.trades = len({t.trade_id for held in state.held for t in held.order.trades})
            await exchange_client.until_flushed(session, FLUSH_PATIENCE_S)
        if place.database_url is not None:
            stored = stored_state.read(place.database_url)
            checked.findings |= _stored_findings(state, stored, brokers)
            checked.findings |= _rule_findings(asked, stored)
            outlived = audit.outlived_findings(state.held, stored.orders, read_us)
            checked.findings["orders end in time"] = outlived
    except (HarnessError, psycopg.Error) as error:
        checked.not_done = str(error) or type(error).__name__
    return checked


def in_database(database_url: str, brokers: list[Broker], asked: audit.Sent) -> Audit:
    """Compare with what a stopped service has left in its database."""
    checked = Audit()
    try:
        stored = stored_state.read(database_url)
    except psycopg.Error as error:
        checked.not_done = str(error)
        return checked
    balances = [stored.balances.get(broker.id, 0) for broker in brokers]
    # Instead of its books a database tells the best bid and ask of each symbol.
    state = FinalState(_held(stored, brokers), [], {}, balances, len(stored.trades))
    checked.findings = _findings(asked, state, brokers, audit.crossed_findings(stored.resting))
    checked.findings |= _rule_findings(asked, stored)
    checked.trades = len(stored.trades)
    return checked


def _held(stored: stored_state.StoredState, brokers: list[Broker]) -> list[audit.Held]:
    """The rows of the database as orders with their trades, as the API would show them."""
    number_of = {broker.id: number for number, broker in enumerate(brokers)}
    names = [broker.name for broker in brokers]
    owner = {order.id: number_of[order.broker_id] for order in stored.orders}
    trades: defaultdict[str, list[TradeDetail]] = defaultdict(list)
    for trade in stored.trades:
        ids = tuple(trade.order_ids)
        for id, other in zip(ids, reversed(ids), strict=True):
            detail = TradeDetail(trade.id, trade.price, trade.quantity, names[owner[other]])
            trades[id].append(detail)
    return [
        audit.Held(
            owner[order.id],
            OrderDetail(
                id=order.id,
                side=order.side,
                order_type="limit" if order.price is not None else "market",
                symbol=order.symbol,
                price=order.price,
                quantity=order.quantity,
                remaining_quantity=order.remaining_quantity,
                status="open" if order.close_reason is None else "closed",
                close_reason=order.close_reason,
                trades=trades[order.id],
            ),
        )
        for order in stored.orders
    ]


def _findings(
    asked: audit.Sent, state: FinalState, brokers: list[Broker], books: list[str]
) -> dict[str, list[str]]:
    """By check; ``books`` are those of the books, which API and database show differently."""
    held, names = state.held, [broker.name for broker in brokers]
    return {
        "every acknowledged order once": audit.order_findings(asked, held),
        "shares conserved": audit.state_findings(held),
        "trades two-sided": audit.trade_findings(held, names, state.trade_count),
        "cash sums to zero": audit.cash_findings(held, state.balances),
        "books uncrossed": books,
    }


def _stored_findings(
    state: FinalState, stored: stored_state.StoredState, brokers: list[Broker]
) -> dict[str, list[str]]:
    ids = [broker.id for broker in brokers]
    return {
        "memory = database: orders": audit.stored_order_findings(state.held, ids, stored.orders),
        "memory = database: trades": audit.stored_trade_findings(state.held, stored.trades),
        "memory = database: cash": audit.stored_cash_findings(state.balances, ids, stored.balances),
        "memory = database: prices": audit.price_findings(state.prices, stored.latest),
    }


def _rule_findings(asked: audit.Sent, stored: stored_state.StoredState) -> dict[str, list[str]]:
    return {
        "orders end for a reason": audit.ending_findings(asked, stored.orders),
        "nobody is passed over": audit.passed_over_findings(stored.orders),
    }
