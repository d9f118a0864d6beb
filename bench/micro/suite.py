"""The benchmarks as a run of pytest: sizes, fixtures, progress, and what is written of them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop

from bench import records
from bench.micro.books import Books
from bench.micro.measuring import as_in_service
from bench.service import ROOT, Database
from common.database import prepare_schema

BENCHMARKS = ("book", "fills", "engine", "flush", "startup", "memory")
# What took longer, or works on the same books, is not measured again in the next turns.
REPEATED_MAX_S = 2.0
_HERE = Path(__file__).parent


class Suite:
    """A plugin of pytest that gives the benchmarks what they ask for and hears how they end."""

    def __init__(self, size_max: int, server: Database, say: Callable[[str], None]) -> None:
        self.failed: list[str] = []
        self.interrupted = False
        self._passed: set[str] = set()
        self._size_max = size_max
        self._long: set[tuple[str, str]] = set()
        self._server = server
        self._say = say
        self._total = 0
        self._numbers = count(1)

    def turn(self, names: Sequence[str], raw: Path) -> None:
        """Measure these of BENCHMARKS; write the times of what has passed to ``raw``, if any."""
        self._passed.clear()
        place = ("--rootdir", ROOT, "-c", _HERE / "pytest.ini")
        output = (
            # The place of a wrong answer is enough: where CI is set, pytest would draw the whole
            # difference, which takes minutes for a thousand books.
            "--assert=plain",
            "--capture=no",
            "--benchmark-quiet",
            f"--benchmark-json={raw}",
            # Nothing is saved there, but it would make the directory.
            f"--benchmark-storage=file://{raw.parent}",
        )
        files = (_HERE / f"bench_{name}.py" for name in names)
        pytest.main([str(each) for each in (*place, *output, *files)], plugins=[self])

    # ---- what the benchmarks ask for ----

    @pytest.fixture(scope="module")
    def books(self, request: pytest.FixtureRequest) -> Iterator[Books]:
        """Shared, because each benchmark leaves them as it found them."""
        made = Books(*request.param)
        with as_in_service():
            yield made

    @pytest.fixture
    def database_url(self) -> Iterator[str]:
        """An empty database with the tables of the cases, gone afterwards."""
        database = f"micro{next(self._numbers)}"
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}".encode())
            prepare_schema(self._server.url_of(database))
            yield self._server.url_of(database)
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())

    @pytest.fixture
    def runner(self) -> Iterator[asyncio.Runner]:
        """An event loop like that of a service."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
            yield made

    # ---- what becomes of them ----

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """The lines here are ours."""
        config.pluginmanager.unregister(name="terminalreporter")

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """Leave out sizes above the largest, but two of each benchmark: growth needs two."""
        least: dict[object, int] = {}
        for item in items:
            least[item.function] = min(size_of(item), least.get(item.function, size_of(item)))
        items[:] = [
            item
            for item in items
            if size_of(item) <= max(self._size_max, 10 * least[item.function])
            and _together(item.nodeid) not in self._long
        ]
        self._total = len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._fail(report.nodeid, report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._fail(report.nodeid, report)
        elif report.when == "call":
            self._passed.add(report.nodeid)
            if report.duration > REPEATED_MAX_S:
                self._long.add(_together(report.nodeid))
            done = f"{len(self._passed):>3} of {self._total}"
            self._say(f"{done}  {_short(report.nodeid)}  {report.duration:.1f} s")

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.interrupted = excinfo.type is KeyboardInterrupt

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_json(self, benchmarks: list[Any]) -> None:
        """Only what has passed is written: no number without a right answer."""
        passed = self._passed.difference(self.failed)
        benchmarks[:] = [each for each in benchmarks if each.fullname in passed]

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_machine_info(self) -> dict[str, Any]:
        """Without the name of the host, and without a second of asking for the CPU."""
        return records.machine()

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_commit_info(self) -> dict[str, Any]:
        return {"id": records.git_revision()}

    def _fail(self, nodeid: str, report: pytest.CollectReport | pytest.TestReport) -> None:
        self.failed.append(nodeid)
        reason = str(report.longreprtext).strip().splitlines()[-1]
        self._say(f"FAILED {_short(nodeid)}: {reason}")


def size_of(item: pytest.Function) -> int:
    """Of the benchmark, or of the books that it works on."""
    params: dict[str, Any] = dict(item.callspec.params)
    size: int = params["size"] if "size" in params else params["books"][0]
    return size


def _together(nodeid: str) -> tuple[str, str]:
    """File and parameters, which benchmarks on the same books share."""
    file, _, benchmark = nodeid.partition("::")
    return file, benchmark.partition("[")[2]


def _short(nodeid: str) -> str:
    """``bench/micro/bench_book.py::bench_insert[…]`` as ``insert […]``."""
    return nodeid.rpartition("::")[2].removeprefix("bench_").replace("[", " [", 1)
