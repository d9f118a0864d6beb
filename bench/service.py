"""A service with a database of its own, started and stopped by the harness (``--spawn``)."""

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench import cpu
from bench.exchange_client import HarnessError, Target
from bench.http_client import Address

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 30.0
_POLL_S = 0.02
_LOG_LINES = 5
_PR_SET_PDEATHSIG = 1
ROLES = ("service", "generator", "postgres")
VERSIONS = ("v1", "v2", "v3")  # from the slowest to the fastest, as they are meant to be


@dataclass(frozen=True)
class Case:
    """What to start: a case, in how many processes if it is one that has no state, and with which
    durability if it is one that has a choice.

    ``module`` runs as ``python -m MODULE``, with the variables in ``environment`` besides its
    settings; the label names the results.
    """

    label: str
    module: str
    processes: int = 1
    durability: str | None = None
    environment: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, label: str) -> "Case":
        """``v1``, ``v1x4`` for four processes of it, ``v3-wal`` for v3 with a write-ahead log."""
        version, _, durability = label.partition("-")
        version, _, processes = version.partition("x")
        return cls(label, f"case{version}", int(processes or 1), durability or None)


NULL = Case("null", "bench.null_server")


@dataclass(frozen=True)
class Database:
    """A PostgreSQL that we started. Its first database, at ``url``, is empty."""

    url: str
    pid: int
    version: str
    settings: dict[str, str]
    data_dir: Path

    def url_of(self, name: str) -> str:
        """Another database of the same server."""
        return self.url.replace("/exchange?", f"/{name}?")


@dataclass
class Service:
    """A running service. ``stop_finding`` says afterwards if it did not end as it should."""

    process: subprocess.Popen[bytes]
    target: Target
    database: Database | None
    database_url: str | None
    stop_finding: str | None = None

    def cpu_seconds(self) -> dict[str, float]:
        """CPU used so far by the service and by each role of PostgreSQL; see ``bench/cpu.py``."""
        return cpu.cpu_seconds(self.process.pid, self.database.pid if self.database else None)


@dataclass(frozen=True)
class Place:
    """Where to measure: a service, its database if we may look into it, and the pins."""

    target: Target
    database_url: str | None
    pins: dict[str, int]
    service: Service | None

    @property
    def stop_finding(self) -> str | None:
        """What was wrong with the end of the service, if it was ours and has ended."""
        return self.service.stop_finding if self.service else None


def default_pins() -> dict[str, int]:
    """The service has a core alone; generator and PostgreSQL share another. Empty on one core."""
    if not hasattr(os, "sched_getaffinity"):
        return {}
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return {}
    return {"service": cores[0], "generator": cores[1], "postgres": cores[1]}


def check_spawnable(version: str, port: int | None) -> None:
    """Raise HarnessError, before anything is started, if this cannot be spawned."""
    module = Case.of(version).module
    if importlib.util.find_spec(f"{module}.__main__") is None:
        raise HarnessError(f"--version: {version} cannot be spawned, {module}/ has no __main__.py")
    if port is not None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise HarnessError(
                    f"--port: {port} cannot be used on {HOST} ({error.strerror}); "
                    "give a free one, or none to have one chosen"
                ) from error


@contextlib.contextmanager
def spawned(version: str, port: int | None, pins: dict[str, int]) -> Iterator[Service]:
    """A fresh database and a service on it, both gone afterwards. Raises HarnessError."""
    with (
        database(pins) as fresh,
        service_on(Case.of(version), fresh, fresh.url, pins, port=port) as running,
    ):
        yield running


@contextlib.contextmanager
def database(pins: dict[str, int]) -> Iterator[Database]:
    """A fresh PostgreSQL, gone afterwards. Raises HarnessError."""
    # Only here: with --url the harness runs without the packages of the service.
    from common.errors import StartError  # noqa: PLC0415
    from common.postgres import SETTINGS, EmbeddedPostgres  # noqa: PLC0415

    data_dir = Path(tempfile.mkdtemp(prefix="mini-stock-exchange-bench-"))
    # As root the database runs under another account, which must be able to enter.
    data_dir.chmod(0o755)
    core = pins.get("postgres")
    server = EmbeddedPostgres(data_dir / "database", cores=None if core is None else [core])
    try:
        try:
            server.start()
        except StartError as error:
            raise HarnessError(f"--spawn: {error}") from error
        yield Database(server.url, server.pid, server.version, dict(SETTINGS), data_dir)
    finally:
        server.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


