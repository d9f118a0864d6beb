"""The way to PostgreSQL: SQLAlchemy builds the statements once, psycopg runs them.

SQLAlchemy Core gives typed tables and checked statements, but compiling and executing through it
costs more per call than the whole matching of an order. So each statement is compiled to SQL text
at import, and this module is the one place from which that text goes to psycopg.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from sqlalchemy import ClauseElement, Engine, create_engine, insert, inspect, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from common.errors import Overloaded, StartError, Unavailable
from common.postgres import connection_error_line
from common.tables import SCHEMA_VERSION, exchange_state, metadata

Parameters = Mapping[str, Any]
Row = tuple[Any, ...]

CONNECT_TIMEOUT_S = 5
FIRST_STATE = {
    "only_row": 1,
    "schema_version": SCHEMA_VERSION,
    "flushed_sequence": 0,
    "flush_number": 0,
}
_dialect = make_url("postgresql+psycopg://").get_dialect()()


def compiled(statement: ClauseElement) -> str:
    """The SQL of a statement as psycopg takes it, with ``%(name)s`` for its bound parameters."""
    return str(statement.compile(dialect=_dialect))


def uuid_of(identifier: int) -> UUID:
    """An id as the database keeps it; ``UUID.int`` leads back."""
    return UUID(int=identifier)


def prepare_schema(url: str) -> None:
    """Create the tables in an empty database, or see that they are of this version.

    Raises StartError with one line for every way in which the database cannot be used.
    """
    try:
        connection = psycopg.connect(conninfo(url))
    except psycopg.Error as error:
        raise StartError(connection_error_line(url, error)) from None
    try:
        with _engine(connection).begin() as transaction:
            # Two services that start at the same time on one empty database: one creates.
            transaction.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('exchange schema'))")
            known = set(inspect(transaction).get_table_names())
            if exchange_state.name not in known:
                taken = sorted(known & set(metadata.tables))
                if taken:
                    raise StartError(
                        f"the database already has a table {taken[0]!r} that is not ours: "
                        "name an empty database in EXCHANGE_DATABASE_URL"
                    )
                metadata.create_all(transaction, checkfirst=False)
                transaction.execute(insert(exchange_state).values(FIRST_STATE))
            version = transaction.scalar(select(exchange_state.c.schema_version))
            if version != SCHEMA_VERSION:
                raise StartError(
                    f"the database has schema version {version}, this program needs "
                    f"{SCHEMA_VERSION}: name another database in EXCHANGE_DATABASE_URL, or run "
                    "the program version that made it"
                )
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StartError(f"the tables cannot be prepared: {reason}") from None
    finally:
        connection.close()


def _engine(connection: psycopg.Connection[Row]) -> Engine:
    """SQLAlchemy on a connection that is already there."""
    return create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=NullPool)


def conninfo(url: str) -> str:
    """``url`` with what every connection of ours needs: UTC, a name, a limit to the waiting."""
    return make_conninfo(
        url,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="exchange",
        options="-c timezone=UTC",
    )


class Database:
    """A bounded pool of connections for reads and for transactions."""

    def __init__(self, url: str, *, pool_size: int, pool_wait_ms: int) -> None:
        self._pool = AsyncConnectionPool(
            conninfo(url),
            min_size=1,
            max_size=pool_size,
            # As many waiting as a pool of this size can hope to serve; the rest is told at once.
            max_waiting=pool_size * 64,
            timeout=pool_wait_ms / 1000,
            kwargs={"autocommit": True, "prepare_threshold": 0},
            open=False,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """Hold the pool open; all connections are closed afterwards."""
        await self._pool.open()
        try:
            yield self
        finally:
            await self._pool.close(timeout=5)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """A connection in autocommit. Raises Unavailable when there is none, or when it breaks."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except TooManyRequests:
            raise Overloaded("too many requests wait for the database; retry later") from None
        except (PoolTimeout, PoolClosed):
            raise Unavailable("no database connection became free in time; retry later") from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable("the database does not answer; retry later") from error

    async def rows(self, query: str, parameters: Parameters | None = None) -> list[Row]:
        """All rows of one statement. Raises Unavailable."""
        async with self.connection() as connection:
            cursor = await connection.execute(query.encode(), parameters)
            return await cursor.fetchall()

    async def row(self, query: str, parameters: Parameters | None = None) -> Row | None:
        """The first row of one statement, None when there is none. Raises Unavailable."""
        rows = await self.rows(query, parameters)
        return rows[0] if rows else None

    async def execute(self, query: str, parameters: Parameters) -> None:
        """One statement that gives no rows; durable when it returns. Raises Unavailable."""
        async with self.connection() as connection:
            await connection.execute(query.encode(), parameters)

    async def run(self, *statements: str) -> None:
        """Statements without parameters or rows, in one transaction. Raises Unavailable."""
        async with self.connection() as connection, connection.transaction():
            for statement in statements:
                await connection.execute(statement.encode())

    def waiting(self) -> int:
        """How many requests wait for a connection."""
        return int(self._pool.get_stats().get("requests_waiting", 0))
