"""The way to PostgreSQL: SQLAlchemy builds the statements once, psycopg runs them.

SQLAlchemy Core gives typed tables and checked statements, but compiling and executing through it
costs more per call than the whole matching of an order. So each statement is compiled to SQL text
at import, and this module is the one place from which that text goes to psycopg.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from sqlalchemy import ClauseElement, Engine, create_engine, insert, inspect, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from common.errors import Overloaded, StartError, Unavailable
from common.periodic import every
from common.postgres import connection_error_line
from common.tables import SCHEMA_VERSION, exchange_state, metadata

Parameters = Mapping[str, Any]
Row = tuple[Any, ...]

CONNECT_TIMEOUT_S = 5
RECONNECT_S = 0.5
LOOK_AGAIN_S = 0.25
WAITING_PER_CONNECTION = 64
TRIES = 10
# The lock that keeps apart who must not change the same books; ``common/writer.py`` takes it alone.
WRITER_LOCK = "hashtext('exchange writer')"
_SHARED_LOCK = f"SELECT pg_try_advisory_lock_shared({WRITER_LOCK})".encode()
_P = ParamSpec("_P")
_T = TypeVar("_T")
FIRST_STATE = {
    "only_row": 1,
    "schema_version": SCHEMA_VERSION,
    "flushed_sequence": 0,
    "flush_number": 0,
}
_dialect = make_url("postgresql+psycopg://").get_dialect()()


def compiled(statement: ClauseElement) -> str:
    """The SQL of a statement as psycopg takes it, with ``%(name)s`` for its bound parameters.

    Raises ValueError for a parameter that has its value already: the text would lose it.
    """
    text = statement.compile(dialect=_dialect)
    fixed = {name: value for name, value in (text.params or {}).items() if value is not None}
    if fixed:
        raise ValueError(f"write these as constants of the statement: {fixed}")
    return str(text)


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


class Conflict(Exception):
    """Two transactions stood in each other's way, and PostgreSQL has undone this one."""


class Transaction:
    """One transaction whose statements travel together: ``ask`` is a round trip, ``write`` waits
    for the commit."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection

    async def ask(self, *questions: tuple[str, Parameters]) -> list[list[Row]]:
        """The rows of statements that give rows; all leave before the first answer is read."""
        cursors = [
            await self._connection.execute(query.encode(), parameters)
            for query, parameters in questions
        ]
        return [await cursor.fetchall() for cursor in cursors]

    async def write(self, statements: list[tuple[bytes, Mapping[str, object]]]) -> None:
        """Statements that give no rows; they leave together with the commit."""
        for statement, parameters in statements:
            await self._connection.execute(statement, parameters)


class Database:
    """A bounded pool of connections for reads and for transactions.

    While PostgreSQL is gone every call fails at once, and a look every moment finds it again.
    ``writes`` is for the case that changes the books here: its connections keep out the exchanges
    that believe their memory, and are kept out by them.
    """

    def __init__(
        self, url: str, *, pool_size: int, pool_wait_ms: int, writes: bool = False
    ) -> None:
        self._wait_s = pool_wait_ms / 1000
        self._down = False
        self._retries = 0
        self._pool = AsyncConnectionPool(
            conninfo(url),
            min_size=1,
            max_size=pool_size,
            # As many waiting as a pool of this size can hope to serve; the rest is told at once.
            max_waiting=pool_size * WAITING_PER_CONNECTION,
            timeout=self._wait_s,
            reconnect_timeout=RECONNECT_S,
            reconnect_failed=self._lost,
            configure=_share if writes else None,
            kwargs={"autocommit": True, "prepare_threshold": 0},
            open=False,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """Hold the pool open; all connections are closed afterwards. Raises StartError."""
        try:
            await self._pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
        except PoolTimeout:
            raise StartError(
                "the database gives no connection: see the lines above; an exchange that "
                "matches in memory may hold it"
            ) from None
        try:
            async with every(LOOK_AGAIN_S, self._look_again):
                yield self
        finally:
            await self._pool.close(timeout=CONNECT_TIMEOUT_S)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """A connection in autocommit. Raises Unavailable when there is none, or when it breaks."""
        if self._down:
            raise Unavailable("the database does not answer; retry later")
        try:
            async with self._pool.connection() as connection:
                yield connection
        except TooManyRequests:
            raise Overloaded("too many requests wait for the database; retry later") from None
        except (PoolTimeout, PoolClosed):
            raise Unavailable("no database connection became free in time; retry later") from None
        except (errors.DeadlockDetected, errors.SerializationFailure) as error:
            raise Conflict(str(error)) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable("the database does not answer; retry later") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that is durable when the block has ended. Raises Unavailable, Conflict."""
        async with (
            self.connection() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            yield Transaction(connection)

    async def retried(
        self, action: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """The result of ``action``, done again when it meets a Conflict."""
        for _ in range(TRIES):
            try:
                return await action(*args, **kwargs)
            except Conflict:
                self._retries += 1
        raise Overloaded("too many orders stand in each other's way; retry later")

    async def together(self, *questions: tuple[str, Parameters]) -> list[list[Row]]:
        """The rows of several statements in one round trip, each a transaction of its own."""
        async with self.connection() as connection, connection.pipeline():
            return await Transaction(connection).ask(*questions)

    async def rows(self, query: str, parameters: Parameters | None = None) -> list[Row]:
        """All rows of one statement. Raises Unavailable."""
        async with self.connection() as connection:
            cursor = await connection.execute(query.encode(), parameters)
            return await cursor.fetchall()

    async def row(self, query: str, parameters: Parameters | None = None) -> Row | None:
        """The first row of one statement, None when there is none. Raises Unavailable."""
        rows = await self.rows(query, parameters)
        return rows[0] if rows else None

    async def execute(self, query: str, parameters: Parameters | None = None) -> None:
        """One statement that gives no rows; durable when it returns. Raises Unavailable."""
        async with self.connection() as connection:
            await connection.execute(query.encode(), parameters)

    async def run(self, *statements: str) -> None:
        """Statements without parameters or rows, in one transaction. Raises Unavailable."""
        async with self.connection() as connection, connection.transaction():
            for statement in statements:
                await connection.execute(statement.encode())

    def figures(self) -> dict[str, float]:
        """For /health."""
        statistics = self._pool.get_stats()
        return {
            "pool_size": statistics.get("pool_size", 0),
            "pool_waiting": statistics.get("requests_waiting", 0),
            "pool_wait_ms_total": statistics.get("requests_wait_ms", 0),
            "transaction_retries": self._retries,
        }

    async def _lost(self, _: AsyncConnectionPool) -> None:
        self._down = True

    async def _look_again(self) -> None:
        if self._down:
            with suppress(PoolTimeout, psycopg.Error):
                async with self._pool.connection(timeout=LOOK_AGAIN_S):
                    self._down = False


async def _share(connection: psycopg.AsyncConnection[Row]) -> None:
    """Hold the writer's lock together with others of our kind."""
    cursor = await connection.execute(_SHARED_LOCK)
    row = await cursor.fetchone()
    if not row or not row[0]:
        raise psycopg.OperationalError("an exchange that matches in memory uses this database")
