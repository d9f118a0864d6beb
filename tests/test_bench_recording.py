"""What a run that is measured case by case leaves behind, however it ends."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import recording, records
from bench.exchange_client import HarnessError
from bench.load import Say
from bench.options import INTERRUPTED
from bench.recording import Kind

KIND = Kind("fake", "fake-1", "fakes.jsonl", "bench.fake_report", "the fakes", ("Not real.",))
Work = Callable[[dict[str, int], Path, Say], Iterator[str]]
Record = Callable[[Work], int]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Run a command that does this work, in an empty results directory."""

    def run(work: Work) -> int:
        made = recording.parser(KIND, None, ("v1",), "v1")
        given = ["--out", str(tmp_path), "--pins", "none"]
        return recording.record(KIND, given, made, options_of, work)

    return run


def options_of(asked: Namespace) -> dict[str, int]:
    return {"seed": asked.seed}


def meta_of(results: Path) -> dict[str, Any]:
    [directory] = results.iterdir()
    found: dict[str, Any] = json.loads((directory / "meta.json").read_text())
    return found


def ending_with(error: BaseException) -> Work:
    """One fault, one record, and then this."""

    def work(options: dict[str, int], directory: Path, say: Say) -> Iterator[str]:
        yield "v1: lost an order"
        records.append_line(directory, KIND.file, 1)
        raise error

    return work


def reporting_with(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], list[str]]) -> None:
    report = SimpleNamespace(write=write, draw=lambda directory: [])
    monkeypatch.setitem(sys.modules, KIND.report, report)


def interrupted(directory: Path) -> list[str]:
    raise KeyboardInterrupt


def test_the_conditions_are_there_before_anything_is_measured(
    tmp_path: Path, record: Record
) -> None:
    seen = []

    def work(options: dict[str, int], directory: Path, say: Say) -> Iterator[str]:
        seen.append(meta_of(tmp_path))
        yield from ()

    assert record(work) == 0
    assert (seen[0]["partial"], seen[0]["layout"]) == (True, KIND.layout)
    assert meta_of(tmp_path) == seen[0] | {"partial": False}


def test_an_unexpected_error_leaves_a_run_that_can_be_read(tmp_path: Path, record: Record) -> None:
    with pytest.raises(ZeroDivisionError):
        record(ending_with(ZeroDivisionError()))
    meta = meta_of(tmp_path)
    assert (meta["partial"], meta["void"]) == (True, True)
    assert meta["faults"] == ["v1: lost an order"]
    [directory] = tmp_path.iterdir()
    assert records.read_lines(directory, KIND.layout, dict, KIND.file, int) == [1]


@pytest.mark.parametrize(
    ("error", "code"), [(HarnessError("no database"), 1), (KeyboardInterrupt(), INTERRUPTED)]
)
def test_what_was_over_before_the_end_is_reported(
    error: BaseException,
    code: int,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[Path] = []

    def write(directory: Path) -> list[str]:
        reported.append(directory)
        return []

    reporting_with(monkeypatch, write)
    assert record(ending_with(error)) == code
    assert meta_of(tmp_path)["partial"]
    assert reported == [*tmp_path.iterdir()]


def test_an_interrupted_report_says_where_the_results_are(
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporting_with(monkeypatch, interrupted)

    def work(options: dict[str, int], directory: Path, say: Say) -> Iterator[str]:
        records.append_line(directory, KIND.file, 1)
        yield from ()

    assert record(work) == INTERRUPTED
    assert "results in" in capsys.readouterr().out
    assert not meta_of(tmp_path)["partial"]
