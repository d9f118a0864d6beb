"""The bad clients do what they should, and a real run beside them is audited and drawn."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench_records import SMALL_MARKET, describe
from client import HOST, PATIENCE_S, eventually
from conftest import CASES

from bench import bad_clients, clients, clients_cli, clients_report, records, service
from bench.bad_clients import KINDS, Kind
from bench.clients import ALL, ALONE, Options
from bench.exchange_client import HarnessError
from bench.http_client import Address

IDLE, DRIBBLING, HALF_CLOSED, DEAF = KINDS


@contextmanager
def listening() -> Iterator[tuple[socket.socket, Address]]:
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server, Address(HOST, server.getsockname()[1])


def accepted(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(PATIENCE_S)
    return connection


def one(kind: Kind) -> tuple[Kind]:
    return (kind._replace(number=1),)


def test_who_dribbles_never_ends_a_request() -> None:
    with (
        listening() as (server, address),
        bad_clients.beside(address, one(DRIBBLING)),
        accepted(server) as connection,
    ):
        said = b""
        while len(said) < len(DRIBBLING.first) + 3:
            said += connection.recv(100)
    assert said.startswith(DRIBBLING.first)
    assert b"\r\n\r\n" not in said


def test_who_is_half_closed_asks_and_says_that_nothing_more_comes() -> None:
    with (
        listening() as (server, address),
        bad_clients.beside(address, one(HALF_CLOSED)),
        accepted(server) as connection,
    ):
        said = b"".join(iter(lambda: connection.recv(100), b""))
    assert said == HALF_CLOSED.first


def test_who_never_reads_goes_on_asking() -> None:
    with (
        listening() as (server, address),
        bad_clients.beside(address, one(DEAF)) as crowd,
        accepted(server) as connection,
    ):
        said = 0
        while said <= len(DEAF.first):
            said += len(connection.recv(1 << 16))
            connection.send(b"x")
    assert crowd.closed == 0


def test_who_is_closed_comes_back() -> None:
    with listening() as (server, address), bad_clients.beside(address, one(IDLE)) as crowd:
        accepted(server).close()
        accepted(server).close()
        eventually(lambda: crowd.closed >= 1 and crowd.connected >= 2)


def test_nobody_is_left_when_it_is_over() -> None:
    with listening() as (server, address):
        with bad_clients.beside(address, (IDLE._replace(number=5),)):
            connections = [accepted(server) for _ in range(5)]
        for connection in connections:
            with connection:
                assert connection.recv(1) == b""


def test_no_service_is_one_line() -> None:
    with listening() as (_, address):
        pass
    beside = bad_clients.beside(address, one(IDLE))
    with pytest.raises(HarnessError, match="takes no more connections"), beside:
        pass


def test_each_kind_is_measured_by_itself_and_then_all_together() -> None:
    measured = clients.crowds({kind.label: 3 for kind in KINDS})
    assert [name for name, _ in measured] == [ALONE, *(kind.label for kind in KINDS), ALL]
    assert [sum(kind.number for kind in kinds) for _, kinds in measured] == [0, 3, 3, 3, 3, 12]


@pytest.mark.alone
def test_a_real_run_loses_nothing_beside_any_of_them_and_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PROFILE", SMALL_MARKET)
    monkeypatch.setattr(clients, "WARMUP_S", 0.5)
    label = f"v{CASES[0][-1]}"
    options = Options(
        cases=[label],
        rates={label: 20.0},
        duration_s=1.0,
        counts={DRIBBLING.label: 3},
        seed=1,
        pins=service.default_pins(),
    )
    said: list[str] = []
    measured = list(clients.run(options, label, said.append))
    assert [one.kind for one in measured] == [ALONE, DRIBBLING.label]
    assert [one.clients for one in measured] == [0, 3]
    assert all(one.faults == [] and one.errors == {} for one in measured)
    assert [one.present for one in measured] == [0, 3]
    assert len(said) == 1 + len(measured)
    for each in measured:
        records.append_line(tmp_path, clients.FILE, each)
    describe(tmp_path, clients_cli.KIND, options)
    assert clients_report.read(tmp_path) == measured
    assert len(clients_report.write(tmp_path)) == 2 + len(measured)
    assert [file.suffix for file in clients_report.draw(tmp_path)] == [".svg", ".png"]
