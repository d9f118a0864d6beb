"""Whether the order survives a profile follows from bounds; what a run leaves and keeps."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY
from msgspec import structs
from synthetic import capacity_run, sensitivity_run

from bench import __main__, agenda, capacity, sensitivity_cli, sensitivity_report, tables, trials
from bench.profiles import PROFILES
from bench.sensitivity import (
    Bounds,
    Options,
    Order,
    Sensitivity,
    UnderProfile,
    order_of,
    order_of_two,
)
from bench.sensitivity_charts import orders
from bench.service import ROOT

CASES = ["v1", "v2", "v3"]
OPTIONS = Options(CASES, ["average", "peak", "day"], 1, {})
LIMITS = {
    "average": {},
    "peak": {"null": 140.0, "v1": 25.0, "v2": 80.0, "v3": 55.0},
    "day": {"v2": 545.0, "v3": 550.0},
}


def bounds(stable: float | None, unstable_from: float | None, confirmed: bool = True) -> Bounds:
    return Bounds("v9", stable, unstable_from, confirmed)


@dataclass(frozen=True)
class Known:
    """A capacity and bounds that hold it."""

    capacity: float
    bounds: Bounds


@st.composite
def known(draw: st.DrawFn) -> Known:
    low = draw(st.floats(1.0, 1000.0))
    high = draw(st.floats(low, 1100.0, exclude_min=True))
    capacity_ = draw(st.floats(low, high, exclude_max=True))
    stable = draw(st.sampled_from([low, None]))
    unstable_from = draw(st.sampled_from([high, None]))
    return Known(capacity_, bounds(stable, unstable_from, draw(st.booleans())))


@pytest.mark.parametrize(
    ("slower", "faster", "expected"),
    [
        (bounds(100.0, 110.0), bounds(300.0, 330.0), Order.KEPT),
        (bounds(100.0, 110.0), bounds(110.0, 121.0), Order.KEPT),
        (bounds(100.0, 110.0), bounds(109.0, 120.0), Order.UNDECIDED),
        (bounds(300.0, 330.0), bounds(100.0, 110.0), Order.BROKEN),
        (bounds(100.0, 110.0), bounds(100.0, 110.0), Order.UNDECIDED),
        (bounds(None, 1.0), bounds(1.0, 1.1), Order.KEPT),
        (bounds(100.0, None), bounds(300.0, 330.0), Order.UNDECIDED),
        (bounds(400.0, None), bounds(300.0, 330.0), Order.BROKEN),
        (bounds(100.0, 110.0), bounds(300.0, None), Order.KEPT),
        (bounds(100.0, 110.0, confirmed=False), bounds(300.0, 330.0), Order.UNDECIDED),
    ],
)
def test_bounds_that_overlap_decide_nothing(
    slower: Bounds, faster: Bounds, expected: Order
) -> None:
    assert order_of_two(slower, faster) is expected
    other_way = {Order.KEPT: Order.BROKEN, Order.BROKEN: Order.KEPT}
    assert order_of_two(faster, slower) is other_way.get(expected, expected)


def test_one_pair_breaks_the_order_even_if_its_neighbours_decide_nothing() -> None:
    wide = bounds(50.0, 500.0)
    assert order_of([bounds(300.0, 330.0), wide, bounds(100.0, 110.0)]) is Order.BROKEN
    assert order_of([bounds(100.0, 110.0), wide, bounds(300.0, 330.0)]) is Order.UNDECIDED


@PROPERTY
@given(st.lists(known(), min_size=2, max_size=4))
def test_what_is_decided_is_true_of_every_capacity_within_the_bounds(cases: list[Known]) -> None:
    decided = order_of([each.bounds for each in cases])
    capacities = [each.capacity for each in cases]
    in_order = all(a < b for a, b in pairwise(capacities))
    assert decided is not Order.KEPT or in_order
    assert decided is not Order.BROKEN or not in_order


@PROPERTY
@given(
    st.lists(known(), min_size=2, max_size=4),
    st.lists(st.floats(1.0, 3.0), min_size=4, max_size=4),
)
def test_wider_bounds_never_decide_more(cases: list[Known], factors: list[float]) -> None:
    narrow = [each.bounds for each in cases]
    wide = [
        structs.replace(
            each,
            stable=None if each.stable is None else each.stable / factor,
            unstable_from=None if each.unstable_from is None else each.unstable_from * factor,
        )
        for each, factor in zip(narrow, factors, strict=False)
    ]
    assert order_of(wide) in (order_of(narrow), Order.UNDECIDED)


@PROPERTY
@given(st.lists(known(), min_size=2, max_size=4), st.floats(1.0, 3.0))
def test_a_faster_last_case_keeps_an_order_that_is_kept(cases: list[Known], factor: float) -> None:
    given_ = [each.bounds for each in cases]
    last = given_[-1]
    faster = structs.replace(
        last,
        stable=None if last.stable is None else last.stable * factor,
        unstable_from=None if last.unstable_from is None else last.unstable_from * factor,
    )
    if order_of(given_) is Order.KEPT:
        assert order_of([*given_[:-1], faster]) is Order.KEPT


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        (bounds(506.0, 550.0), "506–550 %"),
        (bounds(506.0, None), "≥ 506 %"),
        (bounds(None, 2.0), "< 2 %"),
        (bounds(506.0, 550.0, confirmed=False), "506–550 %, not confirmed"),
        (bounds(None, None, confirmed=False), "none found, not confirmed"),
    ],
)
def test_bounds_are_said_with_their_doubts(given_: Bounds, text: str) -> None:
    assert sensitivity_report.bounds_text(given_) == text


@pytest.mark.parametrize("profile", PROFILES)
def test_a_steady_profile_has_no_rate_above_its_mean(profile: str) -> None:
    highest = agenda.highest_rate(OPTIONS.of_profile(profile))
    assert (highest == 1.0) is PROFILES[profile].steady
    assert highest <= 6.5


def test_a_search_under_a_peak_begins_where_the_peak_can_be_carried(tmp_path: Path) -> None:
    run = capacity.Run(tmp_path, OPTIONS.of_profile("peak"), print, print)
    task = run._next()
    assert task is not None
    assert task.rate == pytest.approx(capacity.NULL_START / 6.5, rel=1e-3)


def test_the_chart_shows_any_bounds() -> None:
    odd = [bounds(100.0, 110.0), bounds(90.0, None), bounds(None, 2.0)]
    nothing = [bounds(None, None, confirmed=False)] * 3
    profiles = [
        UnderProfile("average", 1.0, odd, order_of(odd)),
        UnderProfile("peak", 6.5, nothing, order_of(nothing)),
    ]
    axes = orders(Sensitivity(profiles)).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert {"broken", "undecided", "100–110 %", "≥ 90 %", "< 2 %"} <= set(texts)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["average", "peak"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept under one profile, broken under the second, undecided under the third."""
    directory = tmp_path_factory.mktemp("results") / "20260101T000000Z_a"
    sensitivity_run(directory, OPTIONS, LIMITS)
    return directory


