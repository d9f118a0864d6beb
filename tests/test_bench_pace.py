"""How fast the cores are while a trial runs, and which trials do not count for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from bench_records import a_trial, begun
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bench import agenda, capacity, capacity_charts, capacity_report, gate, pace, service, trials
from bench.agenda import Options, bounds_found, counted, next_task, slowed
from bench.capacity import Run
from bench.exchange_client import HarnessError
from bench.findings import Findings, found
from bench.pace import Pace
from bench.search import Capacity
from bench.trials import Record
from bench.verdict import Verdict

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
PUBLISH = Options(["v3"], "publish", "average", 1, {}, 1)
QUICK = structs.replace(PUBLISH, mode="quick")
FAST = {"0": Pace(50.0, 51.0), "1": Pace(49.5, 51.0)}
SLOW = {"0": Pace(49.5, 51.0), "1": Pace(32.0, 33.0)}

paces = st.dictionaries(
    st.sampled_from(["0", "1"]), st.builds(Pace, st.floats(1, 100), st.floats(1, 100))
)


def seen_for(seconds: float, cores: Sequence[int | None]) -> dict[str, Pace]:
    begin_s = time.monotonic()
    with pace.watching(cores) as looks:
        while time.monotonic() < begin_s + seconds:
            pass
    return pace.paces(looks, begin_s, time.monotonic())


@pytest.mark.alone
def test_every_core_is_watched_while_something_else_runs() -> None:
    seen = seen_for(1.0, CORES)
    assert set(seen) == {str(core) if core is not None else "any" for core in CORES}
    assert all(0.0 < each.mean <= each.best * 1.5 for each in seen.values())


@pytest.mark.alone
def test_a_machine_without_work_is_looked_at_in_the_same_way() -> None:
    seen = pace.alone(CORES, 1.0)
    assert set(seen) == {str(core) if core is not None else "any" for core in CORES}
    assert all(0.0 < each.mean <= each.best * 1.5 for each in seen.values())


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="processes are tied to a core")
def test_waiting_for_a_busy_core_is_not_taken_for_a_slow_one() -> None:
    [core, *_] = CORES
    busy = [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: 0"]
    others = [subprocess.Popen(busy) for _ in range(3)]
    try:
        # A quarter of the core is left for it, which would be a quarter of the pace.
        [seen] = seen_for(1.0, [core]).values()
    finally:
        for each in others:
            each.kill()
            each.wait()
    [alone] = seen_for(1.0, [core]).values()
    assert seen.mean > 0.4 * alone.mean


def test_what_was_seen_before_and_after_is_left_out() -> None:
    looks = {
        "0": [(0.9, 1.0), (1.0, 10.0), (1.5, 20.0), (2.0, 30.0), (2.1, 1.0)],
        "1": [(0.5, 1.0)],
    }
    assert pace.paces(looks, 1.0, 2.0) == {"0": Pace(20.0, 28.0)}


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(HarnessError, match="core 99999"), pace.watching([99999]):
        pass


@pytest.mark.alone
def test_no_loop_outlives_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def child(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        begun.append(original(*arguments, **options))
        return begun[-1]

    original: Callable[..., subprocess.Popen[bytes]] = service.child
    monkeypatch.setattr(service, "child", child)
    with pytest.raises(KeyboardInterrupt), pace.watching(CORES):
        raise KeyboardInterrupt
    assert len(begun) == len(CORES)
    assert all(each.returncode is not None for each in begun)


@given(st.lists(paces, max_size=5))
def test_no_trial_is_compared_with_a_core_that_it_did_not_see(seen: list[dict[str, Pace]]) -> None:
    usual = pace.usual(seen)
    for each in seen:
        assert set(pace.shares(each, usual)) == set(each)
    for name, typical in usual.items():
        means = [one[name].mean for one in seen if name in one]
        assert min(means) <= typical.mean <= max(means)


def test_a_core_that_was_faster_for_a_while_makes_nothing_else_slow() -> None:
    faster, usual, slowed_by_a_neighbour = Pace(95.5, 96.0), Pace(86.0, 87.0), Pace(70.0, 87.0)
    seen = [{"0": each} for each in [faster] * 4 + [usual] * 4 + [slowed_by_a_neighbour]]
    assert [pace.slow(each, pace.usual(seen), 0.9) for each in seen] == [None] * 8 + [
        "core 0 at 81%"
    ]


def test_a_neighbour_who_is_always_there_makes_no_trial_slow_and_is_told() -> None:
    seen = [{"0": Pace(mean, 95.7)} for mean in (70.0, 72.0, 71.0, 73.0, 60.0)]
    usual = pace.usual(seen)
    assert usual == {"0": Pace(71.0, 95.7)}
    assert [pace.slow(each, usual, 0.9) for each in seen] == [None] * 4 + ["core 0 at 85%"]
    done = numbered(*(at(100.0, each) for each in seen))
    said = capacity_report.pace_sentence(done, {5: "core 0 at 85%"})
    assert "core 0 71 of 96. The slower one had 100% of its usual pace" in said
    assert said.endswith("and 85% at least; 1 of them were too slow to count.")


# ---- trials that do not count ----


def numbered(*ones: Record) -> list[Record]:
    return [structs.replace(one, number=number) for number, one in enumerate(ones, 1)]


def at(rate: float, seen: dict[str, Pace], verdict: str = "pass", **changes: object) -> Record:
    return a_trial(rate=rate, paces=seen, verdict=Verdict(verdict), **changes)


def test_a_trial_on_a_slow_core_does_not_count_and_says_which() -> None:
    done = numbered(*[at(100.0, FAST)] * 5, at(100.0, SLOW, "fail"))
    assert slowed(PUBLISH, done) == {6: "core 0 at 99%, core 1 at 65%"}
    assert counted(PUBLISH, done) == done[:5]


def test_it_does_not_count_either_when_it_has_passed() -> None:
    done = numbered(*[at(100.0, FAST)] * 5, at(100.0, SLOW))
    assert counted(PUBLISH, done) == done[:5]


def test_that_the_first_trials_were_slow_is_known_when_a_fast_one_has_been_seen() -> None:
    done = numbered(at(100.0, SLOW, "fail"), at(80.0, SLOW))
    assert counted(PUBLISH, done) == done
    more = numbered(*done, at(100.0, FAST), at(100.0, FAST))
    assert counted(PUBLISH, more) == more[2:]


def test_a_mode_that_does_not_look_at_the_pace_counts_every_trial() -> None:
    done = numbered(*[at(100.0, FAST)] * 5, at(100.0, SLOW, "fail"))
    assert counted(structs.replace(PUBLISH, mode="default"), done) == done


def test_trials_from_before_the_cores_were_watched_count() -> None:
    done = numbered(*[at(100.0, FAST)] * 5, at(100.0, {}, "fail"))
    assert counted(PUBLISH, done) == done


def test_a_trial_at_a_load_that_leaves_the_cores_asleep_counts() -> None:
    done = numbered(*[at(100.0, FAST)] * 5, *[at(25.0, SLOW, purpose="curve")] * 2)
    assert counted(PUBLISH, done) == done
    near = numbered(*done[:5], at(90.0, SLOW, purpose="curve"))
    assert counted(PUBLISH, near) == near[:5]


def test_a_repeat_in_a_slower_hour_counts_by_its_own_pace() -> None:
    hour, slower = [at(100.0, FAST)] * 5, [at(100.0, SLOW, repeat=2)] * 5
    done = numbered(*hour, *slower, at(100.0, {"1": Pace(25.0, 33.0)}, repeat=2))
    assert counted(PUBLISH, done) == done[:10]


def test_a_repeat_begins_at_the_bounds_of_the_first_also_when_that_lost_a_trial() -> None:
    first = [*[at(100.0, {})] * 3, *[at(102.0, {}, "fail")] * 2]
    done = [*complete("null", 2000.0), *first, at(100.0, {}, repeat=2)]
    task = next_task(structs.replace(PUBLISH, repeats=2), done, lambda _: 1.0)
    assert task is not None
    assert (task.case, task.repeat, task.rate) == ("v3", 2, 102.0)


def a_search(seen: dict[str, Pace]) -> list[Record]:
    """Bounds that three trials each confirm, and in between a failure at the lower one."""
    low, high = at(100.0, FAST), at(102.0, FAST, "fail")
    return numbered(*[low] * 3, at(100.0, seen, "fail"), *[high] * 3)


def test_the_search_goes_on_as_if_a_slow_trial_had_not_been() -> None:
    done = a_search(SLOW)
    [v3] = found(PUBLISH, done).cases
    assert (v3.capacity.median, v3.unstable_from.median, v3.confirmed) == (100.0, 102.0, True)
    assert v3.trials == 6
    assert bounds_found(PUBLISH, counted(PUBLISH, done), "v3") == [100.0, 102.0]
    again = numbered(*complete("null", 2000.0), *done[:3], at(102.0, SLOW, "fail"))
    task = next_task(PUBLISH, again, lambda _: 1.0)
    assert task is not None
    assert (task.case, task.purpose) != ("v3", "curve")
    assert task.rate > 100.0


def test_the_charts_are_of_the_trials_that_the_report_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode = structs.replace(agenda.MODES["quick"], pace_min=0.95)
    monkeypatch.setitem(agenda.MODES, "quick", mode)
    options = begun(tmp_path, {"v3": [100.0]})
    # Without the slow ones the usual is a little more, and those just above the bound are below it.
    near, best, slow = Pace(91.8, 96.0), Pace(100.0, 100.0), Pace(50.0, 50.0)
    seen = [near] * 4 + [best] * 5 + [slow] * 2
    done = numbered(*(at(100.0, {"any": each}) for each in seen))
    assert len(counted(options, done)) == 9
    assert len(counted(options, counted(options, done))) == 5
    for one in done:
        trials.append(tmp_path, one)
    drawn: list[Findings] = []

    def noted(options: Options, records: Sequence[Record]) -> Findings:
        drawn.append(found(options, records))
        return drawn[-1]

    monkeypatch.setattr(capacity_charts, "found", noted)
    capacity_charts.figures(tmp_path)
    assert drawn == [capacity_report.write(tmp_path)]
    assert drawn[0].cases[0].trials == 9


def test_the_gate_counts_the_trials_that_the_report_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mode = structs.replace(agenda.MODES["quick"], pace_min=0.95)
    monkeypatch.setitem(agenda.MODES, "quick", mode)
    near, best, slow = Pace(91.8, 96.0), Pace(100.0, 100.0), Pace(50.0, 50.0)
    paces = [near] * 4 + [best] * 5 + [slow] * 2
    done = numbered(*(at(100.0, {"any": each}) for each in paces))
    measured = gate.standings(QUICK, done, {"v3": 100.0})
    assert len(measured["v3"].cpu_us) == 9
    assert measured["v3"].capacity == found(QUICK, done).cases[0].capacity.median


def complete(case: str, low: float) -> list[Record]:
    """A search with all that belongs to it; in the end is what was measured beside it."""
    high = 1.02 * low
    found_ = Capacity(low, high, at_least=False, confirmed=True)
    wanted = agenda.curve(agenda.MODES["publish"], found_)
    return [
        *[at(low, {}, case=case)] * 3,
        *[at(high, {}, "fail", case=case)] * 3,
        *(at(rate, {}, case=case, purpose="curve") for rate in wanted),
    ]


def test_a_search_under_way_is_ended_before_another_that_lost_a_trial() -> None:
    def case_after(done: list[Record]) -> str | None:
        task = next_task(PUBLISH, done, lambda _: 1.0)
        return None if task is None else task.case

    lost, v3 = complete("null", 2000.0)[:-1], complete("v3", 100.0)
    assert case_after(lost) == "null"
    assert {case_after([*lost, *v3[:count]]) for count in range(1, len(v3))} == {"v3"}
    assert case_after([*lost, *v3]) == "null"
    usual = [at(25.0, FAST, case="null", purpose="curve")] * 2
    assert case_after(numbered(*usual, *lost, at(100.0, SLOW))) == "v3"
    assert case_after([*v3, *complete("null", 2000.0)]) is None


def a_run_on_a_slow_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], shown: list[str]
) -> Run:
    """One with a trial to be made, whose core seems slow beside the trials before it."""
    monkeypatch.setattr(capacity, "WARMUP_S", 0.2)
    mode = structs.replace(agenda.MODES["quick"], pace_min=0.85)
    monkeypatch.setitem(agenda.MODES, "quick", mode)
    begun(tmp_path, {"null": [10.0]})
    for number in range(1, 5):
        fast = {"any": Pace(1e6, 1e6)}
        trials.append(tmp_path, a_trial(number=number, case="null", rate=5.0, paces=fast))
    options = Options(
        [], "quick", "average", 1, {}, 1, search=False, points={"null": [10.0]}, trial_s=1.0
    )
    return Run(tmp_path, options, said.append, shown.append)


@pytest.mark.alone
def test_a_machine_that_stays_slow_ends_the_run_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "CALM_PATIENCE_S", 0.0)
    said: list[str] = []
    run = a_run_on_a_slow_machine(tmp_path, monkeypatch, said, [])
    with pytest.raises(HarnessError, match=r"too slow for 0 minutes \(core any at .*--resume"):
        run.complete()
    assert len(trials.read(tmp_path)) == 5
    assert sum("does not count: core any at" in line for line in said) == 1


@pytest.mark.alone
def test_a_machine_that_is_slow_in_trials_only_ends_the_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def looked(cores: Sequence[int | None], seconds: float) -> dict[str, Pace]:
        looks.append(len(trials.read(tmp_path)))
        monkeypatch.setattr(capacity, "CALM_PATIENCE_S", 0.0)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return {"any": Pace(1e6, 1e6)}

    monkeypatch.setattr(pace, "alone", looked)
    run = a_run_on_a_slow_machine(tmp_path, monkeypatch, [], [])
    with pytest.raises(HarnessError, match=r"too slow for 0 minutes \(core any at .*--resume"):
        run.complete()
    assert looks == [5]
    assert len(trials.read(tmp_path)) == 6


@pytest.mark.alone
def test_no_trial_is_begun_before_a_slow_machine_is_calm_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def looked(cores: Sequence[int | None], seconds: float) -> dict[str, Pace]:
        looks.append(len(trials.read(tmp_path)))
        if looks == [5, 5, 5, 6]:
            raise KeyboardInterrupt
        return {"any": Pace(1e6 if len(looks) == 3 else 1.0, 1e6)}

    monkeypatch.setattr(pace, "alone", looked)
    shown: list[str] = []
    run = a_run_on_a_slow_machine(tmp_path, monkeypatch, [], shown)
    with pytest.raises(KeyboardInterrupt):
        run.complete()
    assert looks == [5, 5, 5, 6]
    waiting = "waiting until the machine is calm: core any at 0% of its usual pace"
    assert shown.count(waiting) == 2
