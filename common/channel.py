"""One connection to PostgreSQL on which nothing waits: statements leave at once, answers come in
the order of the questions.

This is libpq's pipeline mode, used through ``psycopg.pq``. psycopg's own ``execute`` costs several
times as much for each statement: a cursor, an adaptation of types, and a wait of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler

Parameters = Mapping[str, Any]
Row = tuple[Any, ...]

_BINARY = Format.BINARY
_LAST_WORDS = (b"FATAL", b"PANIC")
_LOOK_S = 1.0
_dialect: Dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with ``$1``, ``$2``, …, the names of these parameters, and its name on a connection.

    Without a name it is planned anew each time.
    """

    text: str
    parameters: tuple[str, ...]
    name: bytes

    def __str__(self) -> str:
        return self.text


# Each connection prepares all of these when it opens, so none is parsed while it serves.
_statements: list[Statement] = []


def compiled(statement: ClauseElement, *, planned_anew: bool = False) -> Statement:
    """A statement that every connection from now on has prepared, unless it is planned anew.

    Raises ValueError for a parameter that has its value already: the text would lose it.
    """
    text = statement.compile(dialect=_dialect)
    assert isinstance(text, SQLCompiler)
    fixed = {name: value for name, value in (text.params or {}).items() if value is not None}
    if fixed:
        raise ValueError(f"write these as constants of the statement: {fixed}")
    parameters = text.positiontup or ()
    if planned_anew:
        return Statement(str(text), tuple(parameters), b"")
    return statement_of(str(text), *parameters)


def statement_of(text: str, *parameters: str) -> Statement:
    """The same for SQL that is text already."""
    made = Statement(text, parameters, b"s%d" % len(_statements))
    _statements.append(made)
    return made


Question = tuple[Statement, Parameters]
Answer = asyncio.Future[list[list[Row]]]