@contextlib.contextmanager
def service_on(
    case: Case,
    place: Database,
    url: str,
    pins: dict[str, int],
    *,
    port: int | None = None,
    admin_key: str | None = None,
) -> Iterator[Service]:
    """A service on one of the server's databases, stopped afterwards. Raises HarnessError.

    If it writes a log it goes on with the one that is there, see ``forget_log``.
    """
    log = place.data_dir / "service.log"
    admin_key = admin_key or secrets.token_urlsafe(24)
    port = port or free_port()
    settings = {
        "EXCHANGE_HOST": HOST,
        "EXCHANGE_PORT": str(port),
        "EXCHANGE_DATABASE_URL": url,
        "EXCHANGE_ADMIN_API_KEY": admin_key,
        "EXCHANGE_DEBUG": "1",
        "EXCHANGE_PROCESSES": str(case.processes),
        # When the harness is killed its database goes at the same moment; nothing to wait for then.
        "EXCHANGE_DRAIN_S": "10",
        "EXCHANGE_WAL_DIR": str(log_of(place)),
    }
    if case.durability:
        settings["EXCHANGE_DURABILITY"] = case.durability
    process = _launch([case.module], log, pins, settings | dict(case.environment))
    target = Target(Address(HOST, port), f"{HOST}:{port}", admin_key)
    yield from _served(Service(process, target, place, url), log)


def log_of(place: Database) -> Path:
    """Where a service on this server keeps its write-ahead log."""
    return place.data_dir / "log"


def forget_log(place: Database) -> None:
    """Delete it, because the next service begins with another database."""
    shutil.rmtree(log_of(place), ignore_errors=True)


@contextlib.contextmanager
def null_server(pins: dict[str, int], *options: str) -> Iterator[Service]:
    """The null server, with the pins of a service. Raises HarnessError."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "null.log"
        process = _launch([NULL.module, str(port), *options], log, pins, {})
        target = Target(Address(HOST, port), f"{HOST}:{port}", "")
        yield from _served(Service(process, target, None, None), log)


def _served(service: Service, log: Path) -> Iterator[Service]:
    try:
        _wait_until_healthy(service, log)
        yield service
    finally:
        service.stop_finding = _stop(service.process, log)


def child(command: list[str], how: int, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that does not outlive this one; where it would, the kernel sends ``how``.

    Ctrl-C waits until it has started: what Python runs around a fork would swallow it.
    """
    interrupts: list[int] = []
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    held = {each: handler for each, handler in handlers.items() if callable(handler)}
    for each in held:
        signal.signal(each, lambda number, _: interrupts.append(number))
    try:
        process = subprocess.Popen(
            command,
            preexec_fn=_end_with_parent(how),  # noqa: PLW1509 - one system call
            **options,
        )
    finally:
        for each, handler in held.items():
            signal.signal(each, handler)
    if interrupts:
        with process:
            process.kill()
        signal.raise_signal(interrupts[0])
    return process


@contextlib.contextmanager
def beside(
    module: str,
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stderr: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A module of ours at work in a process of its own, which tells on its standard output."""
    process = child(
        [sys.executable, "-m", module, *arguments],
        signal.SIGKILL,
        cwd=ROOT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # A Ctrl-C in the terminal is for the harness; what is at work here ends in its own time.
        start_new_session=True,
    )
    # Leaving the block closes the pipes and waits; killing first makes sure that it ends.
    with process:
        try:
            yield process
        finally:
            process.kill()


def _end_with_parent(how: int) -> Callable[[], None] | None:
    """For ``preexec_fn``: the kernel sends ``how`` when this process ends, however it ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, how)


def _launch(
    module: list[str], log: Path, pins: dict[str, int], settings: dict[str, str]
) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = child(
            [sys.executable, "-m", *module],
            signal.SIGTERM,
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal is for the harness, which then stops the service in order.
            start_new_session=True,
        )
    if "service" in pins:
        os.sched_setaffinity(process.pid, {pins["service"]})
    return process


def _wait_until_healthy(service: Service, log: Path) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise HarnessError(
                f"--spawn: the service ended with exit code {service.process.returncode}: "
                f"{_last_lines(log)}"
            )
        if _is_healthy(service.target.address):
            return
        time.sleep(_POLL_S)
    raise HarnessError(
        f"--spawn: /health was not 200 within {START_PATIENCE_S:g} s: {_last_lines(log)}"
    )


def _is_healthy(address: Address) -> bool:
    try:
        with socket.create_connection(address, 1.0) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes], log: Path) -> str | None:
    """End the service; what was wrong with its end, if anything."""
    process.terminate()
    try:
        code = process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"the service did not stop within {STOP_PATIENCE_S:g} s of SIGTERM"
    if code:
        return f"the service ended with exit code {code}: {_last_lines(log)}"
    return None


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return " | ".join(line.strip() for line in lines) or "it logged nothing"


def free_port() -> int:
    """One of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
