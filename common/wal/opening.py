"""Opening the log of a case, as the settings ask for it, and doing again what it holds."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

import psycopg

from common.database import Conflict, Database
from common.errors import ExchangeError, StartError, one_line
from common.giving_up import give_up
from common.queries import state
from common.settings import Settings
from common.wal.disk import Directory, locked
from common.wal.format import Record, read_header
from common.wal.log import NO_ROOM, PASSING, End, Log, NoLog, WriteAheadLog
from common.wal.recovery import Damaged, Foreign, finish_reset, recover, settle
from common.writer import Writer

log = logging.getLogger(__name__)


class Replayable(Protocol):
    """An exchange that matches in memory."""

    def replay(self, record: Record) -> None: ...


@asynccontextmanager
async def open_log(
    settings: Settings, database: Database, writer: Writer
) -> AsyncIterator[tuple[Log, Sequence[Record]]]:
    """The log to write, and the records that the database lacks, as far as the writer has stored.

    The database names the log that it needs until a stop has stored everything, so that no start
    goes on without; then the log is emptied. Raises StartError, and has changed no record then.
    """
    if settings.durability == "flush":
        await refuse_to_forget(settings, database, writer.sequence)
        yield NoLog(), ()
        return
    exchange_id, needed_id = await _ids(database)
    with locked(settings.wal_dir) as directory:
        try:
            records, end = _found(settings, directory, exchange_id, needed_id, writer.sequence)
            settle(directory, end)
            log_id = _name(directory, needed_id)
        except (Damaged, OSError, ValueError) as error:
            raise unusable(settings.wal_dir, error) from None
        await database.commit((state.NEED_LOG, {"log": log_id.hex}))
        # After a failed sync nobody knows what is on the disk; the next start finds out, and writes
        # it again.
        failed = partial(give_up, "the log cannot be written")
        wal = WriteAheadLog(directory, exchange=exchange_id.bytes, end=end, on_failure=failed)
        try:
            async with AsyncExitStack() as running:
                try:
                    await running.enter_async_context(wal.opened())
                except OSError as error:
                    raise unusable(settings.wal_dir, error) from None
                yield wal, records
        finally:
            # A reset has given the log another name, and the commands numbers from 1 on.
            last_id = directory.log_id()
            if last_id and writer.has_stored(end.sequence if last_id == log_id else 0):
                await _no_longer_needed(directory, database, last_id)


async def refuse_to_forget(settings: Settings, database: Database, stored_sequence: int) -> None:
    """Raise StartError if a log, here or elsewhere, may hold what the database lacks."""
    exchange_id, needed_id = await _ids(database)
    directory, records = Directory(settings.wal_dir), list[Record]()
    with ExitStack() as held:
        if needed_id is not None and settings.wal_dir.is_dir():
            # Who still writes it has lost this database, and may not know so yet.
            held.enter_context(locked(settings.wal_dir, shared=True))
        try:
            with suppress(Foreign):
                records, _ = _found(settings, directory, exchange_id, needed_id, stored_sequence)
        except (Damaged, OSError, ValueError) as error:
            raise unusable(settings.wal_dir, error) from None
        if records:
            raise StartError(
                f"EXCHANGE_WAL_DIR: the log in {settings.wal_dir} holds {len(records):,} commands "
                "that the database lacks: start once with EXCHANGE_DURABILITY=wal"
            )
        if needed_id is not None:
            await database.commit((state.NEED_NO_LOG, {"log": needed_id.hex}))


async def _ids(database: Database) -> tuple[UUID, UUID | None]:
    """By which a log knows that it belongs to this database; and the log that this database needs.

    Raises Unavailable.
    """
    [[exchange_id, needed_id]] = await database.rows(state.LOG_IDS)
    return exchange_id, needed_id


def _found(
    settings: Settings,
    directory: Directory,
    exchange_id: UUID,
    needed_id: UUID | None,
    stored_sequence: int,
) -> tuple[list[Record], End]:
    """What the database lacks, and where to go on.

    Raises StartError where it needs another log or none, and as ``recover`` does.
    """
    if finish_reset(directory, needed_id):
        log.info("the log of before a reset, which was not finished, is emptied now")
    log_id = directory.log_id()
    lost = needed_id is not None and str(needed_id) == settings.wal_lost
    if lost and log_id == needed_id:
        raise StartError(
            f"EXCHANGE_WAL_LOST: that log is here, in {directory.path}: unset EXCHANGE_WAL_LOST"
        )
    if lost:
        log.warning("going on without log %s and what only that held", needed_id)
        needed_id = None
    if needed_id not in (None, log_id):
        raise StartError(
            f"EXCHANGE_WAL_DIR: {directory.path} is not the log of this database, which was not "
            "stopped in order: its last orders may be in that log only. Name the directory whose "
            f"file id says {needed_id}. If it is lost, so are they; to go on without them: "
            f"EXCHANGE_WAL_LOST={needed_id}"
        )
    records, end = recover(directory, exchange_id.bytes, stored_sequence)
    if records and needed_id is None:
        raise StartError(
            f"EXCHANGE_WAL_DIR: the log in {directory.path} goes on behind this database, which "
            "lacks nothing by its own account: it is from another history of it. Name an empty "
            "directory"
        )
    return records, end


def _name(directory: Directory, needed_id: UUID | None) -> UUID:
    """The name of a log that is needed stays; else it gets a new one, which no copy of it has.

    Raises OSError; a full disk has at least the old one.
    """
    log_id = directory.log_id()
    if log_id is not None and log_id == needed_id:
        return log_id
    try:
        return directory.rename()
    except OSError as error:
        if error.errno not in PASSING or log_id is None:
            raise
        return log_id


async def _no_longer_needed(directory: Directory, database: Database, log_id: UUID) -> None:
    """Everything is stored: empty the log. If the database does not hear of it, the next start
    needs this directory, nothing more."""
    try:
        for number in directory.numbers():
            # One that was prepared and never begun stays for the next start: the disk may be full.
            if read_header(directory.read(number)) is not None:
                directory.remove(number)
        await database.commit((state.NEED_NO_LOG, {"log": log_id.hex}))
    except (OSError, psycopg.Error, ExchangeError, Conflict) as error:
        log.warning("all is stored, but a start will need %s: %s", directory.path, one_line(error))


def replay(exchange: Replayable, records: Sequence[Record]) -> None:
    """Do again what was accepted and not yet stored when the last run ended. Raises StartError."""
    for record in records:
        try:
            exchange.replay(record)
        except KeyError:
            raise StartError(
                f"EXCHANGE_WAL_DIR: command {record.sequence} of the log names an order or a "
                "broker that is not there: this log and this database do not belong together"
            ) from None
    if records:
        log.info(
            "replayed %d commands of the log, up to sequence %d", len(records), records[-1].sequence
        )


def unusable(path: Path, error: Exception) -> StartError:
    """Why the log cannot be used, and what to do."""
    if isinstance(error, Damaged):
        return StartError(
            f"EXCHANGE_WAL_DIR: the log in {path} cannot be used, {error}. Nothing was changed. "
            f"See it with: python -m common.wal inspect {path}"
        )
    reason = str(error)
    if isinstance(error, OSError):
        advice = ": make room on its disk" if error.errno in NO_ROOM else ""
        reason = f"{error.strerror or error}{advice}"
    return StartError(f"EXCHANGE_WAL_DIR: the log in {path} cannot be used: {reason}")
