"""PostgreSQL does what the README of the case that lives in it says: each statement in its index.

The plans are those that the connections of the exchange use. A connection keeps the plan that it
made first, so it must be the right one whatever the planner knew then: on empty tables, on full
ones with and without statistics, and where statistics say that there are few orders, that none is
open or that nothing has been traded.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import NewDatabase

from common.channel import Statement
from common.database import conninfo, prepare_schema
from common.model import Side
from common.queries import accounts, market_data, matching, own_orders, writing

README = Path(__file__).resolve().parents[1] / "casev1" / "README.md"
STATEMENTS: dict[str, Statement] = {
    "AUTHENTICATE": accounts.AUTHENTICATE,
    "EARLIER_ORDER": matching.EARLIER_ORDER,
    "ACCEPT": matching.ACCEPT,
    "MAKERS of a bid": matching.MAKERS[Side.BID],
    "MAKERS of an ask": matching.MAKERS[Side.ASK],
    "UPDATE_ORDER": writing.UPDATE_ORDER,
    "UPDATE_ORDERS": writing.UPDATE_ORDERS,
    "CANCEL": matching.CANCEL,
    "CLOSE_ENDED": matching.CLOSE_ENDED,
    "ORDER_OWNER": own_orders.ORDER_OWNER,
    "ORDER_DETAIL": own_orders.ORDER_DETAIL,
    "OWN_ORDERS": own_orders.OWN_ORDERS[None],
    "OWN_ORDERS of what is closed": own_orders.OWN_ORDERS["closed"],
    "OWN_ORDERS of what is open": own_orders.OWN_ORDERS["open"],
    "PAGE_END": own_orders.PAGE_END[None],
    "PAGE_END of what is open": own_orders.PAGE_END["open"],
    "PRICE": market_data.PRICE,
    "BOOK": market_data.BOOK,
    "BALANCE": accounts.BALANCE,
}
# 90 % of the orders are closed; brokers, symbols and prices are spread over them.
BROKERS_AND_ORDERS = """
    INSERT INTO brokers
    SELECT md5('broker' || n)::uuid, 'broker', NULL, decode(md5('key' || n), 'hex'), now()
    FROM generate_series(0, 99) n;
    INSERT INTO orders
    SELECT md5('order' || n)::uuid, n, md5('broker' || n % 100)::uuid, '1',
           CASE n % 2 WHEN 0 THEN 'bid' ELSE 'ask' END, 'limit', 'S' || n % 45,
           CASE n % 2 WHEN 0 THEN 1000 - n % 50 ELSE 1050 + n % 50 END, 100,
           CASE n % 10 WHEN 0 THEN 100 ELSE 0 END, CASE WHEN n % 10 > 0 THEN 'filled' END,
           now() + interval '1 day', now(), CASE WHEN n % 10 > 0 THEN now() END
    FROM generate_series(1, 20000) n;
"""
FILL = f"""
    {BROKERS_AND_ORDERS}
    INSERT INTO trades
    SELECT md5('trade' || n)::uuid, n, 'S' || n % 45, 1000, 100, 'bid',
           md5('order' || n)::uuid, md5('order' || n + 1)::uuid,
           md5('broker' || n % 100)::uuid, md5('broker' || (n + 1) % 100)::uuid, now()
    FROM generate_series(1, 20000) n;
    INSERT INTO balances
    SELECT md5('broker' || b)::uuid, 'S' || s, 1
    FROM generate_series(0, 99) b, generate_series(0, 44) s;
    INSERT INTO client_orders
    SELECT md5('broker' || n % 100)::uuid, 'own' || n, md5('order' || n)::uuid, now()
    FROM generate_series(1, 20000) n;
"""
CLOSE_ALL = """
    UPDATE orders SET close_reason = 'cancelled', closed_at = now() WHERE close_reason IS NULL;
"""
STATES = {
    "empty": "",
    "vacuumed with forty orders": f"{BROKERS_AND_ORDERS.replace('20000', '40')} VACUUM (ANALYZE);",
    "vacuumed before the first trade": f"{BROKERS_AND_ORDERS} VACUUM (ANALYZE);",
    "full, without statistics": FILL,
    "full": f"{FILL} ANALYZE;",
    "all orders closed": f"{FILL} {CLOSE_ALL} ANALYZE;",
}


@pytest.fixture(scope="module", params=STATES)
def connection(
    request: pytest.FixtureRequest, new_database: NewDatabase
) -> Iterator[psycopg.Connection[Any]]:
    """On tables in one of the states, with the settings of the exchange."""
    url = new_database()
    prepare_schema(url)
    with psycopg.connect(conninfo(url), autocommit=True) as open_connection:
        open_connection.execute("ALTER TABLE orders SET (autovacuum_enabled = off)")
        for statement in filter(str.strip, STATES[request.param].split(";")):
            open_connection.execute(statement.encode())
        yield open_connection


def described() -> dict[str, tuple[str, ...]]:
    """The table of the README: the indexes of each statement."""
    rows = re.findall(r"^\| `([A-Z_]+)`([^|]*)\| ([^|]*) \|", README.read_text(), re.MULTILINE)
    return {
        f"{name}{which.rstrip()}": tuple(re.findall("`([a-z_]+)`", indexes))
        for name, which, indexes in rows
    }


def plan_of(connection: psycopg.Connection[Any], statement: Statement) -> str:
    explain = f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {statement.text}"
    return "\n".join(line for (line,) in connection.execute(explain.encode()))


def test_the_readme_describes_these_statements() -> None:
    assert list(described()) == list(STATEMENTS)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_lives_in_the_indexes_that_the_readme_names(
    connection: psycopg.Connection[Any], name: str
) -> None:
    plan = plan_of(connection, STATEMENTS[name])
    used = re.findall(r"(?:using|Index Scan on) ([a-z_]+)", plan)
    assert set(used) == set(described()[name]), plan
    assert "Seq Scan" not in plan, plan
    if STATEMENTS[name].name:
        # What keeps its plan looks in each index for something, however small the index was.
        assert plan.count("Index Cond") == len(used), plan


def test_asks_come_out_of_the_index_in_priority(connection: psycopg.Connection[Any]) -> None:
    assert "Sort" not in plan_of(connection, matching.MAKERS[Side.BID])


def test_of_bids_only_those_of_one_price_are_sorted(connection: psycopg.Connection[Any]) -> None:
    plan = plan_of(connection, matching.MAKERS[Side.ASK])
    assert "Presorted Key: orders.price" in plan
    assert plan.count("Sort Key") == 1


@pytest.mark.parametrize("statement", [market_data.BOOK, market_data.PRICE])
def test_what_is_shown_first_is_read_first(
    connection: psycopg.Connection[Any], statement: Statement
) -> None:
    assert "Sort" not in plan_of(connection, statement)
