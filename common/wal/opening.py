"""Opening the log of a case, as the settings ask for it, and doing again what it holds."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

from common.errors import StartError
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
    settings: Settings, exchange_id: UUID, stored_sequence: int
) -> AsyncIterator[tuple[Log, Sequence[Record]]]:
    """The log to write, and the records that the database, which reaches so far, lacks.

    Raises StartError, and has changed no record then.
    """
    if settings.durability == "flush":
        refuse_to_forget(settings.wal_dir, exchange_id, stored_sequence)
        yield NoLog(), ()
        return
    with locked(settings.wal_dir) as directory:
        try:
            records, end = recover(directory, exchange_id.bytes, stored_sequence)
            settle(directory, end)
        except (Damaged, OSError) as error:
            raise unusable(settings.wal_dir, error) from None
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


def refuse_to_forget(path: Path, exchange_id: UUID, stored_sequence: int) -> None:
    """Raise StartError if a log is there that holds more than the database."""
    if not path.is_dir():
        return
    try:
        records, _ = recover(Directory(path), exchange_id.bytes, stored_sequence)
    except Foreign:
        return
    except (Damaged, OSError) as error:
        raise unusable(path, error) from None
    if records:
        raise StartError(
            f"EXCHANGE_WAL_DIR: the log in {path} holds {len(records):,} commands that the "
            "database lacks: start once with EXCHANGE_DURABILITY=wal"
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