def test_a_whole_run_is_not_measured_again_and_says_what_was_kept(
    run: Path,
) -> None:
    assert __main__.main(["sensitivity", "--resume", str(run)]) == 0
    found = sensitivity_report.read(run)
    decided = {each.profile: each.order for each in found.profiles}
    assert decided == {
        "average": Order.KEPT,
        "peak": Order.BROKEN,
        "day": Order.UNDECIDED,
    }
    for each in found.profiles:
        for one in each.cases:
            limit = LIMITS[each.profile].get(one.case)
            assert limit is None or (one.stable or 0.0) <= limit < (one.unstable_from or math.inf)
    report = (run / "report.md").read_text()
    assert "100 % of `peak` is a peak of 650 %" in report
    assert "× 6.50" in report
    assert "is kept in 1 of 3 profiles, broken in 1, undecided in 1." in report
    assert "Not complete" not in report


def test_its_chart_is_drawn_again_from_the_records(run: Path) -> None:
    assert __main__.draw_all([run]) == [run / "sensitivity.svg", run / "sensitivity.png"]
    assert __main__.draw_all([run / "peak"])


def test_its_capacity_runs_are_no_runs_of_their_own(run: Path, tmp_path: Path) -> None:
    assert tables.newest_published(run.parent) is None
    assert tables.newest_runs(run.parent) == [run]
    whole = tmp_path / "20250101T000000Z_b"
    capacity_run(whole, agenda.Options(CASES, "publish", "average", 1, {}, 3))
    (tmp_path / run.name).symlink_to(run)
    assert tables.newest_published(tmp_path) == whole
    assert tables.newest_runs(tmp_path) == [whole, tmp_path / run.name]


def test_a_run_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    sensitivity_run(directory, Options(CASES, ["average"], 1, {}), LIMITS)
    assert sensitivity_cli._is_whole(directory / "average")
    capacity_run(directory / "peak", OPTIONS.of_profile("peak"), trials_max=3)
    assert not sensitivity_cli._is_whole(directory / "peak")
    assert not sensitivity_cli._is_whole(directory / "day")


def test_a_run_whose_audit_has_failed_does_not_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    sensitivity_run(directory, Options(CASES, ["average"], 1, {}), LIMITS)
    last = trials.read(directory / "average")[-1]
    trials.append(directory / "average", structs.replace(last, faults=["an order is missing"]))
    assert __main__.main(["sensitivity", "--resume", str(directory)]) == 1
    said = capsys.readouterr().err
    assert "is void, its audit has failed" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "option", "allowed"),
    [
        (["--version", "v9", "v1"], "--version", "v1, v2, v3"),
        (["--version", "v3"], "--version", "two cases"),
        (["--version", "v3", "v3"], "--version", "two cases"),
        (["--profile", "calm"], "--profile", "average, concentration, peak"),
        (["--seed", "-1"], "--seed", "0 to"),
        (["--pins", "service=x"], "--pins", "service, generator, postgres"),
        (["--resume", "x", "--version", "v1", "v2"], "--resume", "leave out --version"),
        (["--resume", "x", "--profile", "peak"], "--resume", "leave out --profile"),
        (["--resume", "x", "--seed", "1"], "--resume", "leave out --seed"),
        (["--resume", "x", "--pins", "none"], "--resume", "leave out --pins"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(
    arguments: list[str], option: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        sensitivity_cli.main(arguments)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1
    assert option in line
    assert allowed in line


@pytest.mark.parametrize("content", [None, "", '{"layout": "capacity-1", "options": {}}'])
def test_a_foreign_directory_is_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    if content is not None:
        directory.mkdir()
        (directory / "meta.json").write_text(content)
    assert sensitivity_cli.main(["--resume", str(directory)]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"{directory}: ")
    assert line.count("\n") == 1


@pytest.mark.alone
def test_an_interrupted_run_keeps_what_there_is_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "sensitivity", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("  1  null"):
                    break
            children = psutil.Process(process.pid).children(recursive=True)
            # Like Ctrl-C, but also where a shell has started the tests in the background.
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, rest
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert "go on with: python -m bench sensitivity --resume" in rest
    (directory,) = tmp_path.iterdir()
    assert json.loads((directory / "meta.json").read_text())["partial"]
    (profile,) = sensitivity_report.read(directory).profiles
    assert (profile.profile, profile.order) == ("average", Order.UNDECIDED)
    assert len(trials.read(directory / "average")) == 1
