"""Every way in which a service cannot start ends with one line that says why, and with exit 1."""

import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from client import HOST, Service, eventually, free_port
from conftest import NewDatabase, StartService, execute, processes_of

from common.postgres import EmbeddedPostgres

# None of this is decided by a case.
pytestmark = pytest.mark.any_case
NewPlace = Callable[[], Path]
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ")


def refusal_of(service: Service) -> str:
    """The one line, apart from those of the log, of a service that does not start."""
    assert service.exit_code() == 1, service.text()
    lines = [line for line in service.text().splitlines() if not LOG_LINE.match(line)]
    assert len(lines) == 1, service.text()
    assert lines[0].startswith("error: ")
    return lines[0]


# ---- settings ----


def test_a_wrong_setting_is_refused_and_named(start_service: StartService) -> None:
    wrong = {
        "EXCHANGE_PORT": "65536",
        "EXCHANGE_DEBUG": "yes",
        "EXCHANGE_DURABILITY": "perhaps",
        "EXCHANGE_ADMIN_KEY": "a name that does not exist",
    }
    # They are refused before anything is connected to, so no database is needed.
    services = [
        start_service("postgresql:///none", ready=False, **{name: value})
        for name, value in wrong.items()
    ]
    for name, service in zip(wrong, services, strict=True):
        assert name in refusal_of(service)


def test_a_log_is_refused_by_a_case_that_commits_each_order(new_place: NewPlace) -> None:
    settings = {"EXCHANGE_DURABILITY": "wal"}
    service = Service("casev1", new_place() / "log", None, settings, reads_behind=False)
    assert "nothing to log" in refusal_of(service)


# ---- the address ----


def test_a_port_in_use_is_refused(start_service: StartService) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = refusal_of(start_service(ready=False, EXCHANGE_PORT=port))
    assert port in line
    assert "EXCHANGE_PORT" in line


def test_an_address_of_another_machine_is_refused(start_service: StartService) -> None:
    assert "192.0.2.1" in refusal_of(start_service(ready=False, EXCHANGE_HOST="192.0.2.1"))


# ---- the database ----


def test_a_database_that_cannot_be_reached_is_named(
    postgres: EmbeddedPostgres, start_service: StartService
) -> None:
    port = free_port()
    urls = {
        f"{HOST}:{port}": f"postgresql://exchange:s3cret@{HOST}:{port}/exchange",
        "EXCHANGE_DATABASE_URL is malformed": "postgresql://u:p@s3cret@h/x",
        '"missing"': postgres.url.replace("/exchange?", "/missing?"),
    }
    services = [start_service(url, ready=False) for url in urls.values()]
    for name, service in zip(urls, services, strict=True):
        assert name in refusal_of(service)
        assert "s3cret" not in service.text()


def test_a_wrong_password_is_named_but_not_shown(
    postgres: EmbeddedPostgres, start_service: StartService
) -> None:
    execute(postgres.url, "CREATE ROLE guarded LOGIN PASSWORD 'right'")
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute("SHOW hba_file").fetchone()
    assert row is not None
    rules = Path(row[0])
    rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
    execute(postgres.url, "SELECT pg_reload_conf()")
    url = postgres.url.replace("exchange@", "guarded:s3cret@")
    eventually(lambda: not connects(url))
    service = start_service(url, ready=False)
    assert "guarded" in refusal_of(service)
    assert "s3cret" not in service.text()


