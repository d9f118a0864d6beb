"""Flame graphs: where a frame is said to come from, and a real look at a real service."""

import os
import sys
from argparse import Namespace
from pathlib import Path

import msgspec
import pytest
from bench_records import SMALL_MARKET, describe

from bench import flame, flame_cli, flame_report, service
from bench.exchange_client import HarnessError
from bench.flame import OTHER, Flame, Options, flame_of, origin_of


@pytest.mark.parametrize(
    ("frame", "origin"),
    [
        ("submit (casev3/exchange.py:86)", "the case"),
        ("BookSide.insert (common/book.py:92)", "matching and book"),
        ("SortedList.add (sortedcontainers/sortedlist.py:279)", "matching and book"),
        ("_array.<locals>.<listcomp> (common/changes.py:161)", "flush"),
        ("Log.write (common/wal/log.py:1)", "write-ahead log"),
        ("Connection._send (common/connection.py:224)", "sending, receiving"),
        ("encode (common/wire.py:81)", "the rest of common/"),
        ("RequestHandler.data_received (aiohttp/web_protocol.py:446)", "aiohttp"),
        ("Runner.run (asyncio/runners.py:118)", "event loop and kernel"),
        ("decode (json/decoder.py:3)", OTHER),
        ("a frame without a file", OTHER),
    ],
)
def test_a_frame_comes_from_where_its_file_is(frame: str, origin: str) -> None:
    assert origin_of(frame) == origin


def test_shares_are_those_of_the_innermost_frames() -> None:
    loop, send = "run (asyncio/runners.py:1)", "send (common/connection.py:2)"
    found = flame_of("v3", 800.0, {loop: 60, f"{loop};{send}": 30, f"{loop};x (y.py:1)": 10})
    assert found.looks == 100
    assert found.origins == {"event loop and kernel": 0.6, "sending, receiving": 0.3, OTHER: 0.1}
    assert list(found.lines) == [loop, send, "x (y.py:1)"]
    headers, rows = flame.shares_table([found])
    assert headers == ("time spent in", "v3 at 800 %")
    assert rows[0] == ("event loop and kernel", "60.0%")


def test_a_case_that_was_never_seen_at_work_has_no_shares() -> None:
    with pytest.raises(HarnessError, match=r"v3: py-spy has not seen it at work at 0\.8 %"):
        flame_of("v3", 0.8, {})


@pytest.mark.parametrize(
    ("share", "capacity", "rate"), [(0.01, 1.0, 0.01), (0.8, 1499.0, 1199.0), (0.5, 1.5, 0.75)]
)
def test_the_rate_is_the_share_in_four_digits(
    share: float, capacity: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flame, "py_spy", lambda: "py-spy")
    asked = Namespace(version=["v1"], capacity=[("v1", capacity)], share=share, seed=1, pins={})
    assert flame_cli.options_of(asked).rates == {"v1": rate}


def test_without_py_spy_the_reply_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(HarnessError, match="pip install py-spy"):
        flame.py_spy()


@pytest.mark.alone
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="py-spy asks for root here"
)
def test_a_real_look_leaves_a_picture_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flame, "PROFILE", SMALL_MARKET)
    monkeypatch.setattr(flame, "WARMUP_S", 0.5)
    monkeypatch.setattr(flame, "RECORD_S", 1.0)
    monkeypatch.setattr(flame, "DURATION_S", 8.0)
    options = Options(["v3"], {"v3": 300.0}, 1, service.default_pins())
    found = flame.run(options, "v3", tmp_path, lambda line: None)
    assert found.looks > 20
    assert sum(found.origins.values()) == pytest.approx(1.0)
    picture = (tmp_path / "v3.svg").read_text()
    assert "<svg" in picture
    assert str(tmp_path) not in picture
    assert sys.prefix not in picture
    (tmp_path / flame.FILE).write_bytes(msgspec.json.encode(found) + b"\n")
    describe(tmp_path, flame_cli.KIND, options)
    assert flame_report.write(tmp_path)[0].startswith("| time spent in")
    assert flame_report.draw(tmp_path) == [tmp_path / "v3.svg"]
    assert "v3.svg" in (tmp_path / "report.md").read_text()
    overloaded = msgspec.structs.replace(found, late=0.5)
    (tmp_path / flame.FILE).write_bytes(msgspec.json.encode(overloaded) + b"\n")
    flame_report.write(tmp_path)
    assert "did not carry this load: 50.0%" in (tmp_path / "report.md").read_text()


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="another layout"):
        flame_report.read(tmp_path)


def test_a_flame_can_be_written_and_read_again() -> None:
    found = Flame("v1", 200.0, 10, {"the case": 1.0}, {"x (casev1/app.py:1)": 1.0})
    assert msgspec.json.decode(msgspec.json.encode(found), type=Flame) == found
