"""The way to PostgreSQL: SQLAlchemy builds the statements once, ``channel.py`` sends them.

SQLAlchemy Core gives typed tables and checked statements, but compiling and executing through it
costs more per call than the whole matching of an order. So each statement is compiled to SQL text
at import, and each connection prepares it once.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, create_engine, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from common.channel import Channel, Parameters, Question, Row, Statement, statement_of
from common.database_url import connection_error_line
from common.errors import Overloaded, StartError, Unavailable
from common.pool import PLACES, Pool
from common.tables import SCHEMA_VERSION, exchange_state, metadata

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
NETWORK_PATIENCE_S = 30
# Every statement lives in indexes, and keeps its plan whatever the statistics say and however much
# history there is. Left to itself, PostgreSQL reads and hashes small tables as a whole, sorts what
# an index has in order, and plans a statement anew where that looks cheaper than it is.
PLANNING = (
    "plan_cache_mode=force_generic_plan",
    "enable_seqscan=off",
    "enable_bitmapscan=off",
    "enable_hashjoin=off",
    "enable_mergejoin=off",
    "enable_memoize=off",
)
_USER_TIMEOUT_MS = NETWORK_PATIENCE_S * 1000
_KEEPALIVES = {
    "keepalives_idle": NETWORK_PATIENCE_S // 2,
    "keepalives_interval": NETWORK_PATIENCE_S // 6,
    "keepalives_count": 3,
}
# The same for the server's side of a connection.
_NETWORK = (
    f"tcp_user_timeout={_USER_TIMEOUT_MS}",
    *(f"tcp_{name}={value}" for name, value in _KEEPALIVES.items()),
)
TRIES = 10
# The lock that keeps apart who must not change the same books; ``common/writer.py`` takes it alone.
WRITER_LOCK = "hashtext('exchange writer')"
# So many rows at a time of what may be millions.
PART = 20_000
_SHARED_LOCK = statement_of(f"SELECT pg_try_advisory_lock_shared({WRITER_LOCK})")
_P = ParamSpec("_P")
_T = TypeVar("_T")
FIRST_STATE = {
    "only_row": 1,
    "schema_version": SCHEMA_VERSION,
    "generation": 0,
    "flushed_sequence": 0,
    "flush_number": 0,
}


def uuid_of(identifier: int) -> str:
    """An id as a parameter of a statement; in rows it is a UUID."""
    return f"{identifier:032x}"


def prepare_schema(url: str) -> None:
    """Create the tables in an empty database, or see that they are of this version.

    Raises StartError with one line for every way in which the database cannot be used. Warns of one
    whose commits are not durable: what a case promises rests on them.
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
            if transaction.scalar(text("SHOW transaction_read_only")) == "on":
                raise StartError(
                    "the database cannot be written: name one that can in EXCHANGE_DATABASE_URL"
                )
            encoding = transaction.scalar(text("SHOW server_encoding"))
            if encoding != "UTF8":
                raise StartError(
                    f"the database has the encoding {encoding}, which cannot hold every text: "
                    "name one with UTF8 in EXCHANGE_DATABASE_URL"
                )
            _warn_of_lossy_commits(transaction)
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StartError(f"the tables cannot be prepared: {reason}") from None
    finally:
        connection.close()


def _warn_of_lossy_commits(connection: Connection) -> None:
    for setting in ("synchronous_commit", "fsync"):
        if connection.scalar(text(f"SHOW {setting}")) == "off":
            log.warning(
                "%s is off in this database: after a crash of PostgreSQL or a power failure orders "
                "that were acknowledged may be lost, whatever EXCHANGE_DURABILITY says",
                setting,
            )


def _engine(connection: psycopg.Connection[Row]) -> Engine:
    """SQLAlchemy on a connection that is already there."""
    return create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=NullPool)


def conninfo(url: str) -> str:
    """``url`` with what every connection of ours needs: UTF-8, UTC, a name, plans, patience."""
    return make_conninfo(
        url,
        connect_timeout=CONNECT_TIMEOUT_S,
        client_encoding="UTF8",
        # A server may take long to answer; a network that has swallowed it is noticed in time, by
        # both sides: a session that the server believes in keeps its locks.
        tcp_user_timeout=_USER_TIMEOUT_MS,
        **_KEEPALIVES,
        application_name="exchange",
        options=" ".join(f"-c {setting}" for setting in ("timezone=UTC", *_NETWORK, *PLANNING)),
    )


class Conflict(Unavailable):
    """Two transactions stood in each other's way, and PostgreSQL has undone this one."""


# What another request may not meet any more: no connection, or a server that only reads just now.
_NOT_NOW = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)