def connects(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_table_that_is_not_ours_is_refused_and_left_alone(
    start_service: StartService, new_database: NewDatabase
) -> None:
    url, table = new_database(), "orders"
    execute(url, f"CREATE TABLE {table} (precious text)")
    execute(url, f"INSERT INTO {table} VALUES ('data')")
    service = start_service(url, ready=False)
    assert table in refusal_of(service)
    assert service.sql(f"SELECT * FROM {table}") == [("data",)]
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    assert service.sql(tables) == [(table,)]


def test_another_schema_version_is_refused_and_left_alone(start_service: StartService) -> None:
    service = start_service()
    service.register("Alice")
    service.stop()
    service.sql("UPDATE exchange_state SET schema_version = 99")
    line = refusal_of(start_service(service.database_url, ready=False))
    assert "99" in line
    assert service.sql("SELECT name FROM brokers") == [("Alice",)]


def test_a_database_that_cannot_be_written_is_refused(start_service: StartService) -> None:
    service = start_service()
    service.stop()
    [(name,)] = service.sql("SELECT current_database()")
    service.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "cannot be written" in refusal_of(start_service(service.database_url, ready=False))


def test_a_database_that_cannot_hold_every_text_is_refused(
    start_service: StartService, postgres: EmbeddedPostgres
) -> None:
    name = "latin"
    execute(
        postgres.url,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
    )
    try:
        url = postgres.url.replace("/exchange?", f"/{name}?")
        line = refusal_of(start_service(url, ready=False))
    finally:
        execute(postgres.url, f"DROP DATABASE {name}")
    assert "encoding LATIN1" in line
    assert "UTF8" in line


def test_texts_are_stored_as_they_are_whatever_the_environment_says(
    start_service: StartService,
) -> None:
    service = start_service(PGCLIENTENCODING="LATIN1")
    service.register("Olá €")
    assert service.sql("SELECT name FROM brokers") == [("Olá €",)]


def test_a_database_whose_commits_may_be_lost_is_warned_of(start_service: StartService) -> None:
    service = start_service()
    assert "WARNING" not in service.text()
    service.stop()
    [(name,)] = service.sql("SELECT current_database()")
    assert service.database_url is not None
    execute(service.database_url, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    warned = start_service(service.database_url)
    assert "WARNING common.database: synchronous_commit is off in this database" in warned.text()


def test_a_role_that_may_not_create_tables_is_refused(
    postgres: EmbeddedPostgres, start_service: StartService, new_database: NewDatabase
) -> None:
    execute(postgres.url, "CREATE ROLE guest LOGIN")
    url = new_database().replace("exchange@", "guest@")
    assert "permission denied" in refusal_of(start_service(url, ready=False))


# ---- the embedded database ----


def test_an_embedded_database_starts_and_ends_with_the_service(
    start_service: StartService, new_place: Callable[[], Path]
) -> None:
    place = new_place()
    settings = {"EXCHANGE_DATA_DIR": str(place)}
    service = start_service(embedded=True, **settings)
    broker = service.register("Alice")
    order_id = broker.place("ask", 5, 100)
    assert processes_of(place)

    # A second one does not share it.
    line = refusal_of(start_service(embedded=True, ready=False, **settings))
    assert "EXCHANGE_DATA_DIR" in line
    assert broker.detail(order_id)["status"] == "open"

    service.stop()
    assert processes_of(place) == []
    service = start_service(embedded=True, **settings)
    assert service.again(broker).detail(order_id)["status"] == "open"

    service.kill()
    if sys.platform == "linux":
        eventually(lambda: processes_of(place) == [])
    service = start_service(embedded=True, **settings)
    assert service.again(broker).detail(order_id)["status"] == "open"
    service.stop(signal.SIGINT)
    assert processes_of(place) == []
    assert not list(place.rglob("postmaster.pid"))


def test_a_data_directory_that_cannot_be_used_is_named(
    start_service: StartService, new_place: Callable[[], Path]
) -> None:
    file = new_place() / "file"
    file.write_text("")
    service = start_service(embedded=True, ready=False, EXCHANGE_DATA_DIR=str(file))
    assert str(file) in refusal_of(service)


# ---- when it starts ----


def test_a_start_says_where_it_serves_and_nothing_alarming(start_service: StartService) -> None:
    # An empty variable is as good as none.
    service = start_service(EXCHANGE_POOL_SIZE="", EXCHANGE_DEBUG="", EXCHANGE_ADMIN_API_KEY="")
    address = f"http://{HOST}:{service.client.port}"
    assert len(re.findall(f"serving on {address}$", service.text(), re.MULTILINE)) == 1
    assert " WARNING " not in service.text()
    assert all(LOG_LINE.match(line) for line in service.text().splitlines())
    assert service.client.request("POST", "/register", {"name": "x"}).status == 503
    assert service.client.request("POST", "/debug/reset").status == 404
