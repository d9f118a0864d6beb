"""The one reader of the environment. Every setting has a default and a trade-off."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import StartError
from common.postgres import default_data_dir

DURABILITY = ("flush", "wal")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can choose. Times are in the unit that the name ends with."""

    # EXCHANGE_HOST: 127.0.0.1 serves this machine only; 0.0.0.0 everyone who can reach it.
    host: str
    # EXCHANGE_PORT
    port: int
    # EXCHANGE_PROCESSES: how many serve the port; more than 1 for a case without state only.
    processes: int
    # EXCHANGE_SHARE_PORT: 1 lets other processes of the same user serve the port too.
    share_port: bool
    # EXCHANGE_CLIENT_PATIENCE_S: for a request to arrive and for a reply to be read; afterwards the
    # connection is closed, so that slow clients hold neither memory nor places for long.
    client_patience_s: int
    # EXCHANGE_CONNECTIONS_MAX: more than so many at once are refused with 503.
    connections_max: int
    # EXCHANGE_DATABASE_URL: a PostgreSQL of your own; unset, an embedded one is started, stopped.
    database_url: str | None
    # EXCHANGE_DATA_DIR: where the embedded database lives and logs.
    data_dir: Path
    # EXCHANGE_ADMIN_API_KEY: unset, nobody can register brokers and the admin endpoints answer 503.
    admin_api_key: str | None
    # EXCHANGE_DEBUG: 1 opens /debug/*, with which the admin can empty the exchange.
    debug: bool
    # EXCHANGE_DURABILITY: `flush` acknowledges when matched; a crash loses what was not flushed.
    # `wal` acknowledges when it is in a log on disk; a crash loses nothing, replies wait for that.
    durability: str
    # EXCHANGE_WAL_DIR: where that log is; another disk than that of the database is faster.
    wal_dir: Path
    # EXCHANGE_WAL_LOST: the id of a log that the database needs and nobody has any more; a start
    # goes on without it, and without the orders that only it held.
    wal_lost: str | None
    # EXCHANGE_FLUSH_MS: shorter loses less in a crash, longer writes fewer, larger transactions.
    flush_ms: int
    # EXCHANGE_FLUSH_PENDING_MAX: changes that may wait for the database before new orders get 503;
    # it bounds memory (about 1 KB each) and how long the database may be gone under load.
    flush_pending_max: int
    # EXCHANGE_DRAIN_S: how long a graceful stop tries to write what is left.
    drain_s: int
    # EXCHANGE_POOL_SIZE: database connections; more serve more at once, each costs memory.
    pool_size: int
    # EXCHANGE_POOL_WAIT_MS: how long a request waits for a connection before it gets 503; while one
    # has waited for an eighth of that, others get 503 at once.
    pool_wait_ms: int
    # EXCHANGE_CLOSED_AGE_S, EXCHANGE_CLOSED_MAX: closed orders stay in memory this long and this
    # many; afterwards they are read from the database.
    closed_age_s: int
    closed_max: int
    # EXCHANGE_RETRY_WINDOW_S: how long an order with a client_order_id can be sent again.
    retry_window_s: int
    # EXCHANGE_RETRY_MAX: ids that a case which matches in memory remembers in that time (about 0.5
    # KB each) before orders with new ones get 503; of a broker no more than are still free.
    retry_max: int
    # EXCHANGE_WEBHOOK_PRIVATE: 1 lets brokers name webhook targets inside your network.
    webhook_private: bool
    # EXCHANGE_WEBHOOK_QUEUE_MAX: messages that may wait for delivery before new ones are dropped.
    webhook_queue_max: int


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from ``EXCHANGE_*``. Raises StartError with the variable and what it allows."""
    read = _Reader(environment)
    data_dir = Path(read.text("EXCHANGE_DATA_DIR") or default_data_dir())
    settings = Settings(
        host=read.text("EXCHANGE_HOST") or "127.0.0.1",
        port=read.integer("EXCHANGE_PORT", 8000, 1, 65535),
        processes=read.integer("EXCHANGE_PROCESSES", 1, 1, 64),
        share_port=read.flag("EXCHANGE_SHARE_PORT"),
        client_patience_s=read.integer("EXCHANGE_CLIENT_PATIENCE_S", 10, 1, 3600),
        connections_max=read.integer("EXCHANGE_CONNECTIONS_MAX", 10_000, 1, 10**6),
        database_url=read.text("EXCHANGE_DATABASE_URL"),
        data_dir=data_dir,
        admin_api_key=read.text("EXCHANGE_ADMIN_API_KEY"),
        debug=read.flag("EXCHANGE_DEBUG"),
        durability=read.choice("EXCHANGE_DURABILITY", DURABILITY),
        wal_dir=Path(read.text("EXCHANGE_WAL_DIR") or data_dir / "wal"),
        wal_lost=read.text("EXCHANGE_WAL_LOST"),
        flush_ms=read.integer("EXCHANGE_FLUSH_MS", 30, 1, 10_000),
        flush_pending_max=read.integer("EXCHANGE_FLUSH_PENDING_MAX", 500_000, 1, 10**8),
        drain_s=read.integer("EXCHANGE_DRAIN_S", 30, 0, 3600),
        pool_size=read.integer("EXCHANGE_POOL_SIZE", 8, 1, 1000),
        pool_wait_ms=read.integer("EXCHANGE_POOL_WAIT_MS", 2000, 1, 60_000),
        closed_age_s=read.integer("EXCHANGE_CLOSED_AGE_S", 600, 0, 10**7),
        closed_max=read.integer("EXCHANGE_CLOSED_MAX", 1_000_000, 0, 10**8),
        retry_window_s=read.integer("EXCHANGE_RETRY_WINDOW_S", 600, 1, 86_400),
        retry_max=read.integer("EXCHANGE_RETRY_MAX", 1_000_000, 1, 10**8),
        webhook_private=read.flag("EXCHANGE_WEBHOOK_PRIVATE"),
        webhook_queue_max=read.integer("EXCHANGE_WEBHOOK_QUEUE_MAX", 10_000, 1, 10**7),
    )
    read.refuse_unknown()
    return settings


class _Reader:
    """Typed look-ups that remember which names exist."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._known: set[str] = set()

    def text(self, name: str) -> str | None:
        """The value, None when unset or empty."""
        self._known.add(name)
        return self._environment.get(name) or None

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not digits or not least <= int(text) <= most:
            raise StartError(f"{name}={text[:40]!r}: expected an integer from {least} to {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        return self.choice(name, ("0", "1")) == "1"

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of ``allowed``, of which the first is the default."""
        text = self.text(name) or allowed[0]
        if text not in allowed:
            raise StartError(f"{name}={text[:40]!r}: expected {' or '.join(allowed)}")
        return text

    def refuse_unknown(self) -> None:
        """A typo in a name must not silently leave the default in force."""
        for name in self._environment:
            if name.startswith("EXCHANGE_") and name not in self._known:
                raise StartError(f"{name}: no such setting; known are {', '.join(self._known)}")