class Transaction:
    """One transaction whose statements travel together: ``ask`` is a round trip, ``write`` waits
    for the commit."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.ended = False

    async def ask(self, *questions: Question) -> list[list[Row]]:
        """The rows of each statement; all leave before the first answer is read."""
        return await self._channel.ask(*questions)

    async def write(self, *statements: Question) -> None:
        """The last statements; they leave together with the commit."""
        committed = self._channel.finish(*statements)
        self.ended = True
        await committed


class Database:
    """The statements and the transactions of an exchange.

    ``pool_size`` connections in all. The case that ``writes`` here has a quarter of them for single
    statements, so that a read never waits behind orders that wait for a lock, and the rest for
    transactions; with one connection alone they share it. Its connections keep out the exchanges
    that believe their memory, and are kept out by them.
    """

    def __init__(
        self, url: str, *, pool_size: int, pool_wait_ms: int, writes: bool = False
    ) -> None:
        self._conninfo = conninfo(url)
        self._writes = writes
        wait_s = pool_wait_ms / 1000
        for_transactions = pool_size * 3 // 4 if writes else 0
        self._statements = Pool(self._connect, pool_size - for_transactions, wait_s)
        self._transactions = self._statements
        if for_transactions:
            self._transactions = Pool(self._connect, for_transactions, wait_s)
        self._retries = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """Hold the connections; all are closed afterwards. Raises StartError."""
        async with AsyncExitStack() as stack:
            for pool in self._pools():
                await stack.enter_async_context(pool.opened())
            yield self

    async def together(self, *questions: Question) -> list[list[Row]]:
        """What several reads find, in one round trip. Raises Unavailable, Conflict."""
        return await self._ask(self._statements, 1, questions)

    async def commit(self, *questions: Question) -> list[list[Row]]:
        """The rows of statements that change something, once they are committed together.

        They may have to wait for a lock, so no read shares their connection. Raises Unavailable,
        Conflict.
        """
        return await self._ask(self._transactions, PLACES, questions)

    async def _ask(
        self, pool: Pool, places: int, questions: tuple[Question, ...]
    ) -> list[list[Row]]:
        with _our_errors():
            channel = await pool.take(places)
            try:
                return await channel.finish(*questions)
            finally:
                pool.give_back(channel, places)

    async def rows(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """All that one read finds. Raises Unavailable, Conflict."""
        [rows] = await self.together((statement, parameters or {}))
        return rows

    async def parts(
        self, statement: Statement, parameters: Parameters | None = None
    ) -> AsyncGenerator[list[Row], None]:
        """The same, ``PART`` rows at a time: for a read that may find more than should be in memory
        at once, or take long. It has a connection of its own. Raises Unavailable."""
        values = [(parameters or {})[name] for name in statement.parameters]
        with _our_errors():
            connection = await psycopg.AsyncConnection.connect(self._conninfo)
            async with connection, psycopg.AsyncRawServerCursor(connection, "part") as cursor:
                await cursor.execute(statement.text.encode(), values, binary=True)
                while rows := await cursor.fetchmany(PART):
                    yield rows

    async def unhurried(
        self, statement: Statement, parameters: Parameters | None = None
    ) -> list[Row]:
        """All of them at once, for a read of all history whose rows are few."""
        return [row async for rows in self.parts(statement, parameters) for row in rows]

    async def row(self, statement: Statement, parameters: Parameters | None = None) -> Row | None:
        """The first row of one read, None when there is none. Raises Unavailable, Conflict."""
        rows = await self.rows(statement, parameters)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction, committed by its ``write``; without one it has changed nothing.

        Raises Unavailable, Conflict.
        """
        channel = await self._transactions.take(PLACES)
        transaction = Transaction(channel)
        try:
            with _our_errors():
                yield transaction
        finally:
            if not transaction.ended and not channel.closed:
                channel.finish()
            self._transactions.give_back(channel, PLACES)

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

    def figures(self) -> dict[str, float]:
        """For /health."""
        sizes, waiting, waited_ms = zip(*(pool.figures() for pool in self._pools()), strict=True)
        return {
            "pool_size": sum(sizes),
            "pool_waiting": sum(waiting),
            "pool_wait_ms_total": round(sum(waited_ms)),
            "transaction_retries": self._retries,
        }

    def _pools(self) -> list[Pool]:
        apart = self._transactions is not self._statements
        return [self._statements, self._transactions] if apart else [self._statements]

    async def _connect(self) -> Channel:
        channel = await Channel.open(self._conninfo)
        try:
            if self._writes:
                [[[has_lock]]] = await channel.finish((_SHARED_LOCK, {}))
                if not has_lock:
                    raise psycopg.OperationalError(
                        "an exchange that matches in memory uses this database"
                    )
        except BaseException:
            channel.close()
            raise
        return channel


@contextmanager
def _our_errors() -> Iterator[None]:
    """What PostgreSQL says, as what it means for a request."""
    try:
        yield
    except (errors.DeadlockDetected, errors.SerializationFailure) as error:
        raise Conflict("requests stood in each other's way; retry later") from error
    except _NOT_NOW as error:
        raise Unavailable("the database does not answer; retry later") from error
