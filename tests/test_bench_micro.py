"""The micro-benchmarks: fits, report and charts, checks that can fail, and a run as a whole."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import uvloop
from conftest import NewDatabase, emptied

import common.changes
from bench import records
from bench.__main__ import main
from bench.micro import (
    bench_book,
    bench_engine,
    bench_fills,
    bench_flush,
    bench_memory,
    bench_startup,
    cli,
    report,
)
from bench.micro.books import SHAPES, Books
from bench.micro.growth import Growth, fitted
from bench.micro.measuring import as_in_service, decades
from bench.service import ROOT
from bench.tables import newest_runs
from common.book import BookSide
from common.changes import Changes
from common.database import Database, prepare_schema
from common.engine import Engine, Execution
from common.loading import load_engine
from common.model import CloseReason

SIZES = [10, 100, 1000, 10_000, 100_000, 1_000_000]

# --- how a cost grows ---


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.03, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found_exactly(exponent: float) -> None:
    growth = fitted(SIZES, [3.0 * size**exponent for size in SIZES])
    assert growth is not None
    assert growth.exponent == pytest.approx(exponent, abs=1e-9)
    assert growth.factor == pytest.approx(3.0)
    assert growth.standard_error == pytest.approx(0.0, abs=1e-9)
    assert growth.at(500) == pytest.approx(3.0 * 500**exponent)


def test_the_standard_error_is_how_far_the_exponent_strays_with_noise() -> None:
    chance = np.random.default_rng(1)
    fits = [
        fitted(SIZES, [5.0 * size**0.1 * chance.lognormal(0.0, 0.2) for size in SIZES])
        for _ in range(2000)
    ]
    exponents = np.array([one.exponent for one in fits if one])
    errors = np.array([one.standard_error for one in fits if one])
    assert len(exponents) == 2000
    assert exponents.mean() == pytest.approx(0.1, abs=0.003)
    assert np.sqrt((errors**2).mean()) == pytest.approx(exponents.std(), rel=0.05)


def test_two_sizes_have_an_exponent_without_an_error_and_one_has_none() -> None:
    growth = fitted([10, 1000], [1.0, 10.0])
    assert growth is not None
    assert growth.exponent == pytest.approx(0.5)
    assert growth.standard_error is None
    assert fitted([10], [1.0]) is None
    assert fitted([10, 10], [1.0, 2.0]) is None


def test_growth_is_stated_with_its_error() -> None:
    assert str(Growth(0.031, 1.0, 0.012)) == "n^0.03 ± 0.01"
    assert str(Growth(1.0, 1.0, None)) == "n^1.00"
    assert str(Growth(-0.001, 1.0, 0.0)) == "n^0.00 ± 0.00"


def test_sizes_are_powers_of_ten() -> None:
    assert decades(10, 1_000_000) == SIZES
    assert decades(1, 1) == [1]


# --- report and charts from a recorded run ---


def timed(curve: str, series: str, size: int, operations: int, *seconds: float) -> dict[str, Any]:
    said = {"curve": curve, "series": series, "size": size, "operations": operations}
    name = f"bench_{curve}[{series}-{size}]"
    return {"fullname": name, "extra_info": said, "stats": {"data": seconds}}


def remembered(size: int, bytes_per_order: float) -> dict[str, Any]:
    made = timed("memory", "engine", size, 1, 9.0)
    made["extra_info"]["bytes_per_order"] = bytes_per_order
    return made


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A small run: growth n^0, n^0.5, of a rate, and of memory; one point of a curve is missing."""
    benchmarks = [
        timed("insert", "few prices", 100, 100, 1e-4, 2e-4, 3e-4),
        timed("insert", "few prices", 10, 100, 1e-4, 2e-4, 3e-4),
        timed("insert", "many prices", 10, 100, 2e-4),
        timed("cancel", "few prices", 10, 10, 1e-4),
        timed("cancel", "few prices", 1000, 10, 1e-3),
        timed("engine", "", 100, 500, 0.004, 0.005, 0.010),
        timed("engine", "", 1000, 500, 0.004, 0.005, 0.010),
        remembered(1000, 900.0),
        remembered(10_000, 900.0),
    ]
    conditions = {
        "layout": report.LAYOUT,
        "partial": False,
        "failed": [],
        "postgres": {"version": "18.4"},
        "limits": ["It is made up."],
    }
    directory = tmp_path / "20260101T000000Z_a"
    directory.mkdir()
    (directory / report.RAW).write_text(json.dumps({"benchmarks": benchmarks, "version": "5"}))
    records.write_json(directory / "meta.json", records.meta("python -m bench micro", conditions))
    return directory