class Channel:
    """A connection in pipeline mode. ``ask`` opens a transaction or goes on with it, ``finish``
    ends it: what is sent between two ends is one transaction, and an error undoes all of it.

    All waiting ends with an error of psycopg when the connection breaks.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Row]):
        self._connection = connection
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._asked: deque[_Asked] = deque()
        self._writing = False
        self.closed: psycopg.Error | None = None
        # How many places are taken; the pool counts here.
        self.held = 0

    @classmethod
    async def open(cls, conninfo: str) -> "Channel":
        """Connect and prepare all statements. Raises psycopg.Error."""
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        connection.pgconn.enter_pipeline_mode()
        channel = cls(connection)
        channel._loop.add_reader(channel._socket, channel._read)
        channel._look()
        try:
            await channel._prepare(_statements)
        except BaseException:
            channel.close()
            raise
        return channel

    def waits_s(self) -> float:
        """How long the oldest question has waited for its answer."""
        return time.monotonic() - self._asked[0].asked_s if self._asked else 0.0

    def ask(self, *questions: Question) -> Answer:
        """The rows of each statement, in a transaction that stays open."""
        return self._send(questions, ends=False)

    def finish(self, *questions: Question) -> Answer:
        """The rows of each statement, once the transaction is committed."""
        return self._send(questions, ends=True)

    def close(self) -> None:
        """Drop the connection; what is under way fails."""
        self._fail(errors.OperationalError("the connection was closed"))

    def _prepare(self, statements: Sequence[Statement]) -> Answer:
        for statement in statements:
            self._pgconn.send_prepare(statement.name, statement.text.encode())
        return self._await(len(statements), ends=True)

    def _send(self, questions: Sequence[Question], *, ends: bool) -> Answer:
        if self.closed is not None:
            raise self.closed
        # First all the texts, so that no error of ours leaves half of them on the way.
        asked = [
            (statement, [_text(parameters[name]) for name in statement.parameters])
            for statement, parameters in questions
        ]
        try:
            for statement, values in asked:
                if statement.name:
                    self._pgconn.send_query_prepared(statement.name, values, result_format=_BINARY)
                else:
                    text = statement.text.encode()
                    self._pgconn.send_query_params(text, values, result_format=_BINARY)
            return self._await(len(asked), ends=ends)
        except psycopg.Error as error:
            self._fail(error)
            raise

    def _await(self, results: int, *, ends: bool) -> Answer:
        if ends:
            self._pgconn.pipeline_sync()
        else:
            self._pgconn.send_flush_request()
        asked = _Asked(self._loop.create_future(), results, ends)
        self._asked.append(asked)
        self._write()
        return asked.future

    def _write(self) -> None:
        """Send what the kernel takes now, the rest when it takes more."""
        try:
            left = self._pgconn.flush()
        except psycopg.Error as error:
            self._fail(error)
            return
        if left and not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._write)
        elif self._writing and not left:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        """Take all the results that have come."""
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            separated = True  # a statement's result is followed by None
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is not None:
                    self._take(result)
                    separated = False
                elif separated:
                    break
                else:
                    separated = True
            # libpq may have closed the socket while it read. Whoever connects next gets its
            # number, so our reader must be gone by then.
            if pgconn.status != ConnStatus.OK:
                self._fail(errors.OperationalError("the connection was lost"))
        except psycopg.Error as error:
            self._fail(error)

    def _look(self) -> None:
        """See that who waits is not waiting for a lost connection.

        Where the other side has left unread what we sent, the end of a connection comes as an error
        of the socket. For that uvloop calls the reader once, and never again.
        """
        if self.closed is None:
            if self._asked:
                self._read()
            self._loop.call_later(_LOOK_S, self._look)

    def _take(self, result: PGresult) -> None:
        if not self._asked:
            raise errors.OperationalError("PostgreSQL sent what nobody has asked for")
        asked, status = self._asked[0], result.status
        if status == ExecStatus.PIPELINE_SYNC:
            self._done()
            return
        if status == ExecStatus.TUPLES_OK:
            self._transformer.set_pgresult(result)
            asked.rows.append(self._transformer.load_rows(0, result.ntuples, tuple))
        elif status == ExecStatus.FATAL_ERROR:
            asked.error = errors.error_from_result(result)
            # After this the server hangs up, of which uvloop may not tell us; see _look.
            if result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in _LAST_WORDS:
                raise asked.error
        elif status == ExecStatus.COMMAND_OK:
            asked.rows.append([])
        asked.results -= 1
        if not asked.results and not asked.ends:
            self._done()

    def _done(self) -> None:
        asked = self._asked.popleft()
        if asked.future.done():
            return  # nobody waits any more
        if asked.error is not None:
            _set_error(asked.future, asked.error)
        else:
            asked.future.set_result(asked.rows)

    def _fail(self, error: psycopg.Error) -> None:
        if self.closed is not None:
            return
        self.closed = error
        self._loop.remove_reader(self._socket)
        if self._writing:
            self._loop.remove_writer(self._socket)
        self._pgconn.finish()
        while self._asked:
            asked = self._asked.popleft()
            if not asked.future.done():
                _set_error(asked.future, error)


def _set_error(future: asyncio.Future[Any], error: Exception) -> None:
    """Whoever waits gets the error; that nobody waits is no error of its own."""
    future.set_exception(error)
    future.exception()


class _Asked:
    """Statements that left together, and what has come back of them."""

    __slots__ = ("asked_s", "ends", "error", "future", "results", "rows")

    def __init__(self, future: Answer, results: int, ends: bool):
        self.future = future
        self.results = results
        self.ends = ends
        self.rows: list[list[Row]] = []
        self.error: psycopg.Error | None = None
        self.asked_s = time.monotonic()


def _text(value: object) -> bytes | None:
    """A parameter as PostgreSQL reads it in text."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    if isinstance(value, UUID):
        return value.hex.encode()
    if isinstance(value, datetime):
        return value.isoformat().encode()
    raise TypeError(f"no way to send a {type(value).__name__}")
