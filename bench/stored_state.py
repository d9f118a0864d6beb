"""The final state as the database holds it, for the audit."""

from typing import NamedTuple

import psycopg

from bench.audit import StoredOrder, StoredTrade

_ORDERS = """
    SELECT id::text, broker_id::text, symbol, side, price, quantity, remaining_quantity,
           close_reason
    FROM orders
"""
_TRADES = """
    SELECT id::text, symbol, price, quantity, maker_order_id::text, taker_order_id::text
    FROM trades
"""
_BALANCES = "SELECT broker_id::text, sum(cash)::text FROM balances GROUP BY broker_id"


# Past its valid_until an order is closed, whether or not its row has been told.
_RESTING = """
    SELECT symbol, max(price) FILTER (WHERE side = 'bid'), min(price) FILTER (WHERE side = 'ask')
    FROM orders
    WHERE close_reason IS NULL AND valid_until > now()
    GROUP BY symbol
"""


class StoredState(NamedTuple):
    """All rows that the audit compares; balances in cents by broker id.

    ``resting`` are the best open bid and ask of each symbol, None where there is none.
    """

    orders: list[StoredOrder]
    trades: list[StoredTrade]
    balances: dict[str, int]
    resting: list[tuple[str, int | None, int | None]]


def read(database_url: str) -> StoredState:
    """Read everything in one snapshot. Raises psycopg.Error."""
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        orders = [StoredOrder(*row) for row in connection.execute(_ORDERS)]
        trades = [
            StoredTrade(id, symbol, price, quantity, frozenset(sides))
            for id, symbol, price, quantity, *sides in connection.execute(_TRADES)
        ]
        balances = {id: int(cash) for id, cash in connection.execute(_BALANCES)}
        resting = [(symbol, bid, ask) for symbol, bid, ask in connection.execute(_RESTING)]
    return StoredState(orders, trades, balances, resting)


def size_mb(database_url: str) -> float:
    """What the database takes on disk, indexes included. Raises psycopg.Error."""
    with psycopg.connect(database_url) as connection:
        [(size,)] = connection.execute("SELECT pg_database_size(current_database())").fetchall()
    return float(size) / 1e6
