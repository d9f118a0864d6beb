"""Opening the log of a case, as the settings ask for it, and doing again what it holds."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

from common import queries
from common.database import Conflict, Database
from common.errors import StartError, Unavailable
from common.giving_up import give_up
from common.settings import Settings
from common.wal.disk import Directory, locked
from common.wal.format import Record
from common.wal.log import Log, NoLog, WriteAheadLog
from common.wal.recovery import Damaged, Foreign, recover, settle

log = logging.getLogger(__name__)


class Replayable(Protocol):
    """An exchange that matches in memory."""

    def replay(self, record: Record) -> None: ...


@asynccontextmanager
async def open_log(
    settings: Settings, database: Database, stored_sequence: int
) -> AsyncIterator[tuple[Log, Sequence[Record]]]:
    """The log to write, and the records that the database, which reaches so far, lacks.

    The database knows its log by name until all of it is stored, so that no start goes on without.
    Raises StartError, and has changed no record of this exchange then.
    """
    if settings.durability == "flush":
        await refuse_to_forget(settings.wal_dir, database, stored_sequence)
        yield NoLog(), ()
        return
    exchange_id, expected_id = await log_ids(database)
    with locked(settings.wal_dir) as directory:
        try:
            log_id = directory.identify()
            _check_is(settings.wal_dir, log_id, expected_id)
            try:
                records, end = recover(directory, exchange_id.bytes, stored_sequence)
            except Foreign:
                if log_id != expected_id:
                    raise
                # Of before a reset, which was cut short before it came to the log.
                for number in directory.numbers():
                    directory.remove(number)
                records, end = recover(directory, exchange_id.bytes, stored_sequence)
            settle(directory, end)
        except (Damaged, OSError, ValueError) as error:
            raise unusable(settings.wal_dir, error) from None
        await database.commit((queries.NAME_LOG, {"log": log_id.hex}))
        # After a failed sync nobody knows what is on the disk; the next start finds out, and writes
        # it again.
        failed = partial(give_up, "the log cannot be written")
        wal = WriteAheadLog(directory, exchange=exchange_id.bytes, end=end, on_failure=failed)
        async with AsyncExitStack() as running:
            try:
                await running.enter_async_context(wal.opened())
            except OSError as error:
                raise unusable(settings.wal_dir, error) from None
            yield wal, records
        # Everything is stored. If the database does not hear of it, the next start needs this log.
        with suppress(Unavailable, Conflict):
            await database.commit((queries.NAME_LOG, {"log": None}))


async def refuse_to_forget(path: Path, database: Database, stored_sequence: int) -> None:
    """Raise StartError if a log, there or elsewhere, may hold more than the database."""
    exchange_id, expected_id = await log_ids(database)
    directory, records = Directory(path), list[Record]()
    try:
        _check_is(path, directory.log_id(), expected_id)
        with suppress(Foreign):
            records, _ = recover(directory, exchange_id.bytes, stored_sequence)
    except (Damaged, OSError, ValueError) as error:
        raise unusable(path, error) from None
    if records:
        raise StartError(
            f"EXCHANGE_WAL_DIR: the log in {path} holds {len(records):,} commands that the "
            "database lacks: start once with EXCHANGE_DURABILITY=wal"
        )
    if expected_id is not None:
        await database.commit((queries.NAME_LOG, {"log": None}))


async def log_ids(database: Database) -> tuple[UUID, UUID | None]:
    """By which a log knows that it belongs to this database, and the log that this database needs.

    Raises Unavailable.
    """
    [[exchange_id, log_id]] = await database.rows(queries.LOG_IDS)
    return exchange_id, log_id


def _check_is(path: Path, log_id: UUID | None, expected_id: UUID | None) -> None:
    """Raise StartError where the database needs another log."""
    if expected_id not in (None, log_id):
        raise StartError(
            f"EXCHANGE_WAL_DIR: {path} is not the log of this database, which was not stopped in "
            "order: its last orders may be in that log only. Name the directory of the log whose "
            f"file id says {expected_id}. If it is lost, so are they; to go on without them, set "
            "exchange_state.log_id to NULL in the database"
        )


def replay(exchange: Replayable, records: Sequence[Record]) -> None:
    """Do again what was accepted and not yet stored when the last run ended. Raises StartError."""
    for record in records:
        try:
            exchange.replay(record)
        except KeyError:
            raise StartError(
                f"EXCHANGE_WAL_DIR: command {record.sequence} of the log names an order that is "
                "not open: this log and this database do not belong together"
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
    reason = error.strerror if isinstance(error, OSError) else None
    return StartError(f"EXCHANGE_WAL_DIR: the log in {path} cannot be used: {reason or error}")
