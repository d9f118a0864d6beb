"""``python -m bench charts`` and ``tables`` on directories that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest
from bench_records import a_trial, begun

from bench import records, tables, trials
from bench.__main__ import draw_all, main
from bench.capacity import LAYOUT
from bench.exchange_client import HarnessError
from bench.figures import Samples
from bench.service import ROOT
from bench.traffic import Kind
from bench.verdict import Verdict

PUBLISHED = sorted((ROOT / "results").glob("*/summary.json"))[0].parent


def samples(count: int = 400) -> Samples:
    """Book reads that took 1 ms each."""
    at_s = np.linspace(0.0, 4.0, count, endpoint=False)
    nothing = np.zeros(count, dtype=np.int64)
    kinds = nothing + Kind.BOOK
    return Samples(at_s, at_s, at_s + 1e-3, kinds, nothing + 200, nothing)


def line_of(capsys: pytest.CaptureFixture[str], directory: Path) -> str:
    """What ``charts`` says of a directory that it cannot draw."""
    assert main(["charts", str(directory)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("charts: ")
    assert str(directory) in said.err
    return said.err


def test_a_run_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such run" in line_of(capsys, tmp_path / "missing")


@pytest.mark.parametrize("content", [None, "", "{}", '[{"name": 1}]'])
def test_a_directory_without_results_is_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert "holds no results" in line_of(capsys, tmp_path)


def test_a_capacity_run_of_another_layout_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path, {"v3": [100.0]})
    trials.append(tmp_path, a_trial())
    meta = (tmp_path / "meta.json").read_text()
    (tmp_path / "meta.json").write_text(meta.replace(LAYOUT, "capacity-0"))
    assert "another layout (capacity-0)" in line_of(capsys, tmp_path)
    (tmp_path / "meta.json").unlink()
    assert "another layout" in line_of(capsys, tmp_path)


def test_a_list_of_trials_that_is_cut_off_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path, {"v3": [100.0]})
    trials.append(tmp_path, a_trial())
    with (tmp_path / trials.FILE).open("a") as file:
        file.write("{")
    assert "line 2 is cut off" in line_of(capsys, tmp_path)


@pytest.mark.parametrize("kept", [0, 20, 1000, None])
def test_samples_that_cannot_be_read_are_one_line_in_either_kind_of_run(
    kept: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capacity, fixed = tmp_path / "capacity", tmp_path / "fixed"
    capacity.mkdir()
    fixed.mkdir()
    begun(capacity, {"v3": [100.0]})
    trials.append(capacity, a_trial())
    (fixed / "summary.json").write_bytes((PUBLISHED / "summary.json").read_bytes())
    for run, name in ((capacity, a_trial().name), (fixed, records.read_summaries(fixed)[0].name)):
        records.write_samples(run, name, samples())
        file = run / "samples" / f"{name}.npz"
        content = file.read_bytes()
        if kept is None:
            np.savez(file, kind=np.zeros(3))
        else:
            file.write_bytes(content[:kept])
        assert "samples cannot be read" in line_of(capsys, run)


def test_missing_samples_of_a_run_at_fixed_loads_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_bytes((PUBLISHED / "summary.json").read_bytes())
    assert "samples cannot be read" in line_of(capsys, tmp_path)


def test_a_capacity_run_is_drawn_with_the_samples_that_there_are(tmp_path: Path) -> None:
    begun(tmp_path, {"v3": [100.0]})
    for number, rate in enumerate((100.0, 50.0), 1):
        trials.append(tmp_path, a_trial(number=number, rate=rate, purpose="curve"))
    records.write_samples(tmp_path, a_trial().name, samples())
    drawn = {file.name for file in draw_all([tmp_path])}
    assert {"capacity.svg", "latency-by-load.png", "staleness.svg"} <= drawn
    assert all((tmp_path / name).stat().st_size for name in drawn)


def test_a_run_without_any_valid_trial_is_drawn(tmp_path: Path) -> None:
    begun(tmp_path, {"v3": [100.0]})
    trials.append(tmp_path, a_trial(verdict=Verdict.INVALID))
    assert {"capacity.svg", "staleness.svg"} <= {file.name for file in draw_all([tmp_path])}


def test_conditions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000Z_a").mkdir()
    (tmp_path / "20260101T000000Z_a" / "meta.json").write_text("{")
    with pytest.raises(HarnessError, match=r"20260101T000000Z_a/meta\.json: cannot be read"):
        tables.measured(["v3"], ROOT / "README.md", tmp_path)


def test_a_run_against_an_unknown_service_is_not_shown(tmp_path: Path) -> None:
    run = tmp_path / "20260101T000000Z_a"
    run.mkdir()
    conditions = {"version": "v3", "partial": False, "spawned": False, "postgres": None}
    records.write_json(run / "meta.json", conditions)
    assert "No run is published yet" in tables.measured(["v3"], ROOT / "README.md", tmp_path)
    assert tables.newest(tmp_path) == {"v3": run}


SEARCHED = {
    "trial_s": None,
    "profile": "average",
    "cases": ["v1", "v2", "v3", "v3-wal"],
    "repeats": 3,
    "pins": {"service": 0, "generator": 1, "postgres": 1},
    "generators": 1,
}


PUBLISHED_RUN = {
    "git": "1234567",
    "machine": {"cores": 2},
    "python": "3.11.7",
    "packages": {"aiohttp": "3.14.0"},
    "layout": LAYOUT,
    "mode": {"name": "publish"},
    "options": SEARCHED,
    "partial": False,
    "void": False,
}


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({}, True),
        ({"repeats": 2}, False),
        ({"trial_s": 1.0}, False),
        ({"profile": "peak"}, False),
        ({"cases": ["v1", "v3"]}, False),
    ],
)
def test_only_a_whole_search_of_all_cases_on_the_average_day_is_published(
    tmp_path: Path, options: dict[str, object], published: bool
) -> None:
    run = tmp_path / "20260101T000000Z_a"
    run.mkdir()
    records.write_json(run / "meta.json", PUBLISHED_RUN | {"options": SEARCHED | options})
    assert tables.newest_published(tmp_path) == (run if published else None)


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({}, True),
        ({"git": "7654321"}, False),
        ({"git": "1234567-dirty"}, False),
        ({"machine": {"cores": 4}}, False),
        ({"python": "3.14.0"}, False),
        ({"packages": {"aiohttp": "3.14.1"}}, False),
        ({"options": SEARCHED | {"pins": {}}}, False),
        ({"options": SEARCHED | {"generators": 2}}, False),
        ({"resumes": [{"at": "2026-01-01T01:00:00Z"}]}, True),
        ({"resumes": [{"at": "2026-01-01T01:00:00Z", "git": "7654321"}]}, False),
        ({"partial": True}, False),
        ({"mode": {"name": "default"}}, False),
    ],
)
def test_a_published_run_stands_with_those_before_it_of_the_same_product_and_machine(
    tmp_path: Path, changes: dict[str, object], together: bool
) -> None:
    other, run, later = (tmp_path / f"2026010{day}T000000Z_a" for day in (1, 2, 3))
    for place, own in ((other, changes), (run, {}), (later, {})):
        place.mkdir()
        records.write_json(place / "meta.json", PUBLISHED_RUN | own)
    assert tables.published_with(run) == ([other, run] if together else [run])


def test_a_run_that_is_not_published_stands_alone(tmp_path: Path) -> None:
    runs = [tmp_path / f"2026010{day}T000000Z_a" for day in (1, 2)]
    for run, own in zip(runs, ({}, {"mode": {"name": "quick"}}), strict=True):
        run.mkdir()
        records.write_json(run / "meta.json", PUBLISHED_RUN | own)
    assert tables.published_with(runs[1]) == runs[1:]


@pytest.mark.parametrize("revision", ["1234567-dirty", "nogit"])
def test_what_was_never_committed_is_like_no_other_run(tmp_path: Path, revision: str) -> None:
    runs = [tmp_path / f"2026010{day}T000000Z_a" for day in (1, 2)]
    for run in runs:
        run.mkdir()
        records.write_json(run / "meta.json", PUBLISHED_RUN | {"git": revision})
    assert tables.published_with(runs[1]) == runs[1:]
