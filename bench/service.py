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
from typing import NamedTuple

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


class CpuSeconds(NamedTuple):
    """CPU used so far; None where the system does not tell."""

    service: float
    postgres: float


@dataclass
class Service:
    """A running service. ``stop_finding`` says afterwards if it did not end as it should."""

    process: subprocess.Popen[bytes]
    postmaster_pid: int
    target: Target
    database_url: str
    postgres_version: str
    postgres_settings: dict[str, str]
    stop_finding: str | None = None

    def cpu_seconds(self) -> CpuSeconds | None:
        """Of the service and of all PostgreSQL processes, those that have ended included."""
        if not Path("/proc/self/stat").exists():
            return None
        return CpuSeconds(_tree_cpu_s(self.process.pid), _tree_cpu_s(self.postmaster_pid))


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
    module = _module(version)
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
    # Only here: with --url the harness runs without the code and the packages of the service.
    from common.errors import StartError  # noqa: PLC0415
    from common.postgres import SETTINGS, EmbeddedPostgres  # noqa: PLC0415

    data_dir = Path(tempfile.mkdtemp(prefix="mini-stock-exchange-bench-"))
    # As root the database runs under another account, which must be able to enter.
    data_dir.chmod(0o755)
    core = pins.get("postgres")
    database = EmbeddedPostgres(data_dir / "database", cores=None if core is None else [core])
    try:
        try:
            database.start()
        except StartError as error:
            raise HarnessError(f"--spawn: {error}") from error
        log = data_dir / "service.log"
        admin_key = secrets.token_urlsafe(24)
        port = port or _free_port()
        process = _launch(version, log, pins, _environment(port, database.url, admin_key))
        service = Service(
            process,
            database.pid,
            Target(Address(HOST, port), f"{HOST}:{port}", admin_key),
            database.url,
            database.version,
            dict(SETTINGS),
        )
        try:
            _wait_until_healthy(service, log)
            yield service
        finally:
            service.stop_finding = _stop(process, log)
    finally:
        database.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def end_with_parent(how: int) -> Callable[[], None] | None:
    """For ``preexec_fn``: the kernel sends ``how`` when this process ends, however it ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, how)


def _module(version: str) -> str:
    return f"case{version}"


def _environment(port: int, database_url: str, admin_key: str) -> dict[str, str]:
    return os.environ | {
        "EXCHANGE_HOST": HOST,
        "EXCHANGE_PORT": str(port),
        "EXCHANGE_DATABASE_URL": database_url,
        "EXCHANGE_ADMIN_API_KEY": admin_key,
        "EXCHANGE_DEBUG": "1",
        # When the harness is killed its database goes at the same moment; nothing to wait for then.
        "EXCHANGE_DRAIN_S": "10",
    }


def _launch(
    version: str, log: Path, pins: dict[str, int], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", _module(version)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal is for the harness, which then stops the service in order.
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _tree_cpu_s(root_pid: int) -> float:
    """CPU seconds of a process, its living descendants, and its children that have ended."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    ended: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of the program stands in parentheses and may contain anything.
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid] = int(fields[1])
            ticks[pid] = int(fields[11]) + int(fields[12])
            ended[pid] = int(fields[13]) + int(fields[14])
    family = {root_pid}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    total = sum(ticks.get(pid, 0) + ended.get(pid, 0) for pid in family)
    return total / os.sysconf("SC_CLK_TCK")
