"""Start a case: settings, database, loop, logging, signals. One line and exit 1 if it cannot."""

import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop
from aiohttp import web

from common.api import OpenExchange, build_app
from common.database import prepare_schema
from common.errors import StartError
from common.postgres import EmbeddedPostgres
from common.processes import supervise
from common.settings import Settings, read_settings

# Longer than any request takes; an idle connection is closed at once.
SHUTDOWN_PATIENCE_S = 10.0
KEEP_ALIVE_S = 75.0
BACKLOG = 4096

log = logging.getLogger(__name__)


def main(open_exchange: OpenExchange, *, stateless: bool) -> None:
    """Serve one case until SIGTERM or SIGINT. Must be called from the main thread.

    A ``stateless`` case may serve one port from several processes.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = read_settings()
        if settings.processes > 1 and not stateless:
            raise StartError(
                "EXCHANGE_PROCESSES: this case keeps its book in one process; expected 1"
            )
        with database_of(settings) as database_url:
            prepare_schema(database_url)
            if settings.processes > 1:
                serve_from_many(settings, database_url)
            else:
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


def serve_from_many(settings: Settings, database_url: str) -> None:
    """Run as many processes as were asked for on one port. Raises StartError."""
    with socket.socket() as probe:  # once the port is shared, nothing would say that it is taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise cannot_serve(settings, error) from None
    own = {
        "EXCHANGE_DATABASE_URL": database_url,
        "EXCHANGE_PROCESSES": "1",
        "EXCHANGE_SHARE_PORT": "1",
    }
    log.info("starting %d processes", settings.processes)
    if supervise(settings.processes, os.environ | own):
        raise StartError("one of the processes ended by itself; the lines above say why")


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
            reuse_port=settings.share_port,
            ssl_context=None,
        )
    except OSError as error:
        raise cannot_serve(settings, error) from None


def cannot_serve(settings: Settings, error: OSError) -> StartError:
    """Why the port cannot be opened, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"port {settings.port} on {settings.host} is in use: stop what serves there, "
            "or choose another with EXCHANGE_PORT"
        )
    reason = error.strerror or error
    return StartError(f"cannot serve on {settings.host}:{settings.port}: {reason}")