def test_the_report_shows_medians_quartiles_and_growth(recorded: Path) -> None:
    report.write(recorded)
    text = (recorded / report.REPORT).read_text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| 10 | 2.00 (1.50–2.50) | 2.00 |" in lines
    assert "| 100 | 2.00 (1.50–2.50) | – |" in lines
    assert "| growth | n^0.00 | – |" in lines
    assert "| 1,000 | 100 |" in lines
    assert "| growth | n^0.50 |" in lines
    assert "| 100 | 100,000 (75,000–112,500) |" in lines
    assert "| 10,000 | 900 |" in lines
    assert "- It is made up." in lines
    assert "Flush" not in text
    assert "Not complete" not in text


def test_each_point_is_from_its_fastest_turn(recorded: Path) -> None:
    again = [
        timed("insert", "few prices", 10, 100, 4e-4, 5e-4),
        timed("insert", "few prices", 100, 100, 1e-4, 1e-4),
        timed("engine", "", 100, 500, 0.002, 0.002),
    ]
    (recorded / report.RAW_OF_TURN.format(2)).write_text(json.dumps({"benchmarks": again}))
    lines = report.read(recorded)
    points = {
        (line.curve, point.size): (round(point.median, 6), point.rounds)
        for line in lines
        for point in line.points
        if line.series != "many prices"
    }
    assert points["insert", 10] == (2.0, 3)
    assert points["insert", 100] == (1.0, 2)
    assert points["engine", 100] == (250_000.0, 2)
    assert points["engine", 1000] == (100_000.0, 3)


def test_what_was_wrong_in_one_turn_is_left_out_of_all(recorded: Path) -> None:
    meta = json.loads((recorded / "meta.json").read_text())
    failed = {"failed": ["bench_insert[few prices-10]"]}
    (recorded / "meta.json").write_text(json.dumps(meta | failed))
    points = {
        (line.curve, line.series, point.size)
        for line in report.read(recorded)
        for point in line.points
    }
    assert ("insert", "few prices", 10) not in points
    assert {("insert", "few prices", 100), ("insert", "many prices", 10)} <= points


def test_the_report_says_what_is_missing(recorded: Path) -> None:
    lines = report.read(recorded)
    meta = json.loads((recorded / "meta.json").read_text())
    text = report.markdown({**meta, "partial": True, "failed": ["bench_depth[10]"]}, lines)
    assert "**Not complete.**" in text
    assert "- `bench_depth[10]`" in text


def test_the_summary_holds_every_fit(recorded: Path) -> None:
    report.write(recorded)
    lines = json.loads((recorded / report.SUMMARY).read_text())
    exponents = {
        (line["curve"], line["series"]): line["growth"] and round(line["growth"]["exponent"], 6)
        for line in lines
    }
    assert exponents == {
        ("insert", "few prices"): 0.0,
        ("insert", "many prices"): None,
        ("cancel", "few prices"): 0.5,
        ("engine", ""): 0.0,
        ("memory", "engine"): 0.0,
    }


