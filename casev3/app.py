"""What opens, loads, starts and drains."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.database import Database
from common.giving_up import give_up
from common.ledger import Ledger
from common.loading import (
    load_brokers,
    load_clock,
    load_engine,
    load_ledger,
    load_retries,
)
from common.periodic import every
from common.retries import Retries
from common.sequencer import Sequencer
from common.settings import Settings
from common.wal.opening import open_log, replay
from common.webhooks import Webhooks
from common.writer import Flush, Writer

from .exchange import Exchange

log = logging.getLogger(__name__)

# The book is in the memory of one process.
STATELESS = False
SWEEP_INTERVAL_S = 0.02


@asynccontextmanager
async def open_exchange(settings: Settings, database_url: str) -> AsyncIterator[Exchange]:
    """An exchange that can serve; when the block ends, everything it has acknowledged is stored.

    Raises StartError when the database cannot be used.
    """
    started_s = time.monotonic()
    database = Database(
        database_url, pool_size=settings.pool_size, pool_wait_ms=settings.pool_wait_ms
    )
    webhooks = Webhooks(
        private_allowed=settings.webhook_private, queue_max=settings.webhook_queue_max
    )
    ledger = Ledger(
        closed_age_max_us=settings.closed_age_s * 1_000_000, closed_count_max=settings.closed_max
    )
    writer = Writer(
        database_url,
        flush_interval_s=settings.flush_ms / 1000,
        pending_max=settings.flush_pending_max,
        patience_s=settings.pool_wait_ms / 1000,
    )
    async with (
        database.opened(),
        webhooks.opened(),
        writer.opened(),
        open_log(settings, database, writer) as (wal, records),
    ):
        brokers = await load_brokers(database)
        engine = await load_engine(database)
        await load_ledger(database, ledger, engine)
        retries = Retries(
            window_us=settings.retry_window_s * 1_000_000, count_max=settings.retry_max
        )
        sequencer = Sequencer(await load_clock(database), writer.sequence, wal)
        await load_retries(database, retries, ledger.orders, sequencer.now_us() - retries.window_us)
        exchange = Exchange(
            database=database,
            webhooks=webhooks,
            brokers=brokers,
            sequencer=sequencer,
            engine=engine,
            retries=retries,
            ledger=ledger,
            writer=writer,
        )
        replay(exchange, records)

        def saved(flush: Flush) -> None:
            wal.absorbed(flush.sequence)
            ledger.saved(flush.closed)
            webhooks.enqueue(flush.notices)

        log.info(
            "loaded %d brokers, %d open orders, %d balances in %.3f s; data reaches sequence %d",
            len(brokers.by_id),
            engine.open_count,
            len(ledger.balances),
            time.monotonic() - started_s,
            writer.sequence,
        )
        async with (
            writer.flushing(saved, settings.drain_s, give_up),
            every(SWEEP_INTERVAL_S, exchange.sweep, give_up),
        ):
            yield exchange
