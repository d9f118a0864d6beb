"""What opens, loads, starts and drains."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.database import Database
from common.periodic import every
from common.queries import state
from common.settings import Settings
from common.wal.opening import refuse_to_forget
from common.webhooks import Webhooks

from .exchange import Exchange

log = logging.getLogger(__name__)

# Nothing is kept between two requests, so several processes can serve them.
STATELESS = True
SWEEP_INTERVAL_S = 0.1


@asynccontextmanager
async def open_exchange(settings: Settings, database_url: str) -> AsyncIterator[Exchange]:
    """An exchange that can serve; when the block ends, everything it has acknowledged is stored.

    Raises StartError when the database cannot be used.
    """
    started_s = time.monotonic()
    database = Database(
        database_url, pool_size=settings.pool_size, pool_wait_ms=settings.pool_wait_ms, writes=True
    )
    webhooks = Webhooks(
        private_allowed=settings.webhook_private, queue_max=settings.webhook_queue_max
    )
    async with database.opened(), webhooks.opened():
        # Another case may have used this database, and have been killed.
        await database.commit(
            (state.TAKE_TURNS, {}),
            (state.NUMBER_BEHIND_FLUSHED, {}),
            (state.BEGIN_GENERATION, {}),
        )
        [[sequence]] = await database.rows(state.LAST_SEQUENCE)
        await refuse_to_forget(settings, database, sequence)
        exchange = Exchange(
            database=database, webhooks=webhooks, retry_window_s=settings.retry_window_s
        )
        log.info("opened in %.3f s", time.monotonic() - started_s)
        async with every(SWEEP_INTERVAL_S, exchange.sweep):
            yield exchange
