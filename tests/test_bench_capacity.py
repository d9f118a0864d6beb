"""``python -m bench capacity``: what it refuses, and how a run goes on after it was broken off."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor as Workers
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil  # type: ignore[import-untyped]
import pytest
from bench_records import SMALL_MARKET, a_trial, begun
from client import eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY
from msgspec.structs import replace

from bench import capacity_cli, evenness, records, trials
from bench.agenda import Options, Task, mode_of, next_task, search_s, trusted_per_s
from bench.capacity import LAYOUT
from bench.capacity_cli import main, read_options
from bench.capacity_report import (
    capacity_table,
    capacity_text,
    log_lines,
    point_table,
    run_table,
    tight_text,
)
from bench.findings import Finding, Range, found, pooled
from bench.report import Printer
from bench.trials import LogWrites, Record
from bench.verdict import Verdict

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0
STOP_MAX_S = 10.0
# A service whose database was killed with it tries for EXCHANGE_DRAIN_S to write what is left.
DRAIN_MAX_S = 30.0

NewPlace = Callable[[], Path]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must end with one line, and gives that line."""

    def run(*arguments: object) -> str:
        try:
            code: object = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        assert code in (1, 2)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    return run


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "option", "allowed"),
    [
        (["--version", "v9"], "--version", "v1, v1x2, v1x4, v2, v2-wal, v3, v3-wal"),
        (["--version", "v3", "null"], "--version", "v1, v1x2, v1x4, v2, v2-wal, v3, v3-wal"),
        (["--mode", "fast"], "--mode", "quick, default, publish"),
        (["--profile", "x"], "--profile", "average, "),
        (["--seed", "-1"], "--seed", "0 to"),
        (["--repeats", "0"], "--repeats", "1 to 100"),
        (["--generators", "17"], "--generators", "1 to 16"),
        (["--trial-seconds", "0.5"], "--trial-seconds", "1 to 3600"),
        (["--trial-seconds", "nan"], "--trial-seconds", "1 to 3600"),
        (["--pins", "service=x"], "--pins", "service, generator, postgres"),
        (["--pins", "service=0,service=0"], "--pins", "each once"),
        (["--resume", "x", "--mode", "quick", "--trial-seconds", "2"], "--resume", "--mode"),
        (["--resume", "x", "--mode", "default"], "--resume", "leave out --mode"),
        (["--resume", "x", "--repeats", "2", "--seed", "1"], "--resume", "leave out --seed"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(
    arguments: list[str], option: str, allowed: str, refused: Callable[..., str]
) -> None:
    line = refused(*arguments)
    assert line.startswith(option)
    assert allowed in line


def test_a_results_directory_that_cannot_be_written_is_known_before_the_run(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "file").touch()
    assert refused("--out", tmp_path / "file").startswith("--out: cannot write to")


def test_a_run_that_is_not_there_cannot_go_on(tmp_path: Path, refused: Callable[..., str]) -> None:
    line = refused("--resume", tmp_path / "missing")
    assert line.startswith("--resume: ")
    assert "no such run" in line


@pytest.mark.parametrize(
    "meta", [None, "", "{", "[]", '{"version": "v3", "scales": [100.0]}', '{"layout": "x"}']
)
def test_a_directory_of_another_layout_cannot_go_on(
    meta: str | None, tmp_path: Path, refused: Callable[..., str]
) -> None:
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    line = refused("--resume", tmp_path)
    assert line.startswith("--resume: ")
    assert "another layout" in line


def test_a_run_of_an_older_layout_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    begun(tmp_path, {"v3": [10.0]})
    meta = (tmp_path / "meta.json").read_text()
    (tmp_path / "meta.json").write_text(meta.replace(LAYOUT, "capacity-0"))
    assert "another layout (capacity-0)" in refused("--resume", tmp_path)


def test_a_list_of_trials_that_is_cut_off_names_the_line_and_what_to_do(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    begun(tmp_path, {"v3": [10.0]})
    for number in (1, 2, 3):
        trials.append(tmp_path, a_trial(number=number))
    content = (tmp_path / trials.FILE).read_bytes()
    (tmp_path / trials.FILE).write_bytes(content[:-7])
    line = refused("--resume", tmp_path)
    assert "line 3 is cut off" in line
    assert "remove it to go on with the 2 before it" in line


def test_a_line_that_is_no_trial_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    begun(tmp_path, {"v3": [10.0]})
    trials.append(tmp_path, a_trial())
    with (tmp_path / trials.FILE).open("a") as file:
        file.write("{}\n")
    assert "line 2 cannot be read" in refused("--resume", tmp_path)


def test_a_void_run_does_not_go_on(tmp_path: Path, refused: Callable[..., str]) -> None:
    begun(tmp_path, {"v3": [10.0]})
    trials.append(tmp_path, a_trial(faults=["cash sums to zero: it does not"]))
    line = refused("--resume", tmp_path)
    assert "void" in line
    assert "begin a new run" in line


def test_a_run_may_end_with_fewer_repeats_and_says_how_many_were_planned(tmp_path: Path) -> None:
    options = replace(begun(tmp_path, {"v3": [10.0]}), repeats=5)
    records.write_json(tmp_path / "meta.json", {"layout": LAYOUT, "options": options})
    for number, repeat in ((1, 1), (2, 2), (3, 3)):
        trials.append(tmp_path, a_trial(number=number, repeat=repeat))
    run = capacity_cli.resumed(tmp_path, Printer(), repeats=2)
    assert (run.options.repeats, run.options.repeats_planned) == (2, 5)
    [case] = found(run.options, run.done).cases
    assert (case.repeats, case.trials) == (2, 2)
    again = capacity_cli.resumed(tmp_path, Printer())
    assert again.options == options


# ---- what a finding says besides the capacity ----


def test_a_load_that_was_not_stable_is_marked(tmp_path: Path) -> None:
    options = begun(tmp_path, {"v3": [25.0, 100.0]})
    done = [
        a_trial(rate=25.0, purpose="curve"),
        a_trial(number=2, rate=100.0, purpose="curve", verdict=Verdict.FAIL),
    ]
    rows = point_table(found(options, done).cases)[2:]
    assert ["not stable" in row for row in rows] == [False, True]


def test_a_log_is_told_of_where_there_is_one(tmp_path: Path) -> None:
    options = Options(["v3-wal"], "quick", "average", 1, {}, 1)
    writes = LogWrites(records_per_write=12.34, writes_per_s=1500.0, ms_p50=0.1)
    [line] = log_lines(found(options, [a_trial(case="v3-wal", log=writes)]).cases)
    assert "1,500 times/s" in line
    assert "12.3 records" in line
    assert log_lines(found(options, [a_trial(case="v3-wal")]).cases) == []


def test_a_log_is_told_of_by_the_mean_of_the_repeats_at_their_capacity() -> None:
    def at(repeat: int, rate: float, verdict: Verdict, *writes_per_s: float) -> list[Record]:
        return [
            a_trial(
                case="v3-wal",
                repeat=repeat,
                rate=rate,
                verdict=verdict,
                log=LogWrites(records_per_write=each / 100.0, writes_per_s=each, ms_p50=each / 1e4),
            )
            for each in writes_per_s
        ]

    done = [
        *at(1, 950.0, Verdict.PASS, 9000.0),
        *at(1, 1000.0, Verdict.PASS, 1000.0, 2000.0),
        *at(1, 1000.0, Verdict.UNDECIDED, 9000.0),
        *at(1, 1020.0, Verdict.FAIL, 9000.0, 9000.0, 9000.0),
        *at(2, 900.0, Verdict.PASS, 500.0),
        *at(2, 920.0, Verdict.FAIL, 9000.0, 9000.0, 9000.0),
        *at(2, 800.0, Verdict.PASS, 9000.0),
    ]
    [finding] = found(Options(["v3-wal"], "quick", "average", 1, {}, 2), done).cases
    assert finding.log == LogWrites(records_per_write=10.0, writes_per_s=1000.0, ms_p50=0.1)


def test_shares_compare_what_was_measured_in_the_same_repeat() -> None:
    rates = {"null": (1000.0, 500.0), "v3": (800.0, 450.0), "v3-wal": (600.0, 405.0)}
    options = Options(["v3", "v3-wal"], "quick", "average", 1, {}, 2)
    findings = found(
        options,
        [
            a_trial(case=case, repeat=repeat, rate=rate)
            for case, both in rates.items()
            for repeat, rate in enumerate(both, start=1)
        ],
    )
    v3, logged, null = capacity_table(findings.every)[2:]
    assert "85 % (80–90)" in v3
    assert "70 % (60–81)" in logged
    assert "100 %" in null
    [line] = log_lines(findings.cases)
    assert "v3-wal has 82 % (75–90) of the capacity without a log" in line


def searched_in_three_repeats(*said: tuple[int, float, Verdict, Verdict]) -> Finding:
    """What three votes each come to: the repeat, the rate, the verdicts at 50 and at 10 ms."""
    one = a_trial(case="v3")
    done = [
        replace(one, repeat=repeat, rate=rate, verdict=verdict, verdict_tight=tight)
        for repeat, rate, verdict, tight in said
        for _ in range(3)
    ]
    [finding] = found(Options(["v3"], "publish", "average", 1, {}, 3), done).cases
    return finding


def test_a_repeat_in_which_nothing_passed_is_the_least_of_the_range_and_not_left_out() -> None:
    passed, failed = Verdict.PASS, Verdict.FAIL
    finding = searched_in_three_repeats(
        (1, 1000.0, passed, passed),
        (1, 1020.0, failed, failed),
        (2, 1000.0, passed, failed),
        (2, 1020.0, failed, failed),
        (3, 1000.0, passed, passed),
        (3, 1020.0, passed, passed),
        (3, 1100.0, passed, passed),
        (3, 1120.0, failed, failed),
    )
    assert finding.confirmed
    assert capacity_text(finding) == "1000 % (1000–1100)"
    assert finding.tight == Range(1000.0, None, 1100.0)
    assert finding.tight_unstable_from == Range(1020.0, 1000.0, 1120.0)
    assert tight_text(finding) == "1000 % (none–1100), unstable from 1020 %"
    twice = searched_in_three_repeats(
        (1, 1000.0, passed, passed),
        (1, 1020.0, failed, failed),
        (2, 1000.0, passed, failed),
        (2, 1020.0, failed, failed),
        (3, 1000.0, passed, failed),
        (3, 1020.0, passed, failed),
        (3, 1100.0, passed, failed),
        (3, 1120.0, failed, failed),
    )
    assert twice.tight.median is None
    assert tight_text(twice) == "none–1000 %, unstable from 1000 %"
    never = searched_in_three_repeats((1, 1000.0, passed, failed), (1, 1020.0, failed, failed))
    assert tight_text(never) == "< 1000 %"


def test_what_failed_at_a_capacity_is_said_beside_it() -> None:
    one = a_trial(case="v3", total=1000)
    bad = replace(one, verdict=Verdict.FAIL, over=400)
    above = replace(one, rate=102.0, verdict=Verdict.FAIL, over=900)
    done = [*[replace(one, rate=100.0, over=2)] * 3, *[replace(bad, rate=100.0)] * 2, *[above] * 3]
    [finding] = found(Options(["v3"], "publish", "average", 1, {}, 1), done).cases
    assert (finding.capacity.median, finding.confirmed) == (100.0, True)
    assert finding.late == (3 * 2 + 2 * 400) / 5000
    assert "16.1%" in capacity_table([finding])[2]


@pytest.mark.parametrize(
    ("pins", "limited"),
    [({"service": 0, "generator": 1, "postgres": 1}, True), ({"service": 0}, False), ({}, False)],
)
def test_only_a_generator_that_is_pinned_to_its_core_takes_cpu_from_postgresql(
    pins: dict[str, int], limited: bool
) -> None:
    shares = {"service": 0.6, "postgres backends": 0.5, "generator": 0.4}
    one = a_trial(case="v3", cpu_share=shares)
    [finding] = found(Options(["v3"], "quick", "average", 1, pins, 1), [one]).cases
    assert finding.limit is not None
    assert finding.limit.exhausted is limited


def test_a_rate_that_only_the_generator_could_not_reach_is_not_called_unstable() -> None:
    passed = (1, 1000.0, Verdict.PASS, Verdict.PASS)
    for above, unstable_from in ((Verdict.FAIL, "1020 %"), (Verdict.INVALID, "–")):
        # Six trials above, because an invalid one is made again three times.
        finding = searched_in_three_repeats(passed, *[(1, 1020.0, above, above)] * 2)
        assert finding.at_least == (above is Verdict.INVALID)
        _, _, row = capacity_table([finding])
        assert [cell.strip() for cell in row.strip("|").split("|")][3] == unstable_from


def test_a_capacity_is_at_least_so_much_where_one_repeat_could_not_see_its_end() -> None:
    passed, failed, invalid = Verdict.PASS, Verdict.FAIL, Verdict.INVALID
    seen = [(1, 1000.0, passed, passed), (1, 1020.0, failed, failed)]
    unseen = [(2, 1000.0, passed, passed), *[(2, 1020.0, invalid, invalid)] * 2]
    assert not searched_in_three_repeats(*seen).at_least
    both = searched_in_three_repeats(*seen, *unseen)
    assert (both.repeats, both.at_least, capacity_text(both)) == (2, True, "≥ 1000 %")


def test_a_repeat_that_was_broken_off_counts_only_where_no_other_is() -> None:
    passed, failed = Verdict.PASS, Verdict.FAIL
    whole = [(1, 1000.0, passed, passed), (1, 1020.0, failed, failed)]
    begun = searched_in_three_repeats(*whole, (2, 1500.0, failed, failed))
    assert (begun.repeats, capacity_text(begun)) == (1, "1000 %")
    alone = searched_in_three_repeats((1, 1000.0, passed, passed))
    assert (alone.repeats, alone.confirmed) == (1, False)
    assert alone.capacity.median == 1000.0


PASSED, FAILED = Verdict.PASS, Verdict.FAIL


def searched_between(
    rates: dict[str, tuple[float, float]], repeats: int = 1, times: int = 3
) -> tuple[Options, list[Record]]:
    """A run that found each case stable at one rate and not at the other, in every repeat."""
    done = [
        a_trial(case=case, repeat=repeat, rate=rate, verdict=verdict, verdict_tight=verdict)
        for case, both in rates.items()
        for repeat in range(1, repeats + 1)
        for rate, verdict in zip(both, (PASSED, FAILED), strict=True)
        for _ in range(times)
    ]
    return Options([*rates][1:], "publish", "average", 1, {}, repeats), done


def test_runs_of_one_product_have_one_median_and_one_range_over_all_their_repeats() -> None:
    earlier = searched_between({"null": (1000.0, 1020.0), "v3": (800.0, 810.0)}, repeats=2)
    later = searched_between(
        {"null": (900.0, 910.0), "v3": (630.0, 640.0), "v3-wal": (567.0, 570.0)}, times=1
    )
    findings = pooled([earlier, later])
    v3, logged = findings.cases
    assert (v3.repeats, v3.capacity, v3.tight) == (3, *[Range(800.0, 630.0, 800.0)] * 2)
    assert v3.unstable_from == v3.tight_unstable_from == Range(810.0, 640.0, 810.0)
    assert v3.of_null_range == Range(0.8, 0.7, 0.8)
    assert (v3.confirmed, v3.repeats_confirmed) == (False, 2)
    assert capacity_text(v3) == "800 % (630–800), 2 of 3 confirmed"
    assert v3.trials == 2  # what is no range is that of the last run
    assert (logged.repeats, logged.capacity.median) == (1, 567.0)
    assert logged.of_flush.median == pytest.approx(0.9)
    assert findings.null is not None
    assert findings.null.capacity == Range(1000.0, 900.0, 1000.0)


def test_one_run_alone_says_the_same_pooled_or_not() -> None:
    run = searched_between({"null": (1000.0, 1020.0), "v3": (800.0, 810.0)}, repeats=2)
    assert pooled([run]) == found(*run)


def test_runs_are_shown_one_by_one_with_how_far_they_are_apart() -> None:
    first = found(*searched_between({"null": (1000.0, 1020.0), "v3": (880.0, 890.0)}))
    second = found(
        *searched_between({"null": (1000.0, 1020.0), "v3": (800.0, 810.0), "v1": (100.0, 102.0)})
    )
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in run_table({"a": first, "b": second})[2:]
    ]
    assert rows == [
        ["v3", "880 %", "800 %", "10 %", "88 %", "80 %", "10 %"],
        ["null", "1000 %", "1000 %", "0 %", "100 %", "100 %", "0 %"],
        ["v1", "–", "100 %", "–", "–", "10 %", "–"],
    ]


def test_what_limits_is_said_of_the_capacity_with_each_repeat_counted_once() -> None:
    def trials_at(repeat: int, rate: float, count: int, share: float) -> list[Record]:
        one = a_trial(case="v3", repeat=repeat, rate=rate, cpu_share={"service": share})
        higher = {1200.0, 1224.0, 1.02 * rate} - {rate}
        above = [a_trial(case="v3", repeat=repeat, rate=r, verdict=Verdict.FAIL) for r in higher]
        return [one] * count + above * 3

    done = [
        *trials_at(1, 1200.0, 5, 0.99),
        *trials_at(2, 1000.0, 3, 0.90),
        *trials_at(3, 900.0, 3, 0.81),
    ]
    [finding] = found(Options(["v3"], "publish", "average", 1, {}, 3), done).cases
    assert finding.capacity.median == 1000.0
    assert finding.limit is not None
    assert "at 1000 %" in finding.limit.sentence
    assert finding.limit.utilisation == pytest.approx(0.90)


# ---- where a run stands follows from its trials ----


@st.composite
def options(draw: st.DrawFn) -> Options:
    mode = draw(st.sampled_from(["quick", "default"]))
    repeats = draw(st.integers(1, 2))
    points = {"v3": draw(st.lists(st.sampled_from([25.0, 100.0]), max_size=3))}
    return Options(
        ["v2", "v3"], mode, "average", 1, {}, repeats, search=draw(st.booleans()), points=points
    )


def pretended(task: Task, done: Sequence[Record], seed: int) -> Record:
    """What a service with a limit near 400 % might have shown, good and bad luck included."""
    luck = Random(f"{seed} {len(done)}").random()
    verdict = Verdict.PASS if task.rate <= 400.0 else Verdict.FAIL
    if luck < 0.1:
        verdict = Verdict.INVALID
    elif luck < 0.2:
        verdict = Verdict.UNDECIDED
    elif luck < 0.3:
        verdict = Verdict.FAIL
    return a_trial(
        number=len(done) + 1,
        case=task.case,
        repeat=task.repeat,
        purpose=task.purpose,
        rate=task.rate,
        verdict=verdict,
    )


def gone_on(asked: Options, done: list[Record], seed: int, start: float) -> list[Record]:
    """All trials of the whole run."""
    done = list(done)
    while (task := next_task(asked, done, lambda case: start)) is not None:
        done.append(pretended(task, done, seed))
    return done


@given(asked=options(), seed=st.integers(0, 10_000), data=st.data())
@settings(PROPERTY, max_examples=40)
def test_a_run_that_was_cut_anywhere_goes_on_with_the_same_trials(
    asked: Options, seed: int, data: st.DataObject
) -> None:
    whole = gone_on(asked, [], seed, 300.0)
    kept = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as directory:
        for one in whole[:kept]:
            trials.append(Path(directory), one)
        recorded = trials.read(Path(directory)) if kept else []
    assert gone_on(asked, recorded, seed, 300.0) == whole


def test_a_search_that_has_begun_does_not_ask_where_to_start() -> None:
    asked = Options(["v3"], "quick", "average", 1, {}, 1)
    whole = gone_on(asked, [], 1, 300.0)
    in_v3 = 1 + [one.case for one in whole].index("v3")
    assert gone_on(asked, whole[:in_v3], 1, 7.0) == whole


def test_a_run_can_begin_at_the_bounds_of_another(tmp_path: Path) -> None:
    earlier = replace(begun(tmp_path, {"v3": []}), search=True)
    records.write_json(tmp_path / "meta.json", {"layout": LAYOUT, "options": earlier})
    for one in gone_on(earlier, [], 1, 300.0):
        trials.append(tmp_path, one)
    bounds = capacity_cli.bounds_of_run(tmp_path, "average", ["v2", "v3"])
    assert set(bounds) == {"null", "v3"}
    asked = Options(["v2", "v3"], "quick", "average", 1, {}, 1, begin_at=bounds)
    first: dict[str, float] = {}
    for one in gone_on(asked, [], 2, 7.0):
        first.setdefault(one.case, one.rate)
    assert first == {"null": bounds["null"][0], "v2": 7.0, "v3": bounds["v3"][0]}
    assert search_s(asked, "v3") < search_s(asked, "v2")


def test_a_run_to_begin_at_that_is_not_there_is_named(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused("--out", tmp_path, "--begin-at", tmp_path / "missing")
    assert line.startswith("--begin-at: ")
    assert "no such run" in line
    assert list(tmp_path.iterdir()) == []


def test_a_run_under_other_traffic_is_none_to_begin_at(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    begun(earlier, {"v3": []})
    trials.append(earlier, a_trial())
    out = tmp_path / "out"
    out.mkdir()
    line = refused("--out", out, "--profile", "peak", "--begin-at", earlier)
    assert "was measured under the profile average" in line
    assert "allowed is a run under peak" in line
    assert list(out.iterdir()) == []


def test_a_point_that_is_never_valid_is_given_up() -> None:
    asked = Options(["v3"], "quick", "average", 1, {}, 1, search=False, points={"v3": [25.0, 50.0]})
    done: list[Record] = []
    while (task := next_task(asked, done, lambda case: 0.0)) is not None:
        verdict = Verdict.INVALID if task.rate == 25.0 else Verdict.PASS
        done.append(a_trial(purpose=task.purpose, rate=task.rate, verdict=verdict))
    assert [one.rate for one in done] == [25.0] * 4 + [50.0]


def test_the_generator_is_trusted_as_far_as_it_was_in_time_with_the_null_server() -> None:
    in_time = a_trial().generator
    late = replace(in_time, send_lag_ms_p99=2.5)
    assert (in_time.late, late.late) == (False, True)
    done = [
        a_trial(case="null", offered_per_s=1000.0, generator=in_time),
        a_trial(case="null", offered_per_s=3000.0, generator=in_time),
        a_trial(case="null", offered_per_s=8000.0, generator=late),
        a_trial(case="v3", offered_per_s=5000.0, generator=in_time),
    ]
    assert trusted_per_s(done) == 3000.0
    assert trusted_per_s(done[2:]) == 0.0


def test_trials_are_as_long_as_was_asked_for() -> None:
    asked = Options(["v3"], "publish", "average", 1, {}, 1)
    assert {mode_of(asked, case).duration_s for case in ("v3", "null")} == {30.0}
    assert (mode_of(asked, "v3").width, mode_of(asked, "null").width) == (0.025, 0.05)
    default = Options(["v3"], "default", "average", 1, {}, 1)
    assert {mode_of(default, case).curve_s for case in ("v3", "null")} == {10.0}
    short = Options(["v3"], "publish", "average", 1, {}, 1, trial_s=1.5)
    assert {mode_of(short, case).duration_s for case in ("v3", "null")} == {1.5}


# ---- a run that is broken off ----


def resumed(directory: Path) -> "subprocess.Popen[str]":
    """The command at work; what it leaves in the directory for temporary files is in the run's."""
    (directory / "tmp").mkdir(exist_ok=True)
    (directory / "tmp").chmod(0o755)  # under root the database runs under another account
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "capacity", "--resume", str(directory)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(directory / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def broken_off(directory: Path, how: signal.Signals) -> tuple[int, str]:
    """End a run in its second trial: its exit code, and what it says then. Nothing goes on."""
    with resumed(directory) as process:
        assert process.stdout
        said = ""
        while not re.search(r"^ +1  ", said, re.MULTILINE):
            line = process.stdout.readline()
            assert line, said
            said += line
        eventually(lambda: generates(process), PATIENCE_S)
        children = psutil.Process(process.pid).children(recursive=True)
        begin_s = time.monotonic()
        process.send_signal(how)
        rest = process.stdout.read()
        code = process.wait()
    assert time.monotonic() - begin_s < STOP_MAX_S
    _, alive = psutil.wait_procs(children, timeout=DRAIN_MAX_S)
    assert not alive
    return code, rest


def generates(process: "subprocess.Popen[str]") -> bool:
    """Whether a load generator runs."""
    assert process.poll() is None
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):
            if "bench.loadgen" in child.cmdline():
                return True
    return False


def completed(directory: Path) -> None:
    """Begin, or go on, to the end, which must add what is missing and nothing else."""
    before = trials.read(directory) if (directory / trials.FILE).exists() else []
    command = json.loads((directory / "meta.json").read_text())["command"]
    with resumed(directory) as process:
        said, _ = process.communicate(timeout=4 * PATIENCE_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "Warning" not in said
    assert f"results in {os.path.relpath(directory, ROOT)}" in said
    after = trials.read(directory)
    assert after[: len(before)] == before
    assert [one.number for one in after] == list(range(1, len(after) + 1))
    asked = read_options(directory)
    assert next_task(asked, after, lambda case: 0.0) is None
    for case, rates in asked.points.items():
        valid = [one for one in after if one.case == case and one.verdict is not Verdict.INVALID]
        assert all([one.rate for one in valid].count(rate) <= rates.count(rate) for rate in rates)
        assert {one.rate for one in after if one.case == case} == set(rates)
    assert [one.faults for one in after] == [[]] * len(after)
    meta = json.loads((directory / "meta.json").read_text())
    assert meta["partial"] is False
    assert meta["command"] == command
    assert {one.name for one in after} == {file.stem for file in (directory / "samples").iterdir()}
    assert not list(directory.rglob("*.part"))
    looked = evenness.read(directory)
    assert [each.repeat for each in looked] == [1] * max(1, len(set(asked.pins.values())))
    assert {each.core for each in looked} - {None} == set(asked.pins.values())
    report = " ".join((directory / "report.md").read_text().split())
    assert "This machine by itself" in report
    watched = {str(core) for core in asked.pins.values()} or {"any"}
    assert [set(one.paces) for one in after] == [watched] * len(after)
    assert f"While {len(after)} trials ran, the cores did so many turns" in report
    summary = json.loads((directory / "summary.json").read_text())
    shown = [*summary["cases"], *([summary["null"]] if summary["null"] else [])]
    assert sum(each["trials"] for each in shown) == len(after)


def stopped(place: Path, how: signal.Signals) -> None:
    """Stop a run politely."""
    begun(place, {"null": [10.0, 10.0]})
    code, said = broken_off(place, how)
    assert code == 130
    assert "1 trials are kept" in said
    assert f"python -m bench capacity --resume {os.path.relpath(place, ROOT)}" in said
    assert "Traceback" not in said
    assert len(trials.read(place)) == 1
    assert json.loads((place / "meta.json").read_text())["partial"] is True
    assert json.loads((place / "summary.json").read_text())["null"]["trials"] == 1
    assert list((place / "tmp").iterdir()) == []


def interrupted(place: Path) -> None:
    """Stop a run by Ctrl-C, and let it go on."""
    stopped(place, signal.SIGINT)
    completed(place)


def killed(place: Path) -> None:
    """Leave a run no time for anything, and let it go on."""
    begun(place, {"v3": [10.0, 10.0]}, profile=SMALL_MARKET)
    code, _ = broken_off(place, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert len(trials.read(place)) == 1
    assert json.loads((place / "meta.json").read_text())["partial"] is True
    # The data of the database remains, which nobody was left to remove.
    shutil.rmtree(place / "tmp")
    completed(place)
    assert {"staleness.svg", "report.md"} <= {path.name for path in place.iterdir()}
    probed = [one.staleness_ms.keys() for one in trials.read(place)]
    assert {"book", "price", "order"} in probed


@pytest.mark.alone
def test_several_generators_send_what_one_would_and_each_order_is_where_it_should_be(
    new_place: NewPlace,
) -> None:
    place = new_place()
    begun(place, {"v3": [20.0]}, generators=2, profile=SMALL_MARKET)
    completed(place)
    done = trials.read(place)
    assert done
    for one in done:  # several where the host takes its CPU away, none of which loses anything
        assert one.generator.sent == one.generator.scheduled > 0
        assert one.generator.not_sent == 0
        assert one.errors == {}
        assert "every acknowledged order once" in " ".join(one.checks)


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties processes together on Linux")
def test_a_run_that_is_broken_off_keeps_its_trials_leaves_no_process_and_goes_on(
    new_place: NewPlace,
) -> None:
    with Workers() as workers:
        ends = [
            workers.submit(interrupted, new_place()),
            workers.submit(stopped, new_place(), signal.SIGTERM),
            workers.submit(killed, new_place()),
        ]
    for end in ends:
        end.result()
