"""The final state as the database holds it, for the audit."""

from typing import NamedTuple

import psycopg

from bench.audit import PRICE_TRADES, StoredOrder, StoredTrade

_ORDERS = """
    SELECT id::text, broker_id::text, symbol, side, price, quantity, remaining_quantity,
           close_reason, (extract(epoch FROM created_at) * 1000000)::bigint,
           (extract(epoch FROM valid_until) * 1000000)::bigint,
           (extract(epoch FROM closed_at) * 1000000)::bigint
    FROM orders
"""
_TRADES = """
    SELECT id::text, symbol, price, quantity, maker_order_id::text, taker_order_id::text
    FROM trades
"""
_LATEST = """
    SELECT symbol, (array_agg(price ORDER BY sequence DESC, id DESC))[:%s]
    FROM trades GROUP BY symbol
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

    ``resting`` are the best open bid and ask of each symbol, None where there is none, and
    ``latest`` the prices of its latest trades, newest first.
    """

    orders: list[StoredOrder]
    trades: list[StoredTrade]
    balances: dict[str, int]
    resting: list[tuple[str, int | None, int | None]]
    latest: dict[str, list[int]]


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
        latest: dict[str, list[int]] = dict(connection.execute(_LATEST, [PRICE_TRADES]).fetchall())
    return StoredState(orders, trades, balances, resting, latest)


def size_mb(database_url: str) -> float:
    """What the database takes on disk, indexes included. Raises psycopg.Error."""
    with psycopg.connect(database_url) as connection:
        [(size,)] = connection.execute("SELECT pg_database_size(current_database())").fetchall()
    return float(size) / 1e6