def test_charts_are_drawn_again_from_the_raw_times(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn() -> dict[str, bytes]:
        assert main(["charts", str(recorded)]) == 0
        files = [Path(line) for line in capsys.readouterr().out.splitlines()]
        return {file.name: file.read_bytes() for file in files}

    once = drawn()
    stems = ("book", "engine", "memory")
    assert sorted(once) == sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))
    assert drawn() == once


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmarks": [{}]}'])
def test_a_directory_of_something_else_is_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / report.RAW).write_text(content)
    assert main(["charts", str(tmp_path)]) == 1
    assert main(["charts", str(tmp_path / "missing")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "holds no micro-benchmarks" in first
    assert "missing: no such run" in second


def test_a_curve_that_nobody_knows_is_one_line(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"benchmarks": [timed("teleport", "", 10, 1, 1.0, 1.0, 1.0)]}
    (recorded / report.RAW).write_text(json.dumps(content))
    assert main(["charts", str(recorded)]) == 1
    assert "unknown curves: teleport" in capsys.readouterr().err


def test_the_newest_run_of_each_kind_is_found_beside_micro_benchmarks(
    recorded: Path, tmp_path: Path
) -> None:
    for name, conditions in (
        ("20250101T000000Z_old", {"layout": report.LAYOUT}),
        ("20250102T000000Z_capacity", {"layout": "capacity"}),
        ("20250103T000000Z_loads", {"version": "v3", "partial": False, "spawned": True}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text(json.dumps(conditions))
    assert sorted(run.name for run in newest_runs(tmp_path)) == [
        "20250102T000000Z_capacity",
        "20250103T000000Z_loads",
        recorded.name,
    ]


# --- no number without a right answer ---


class Rounds:
    """Goes through the rounds of a benchmark as pytest-benchmark does, without a clock."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(
        self,
        target: Callable[..., object],
        *,
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        teardown: Callable[..., None],
        rounds: int,
        warmup_rounds: int,
    ) -> None:
        for _ in range(min(2, rounds + warmup_rounds)):
            arguments, _ = setup()
            target(*arguments)
            teardown(*arguments)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


@pytest.fixture
def database_url(new_database: NewDatabase) -> str:
    url = new_database()
    prepare_schema(url)
    return url


BOOKS = {
    "insert": bench_book.bench_insert,
    "cancel": bench_book.bench_cancel,
    "cross": bench_book.bench_cross,
    "depth": bench_book.bench_depth,
}
IN_MEMORY: dict[str, Callable[[Rounds], None]] = {
    "fills": lambda rounds: bench_fills.bench_fills(rounds, 10),
    "memory": lambda rounds: bench_memory.bench_memory(rounds, 1000, bench_memory.WITH_LEDGER),
    "engine": lambda rounds: bench_engine.bench_engine(rounds, 100),
    "encode": lambda rounds: bench_flush.bench_encode(rounds, 10),
}
_depth, _orders, _add = BookSide.depth, BookSide.orders, Changes.add_changed
# One thing that each does wrong.
WRONG: dict[str, tuple[object, str, object]] = {
    "insert": (Engine, "submit", lambda *_: Execution([], [])),
    "cancel": (Engine, "cancel", lambda *_: None),
    "cross": (Engine, "submit", lambda engine, order: engine.rest(order)),
    "depth": (BookSide, "depth", lambda side, depth: _depth(side, depth)[1:]),
    "fills": (BookSide, "orders", lambda side: reversed(list(_orders(side)))),
    "memory": (Engine, "rest", lambda *_: None),
    "engine": (Changes, "add_changed", lambda *_: None),
    "encode": (common.changes, "_ids", lambda _: "{}"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("name", BOOKS)
def test_books_are_found_as_they_were_left(name: str, size: int, shape: str) -> None:
    books, rounds = Books(size, shape), Rounds()
    BOOKS[name](rounds, books)
    BOOKS[name](rounds, books)
    assert rounds.extra_info["curve"] == name
    assert rounds.extra_info["size"] == size


@pytest.mark.parametrize("name", BOOKS)
def test_a_wrong_operation_on_a_book_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books(100, next(iter(SHAPES)))
    monkeypatch.setattr(*WRONG[name])
    with pytest.raises(AssertionError):
        BOOKS[name](Rounds(), books)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_wrong_answer_in_memory_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    IN_MEMORY[name](Rounds())
    monkeypatch.setattr(*WRONG[name])
    with pytest.raises(AssertionError):
        IN_MEMORY[name](Rounds())


def test_a_flush_that_does_not_write_everything_is_noticed(
    database_url: str, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(changes: Changes, orders: Any) -> None:
        _add(changes, [order for order in orders if order.close_reason is CloseReason.CANCELLED])

    bench_flush.bench_write(Rounds(), 100, database_url, runner)
    monkeypatch.setattr(Changes, "add_changed", forget)
    runner.run(emptied(database_url))
    with pytest.raises(AssertionError):
        bench_flush.bench_write(Rounds(), 100, database_url, runner)


def test_a_start_that_forgets_an_order_is_noticed(
    database_url: str, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(database: Database) -> Engine:
        engine = await load_engine(database)
        engine.cancel(next(engine.resting()), 0)
        return engine

    bench_startup.bench_startup(Rounds(), 1000, database_url, runner)
    runner.run(emptied(database_url))
    monkeypatch.setattr(bench_startup, "load_engine", forgetful)
    with pytest.raises(AssertionError):
        bench_startup.bench_startup(Rounds(), 1000, database_url, runner)


# --- python -m bench micro ---


@pytest.mark.parametrize(
    ("arguments", "option", "allowed"),
    [
        (["--size-max", "0"], "--size-max", "1 to 1000000"),
        (["--size-max", "many"], "--size-max", "1 to 1000000"),
        (["--only", "trains"], "--only", "book, fills, engine, flush, startup, memory"),
        (["--turns", "0"], "--turns", "1 to 100"),
        (["--quick", "--size-max", "10"], "--size-max", "--quick"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(
    arguments: list[str], option: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1
    assert option in line
    assert allowed in line


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["--out", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("--out: cannot write to")
    assert error.count("\n") == 1


def as_by_hand() -> dict[str, str]:
    """The environment without the name of a worker, in which pytest-benchmark measures nothing."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}


def micro(place: Path, *arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """A small run of its own process, after the lines of ``program``, with pytest as in CI."""
    code = f"{program}\nimport sys\nfrom bench.micro.cli import main\nsys.exit(main(sys.argv[1:]))"
    small = ("--size-max", "10", "--out", str(place))
    command = [sys.executable, "-c", code, *small, *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=as_by_hand() | {"CI": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_run_leaves_raw_times_fits_report_and_charts(tmp_path: Path) -> None:
    done = micro(tmp_path, "--only", "flush", "--turns", "1")
    assert (done.returncode, done.stderr) == (0, "")
    [directory] = tmp_path.iterdir()
    kinds = {file.name for file in directory.iterdir()}
    named = {report.RAW, report.SUMMARY, report.REPORT, "meta.json", "flush.svg", "flush.png"}
    assert kinds == named
    assert [
        (line.curve, line.series, [point.size for point in line.points])
        for line in report.read(directory)
    ] == [("flush", "encode", [1, 10]), ("flush", "encode and write", [1, 10])]
    assert "4 of 4  write [10]" in done.stdout
    meta = json.loads((directory / "meta.json").read_text())
    assert meta["layout"] == report.LAYOUT
    assert meta["limits"] == list(report.LIMITS)
    raw = (directory / report.RAW).read_text()
    assert json.loads(raw)["machine_info"] == records.machine()
    assert str(ROOT) not in raw


def test_a_wrong_answer_is_left_out_and_fails_the_run(tmp_path: Path) -> None:
    program = (
        "from common.book import BookSide\n"
        "right = BookSide.depth\n"
        "BookSide.depth = lambda side, depth: right(side, depth)[1:]"
    )
    done = micro(tmp_path, "--only", "book", "--turns", "2", program=program)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAILED depth [" in done.stdout
    [directory] = tmp_path.iterdir()
    lines = report.read(directory)
    assert {line.curve for line in lines} == {"insert", "cancel", "cross"}
    assert {point.rounds for line in lines for point in line.points} == {bench_book.ROUNDS}
    assert (directory / report.RAW_OF_TURN.format(2)).exists()
    failed = json.loads((directory / "meta.json").read_text())["failed"]
    assert len(failed) == 2 * len(SHAPES)
    assert all("bench_depth" in one for one in failed)


def test_ctrl_c_keeps_what_was_measured_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "micro", "--only", "book", "--out", str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=as_by_hand(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        first = next(line for line in process.stdout if "insert" in line)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert first.strip().startswith("1 of")
    assert process.returncode == 130
    assert "what was measured until then is kept" in rest
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert alive == []
    [directory] = tmp_path.iterdir()
    assert report.read(directory)[0].curve == "insert"
    assert json.loads((directory / "meta.json").read_text())["partial"]


def test_the_garbage_collector_is_as_it_was_after_a_measurement_as_in_a_service() -> None:
    before = gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()
    with as_in_service():
        assert (gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()) != before
    assert (gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()) == before
