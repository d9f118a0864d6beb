"""Start a case: settings, database, loop, logging, signals. One line and exit 1 if it cannot."""

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import uvloop
from aiohttp import web

from common.api import Api
from common.connection import LOOK_AT_CLIENTS_S
from common.database import prepare_schema
from common.errors import ExchangeError, StartError
from common.exchange import Exchange
from common.garbage import Collector
from common.listening import FLAGS, TYPE, Listener, opened
from common.periodic import every
from common.postgres import EmbeddedPostgres
from common.processes import supervise
from common.settings import Settings, read_settings

OpenExchange = Callable[[Settings, str], AbstractAsyncContextManager[Exchange]]

# Longer than any request takes, its body included.
SHUTDOWN_PATIENCE_S = 10.0
# For the last replies to leave.
CLOSE_PATIENCE_S = 2.0
# Open besides connections: the database's, the log's, the program's own.
FILES_BESIDE = 500
LOOK_AGAIN_S = 1.0

log = logging.getLogger(__name__)


def main(open_exchange: OpenExchange, *, stateless: bool) -> None:
    """Serve one case until SIGTERM or SIGINT. Must be called from the main thread.

    A ``stateless`` case may serve one port from several processes.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # What is no HTTP gets its 400; the parser's words about it hold header bytes, keys among them.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    try:
        if len(sys.argv) > 1:
            raise StartError(
                f"{sys.argv[1]}: no arguments are taken; settings are environment variables, such "
                "as EXCHANGE_PORT=8001 (common/settings.py documents each)"
            )
        settings = read_settings()
        if settings.processes > 1 and not stateless:
            raise StartError(
                "EXCHANGE_PROCESSES: this case keeps its book in one process; expected 1"
            )
        if settings.durability == "wal" and stateless:
            raise StartError(
                "EXCHANGE_DURABILITY=wal: this case commits each order to the database before it "
                "answers, so there is nothing to log; leave it unset"
            )
        with database_of(settings) as database_url:
            prepare_schema(database_url)
            if settings.processes > 1:
                serve_from_many(settings, database_url)
            else:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(serve(open_exchange, settings, database_url))
    except (StartError, ExchangeError) as error:
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


def check_free(settings: Settings) -> None:
    """Raise StartError if the port is taken: once it is shared, nothing else would say so."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=TYPE, flags=FLAGS)
        for listening in opened(found):
            listening.close()
    except OSError as error:
        raise cannot_serve(settings, error) from None


def serve_from_many(settings: Settings, database_url: str) -> None:
    """Run as many processes as were asked for on one port. Raises StartError."""
    check_free(settings)
    own = {
        "EXCHANGE_DATABASE_URL": database_url,
        "EXCHANGE_PROCESSES": "1",
        "EXCHANGE_SHARE_PORT": "1",
    }
    log.info("starting %d processes", settings.processes)
    if supervise(settings.processes, os.environ | own):
        raise StartError("one of the processes ended by itself; the lines above say why")


async def serve(open_exchange: OpenExchange, settings: Settings, database_url: str) -> None:
    """Serve until a signal; answer what is in flight, drain, return. Raises StartError."""
    allow_files(settings.connections_max + FILES_BESIDE)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_exchange(settings, database_url) as exchange:
        api = Api(exchange, settings)
        server = api.server()
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=CLOSE_PATIENCE_S)
        await runner.setup()
        listener = Listener(server, server.turned_away)
        try:
            try:
                await listener.start(settings.host, settings.port, reuse_port=settings.share_port)
            except OSError as error:
                raise cannot_serve(settings, error) from None
            collector = Collector()
            collector.spare()
            log.info("serving on http://%s:%d", settings.host, settings.port)
            with api.watching():
                async with (
                    every(LOOK_AT_CLIENTS_S, server.drop_slow),
                    every(LOOK_AGAIN_S, collector.look_again),
                ):
                    await stop.wait()
                await listener.stop()  # nobody new; who is connected gets an answer
                await api.drained(SHUTDOWN_PATIENCE_S)
        finally:
            await listener.stop()
            await runner.cleanup()


def allow_files(wanted: int) -> None:
    """Raise the limit of open files to what is wanted, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("the system allows %d open files, and %d could be needed", allowed, wanted)


def cannot_serve(settings: Settings, error: OSError) -> StartError:
    """Why the port cannot be opened, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"port {settings.port} on {settings.host} is in use: stop what serves there, "
            "or choose another with EXCHANGE_PORT"
        )
    reason = error.strerror or error
    return StartError(f"cannot serve on {settings.host}:{settings.port}: {reason}")
