"""Pages of a listing from the database, while what they are chosen from changes."""

import asyncio
from uuid import UUID

import psycopg
import pytest
from conftest import NewDatabase

from common.channel import Parameters, Row, Statement
from common.database import Database, prepare_schema
from common.listing import stored_page
from common.model import LOOKED_AT_MAX, Broker, OrderPage, OrderQuery
from common.queries import accounts
from common.views import page_of

BEFORE_ALL = (1 << 128) - 1
# The oldest order is of another symbol than the others, and lies beyond what one page looks at.
FILL = f"""
    INSERT INTO brokers VALUES (md5('Alice')::uuid, 'Alice', NULL, '\\x01', now());
    INSERT INTO orders
    SELECT lpad(to_hex(n), 32, '0')::uuid, n, md5('Alice')::uuid, '1', 'bid', 'limit',
           CASE n WHEN 1 THEN 'VALE3' ELSE 'PETR4' END, 10, 1, 1, NULL,
           now() + interval '1 day', now(), NULL
    FROM generate_series(1, {LOOKED_AT_MAX + 5}) n;
"""
CLOSE_TEN = """
    UPDATE orders SET close_reason = 'cancelled', closed_at = now()
    WHERE id IN (SELECT id FROM orders WHERE close_reason IS NULL ORDER BY id DESC LIMIT 10)
"""
ONE_MORE = """
    INSERT INTO orders
    SELECT lpad(to_hex(sequence + 1), 32, '0')::uuid, sequence + 1, broker_id, '1', 'bid', 'limit',
           'PETR4', 10, 1, 1, NULL, valid_until, now(), NULL
    FROM orders ORDER BY id DESC LIMIT 1
"""


@pytest.mark.parametrize("change", [CLOSE_TEN, ONE_MORE])
@pytest.mark.parametrize("status", ["open", None])
def test_no_order_is_passed_over_whatever_changes_between_two_statements(
    new_database: NewDatabase, change: str, status: str | None
) -> None:
    url = new_database()
    prepare_schema(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL.encode())
        shown = asyncio.run(listed(url, connection, change, status))
    assert shown == [1]


@pytest.mark.parametrize(("count", "follows"), [(LOOKED_AT_MAX, False), (LOOKED_AT_MAX + 1, True)])
@pytest.mark.parametrize("status", ["open", "closed", None])
def test_a_page_that_has_looked_at_all_names_no_next_one(
    new_database: NewDatabase, status: str | None, count: int, follows: bool
) -> None:
    url = new_database()
    prepare_schema(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL.encode())
        connection.execute("DELETE FROM orders WHERE sequence > %s", [count])
    query = OrderQuery(status, "ABEV3", 5, BEFORE_ALL)  # type: ignore[arg-type]

    async def page() -> OrderPage:
        async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:

            async def ask(
                key_hash: bytes, statement: Statement, parameters: Parameters
            ) -> tuple[Broker, list[Row]]:
                [broker] = await database.rows(accounts.AUTHENTICATE, {"key_hash": key_hash})
                return accounts.broker_of(broker), await database.rows(statement, parameters)

            found, until_id = await stored_page(ask, b"\x01", query)
            return page_of(found, query.limit, until_id)

    assert (asyncio.run(page()).next_cursor is not None) == follows


async def listed(
    url: str, connection: "psycopg.Connection[tuple[object, ...]]", change: str, status: str | None
) -> list[int]:
    """The ids of all pages of VALE3; something changes after each statement."""
    async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:

        async def ask(
            key_hash: bytes, statement: Statement, parameters: Parameters
        ) -> tuple[Broker, list[Row]]:
            [broker], rows = await database.together(
                (accounts.AUTHENTICATE, {"key_hash": key_hash}), (statement, parameters)
            )
            connection.execute(change.encode())
            return accounts.broker_of(broker), rows

        ids, before_id = list[int](), BEFORE_ALL
        while True:
            query = OrderQuery(status, "VALE3", 5, before_id)  # type: ignore[arg-type]
            found, until_id = await stored_page(ask, b"\x01", query)
            page = page_of(found, query.limit, until_id)
            ids += [UUID(order.id).int for order in page.orders]
            if page.next_cursor is None:
                return ids
            before_id = UUID(page.next_cursor).int
