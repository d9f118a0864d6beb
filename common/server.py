"""Start a case: settings, database, loop, logging, signals. One line and exit 1 if it cannot."""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop
from aiohttp import web

from common.api import OpenExchange, build_app
from common.database import prepare_schema
from common.errors import StartError
from common.postgres import EmbeddedPostgres
from common.settings import Settings, read_settings

# Longer than any request takes; an idle connection is closed at once.
SHUTDOWN_PATIENCE_S = 10.0
KEEP_ALIVE_S = 75.0
BACKLOG = 4096

log = logging.getLogger(__name__)


def main(open_exchange: OpenExchange) -> None:
    """Serve one case until SIGTERM or SIGINT. Must be called from the main thread."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = read_settings()
        with database_of(settings) as database_url:
            prepare_schema(database_url)
            serve(open_exchange, settings, database_url)
    except StartError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def database_of(settings: Settings) -> Iterator[str]:
    """The URL of the database that was named, or of an embedded one that lives as long."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.data_dir / "exchange") as postgres:
        log.info("embedded PostgreSQL %s in %s", postgres.version, settings.data_dir)
        yield postgres.url


def serve(open_exchange: OpenExchange, settings: Settings, database_url: str) -> None:
    """Run the loop until a signal; answer what is in flight, drain, return. Raises StartError."""
    address = f"http://{settings.host}:{settings.port}"
    try:
        web.run_app(
            build_app(open_exchange, settings, database_url),
            host=settings.host,
            port=settings.port,
            loop=uvloop.new_event_loop(),
            print=lambda _: log.info("serving on %s", address),
            access_log=None,
            backlog=BACKLOG,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=SHUTDOWN_PATIENCE_S,
            handle_signals=True,
            handler_cancellation=False,
            reuse_address=True,
            reuse_port=False,
            ssl_context=None,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {settings.port} on {settings.host} is in use: stop what serves there, "
                "or choose another with EXCHANGE_PORT"
            ) from None
        raise StartError(f"cannot serve on {address}: {error.strerror or error}") from None
