"""The gate says pass, regress or inconclusive: of figures, and of a service slowed on purpose."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest
from bench_records import SMALL_MARKET, a_trial
from client import eventually
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from bench import agenda, capacity, check_command, figures, gate, records, service, trials, verdict
from bench.agenda import Mode, Options, next_task
from bench.capacity import Run, beside_the_generator, conditions
from bench.gate import Answer, Ruling, Standing, answer_of, rulings, sentence
from bench.pace import Pace
from bench.trials import Record
from bench.verdict import Verdict

ROOT = Path(__file__).resolve().parents[1]
CASES = list(service.VERSIONS)
SEVERITY = [Answer.PASS, Answer.INCONCLUSIVE, Answer.REGRESS]


def standing(capacity: float, cpu_us: float) -> Standing:
    return Standing(
        capacity=capacity,
        unstable_from=1.05 * capacity,
        confirmed=True,
        half=capacity / 2,
        cpu_us=[0.99 * cpu_us, cpu_us, 1.01 * cpu_us],
        overloaded=False,
    )


BASELINE = {
    "null": standing(800.0, 120.0),
    "v1": standing(60.0, 900.0),
    "v2": standing(200.0, 400.0),
    "v3": standing(500.0, 180.0),
}


def changed(case: str, *, capacity: float = 1.0, cpu: float = 1.0) -> dict[str, Standing]:
    """The baseline with one case's capacity and CPU multiplied."""
    return BASELINE | {case: faster(BASELINE[case], capacity=capacity, cpu=cpu)}


def faster(one: Standing, *, capacity: float = 1.0, cpu: float = 1.0) -> Standing:
    return msgspec.structs.replace(
        one,
        capacity=None if one.capacity is None else one.capacity * capacity,
        unstable_from=None if one.unstable_from is None else one.unstable_from * capacity,
        cpu_us=[value * cpu for value in one.cpu_us],
    )


def ruling(measured: Mapping[str, Standing], rule: str) -> Ruling:
    [found] = [each for each in rulings(BASELINE, measured) if each.rule == rule]
    return found


def answer(measured: Mapping[str, Standing]) -> Answer:
    return answer_of(rulings(BASELINE, measured))


def test_an_unchanged_run_passes() -> None:
    ruled = rulings(BASELINE, BASELINE)
    assert answer_of(ruled) is Answer.PASS
    assert sentence(ruled) == "pass: all 8 rules hold"
    assert [each.rule for each in ruled] == [
        "v1 < v2",
        "v2 < v3",
        *(f"{case} capacity ÷ null" for case in CASES),
        *(f"{case} CPU ÷ null" for case in CASES),
    ]


def test_forty_percent_less_capacity_regresses() -> None:
    measured = changed("v3", capacity=0.6)
    assert answer(measured) is Answer.REGRESS
    assert "v3 capacity ÷ null: 63% of the baseline at most" in sentence(
        rulings(BASELINE, measured)
    )


def test_a_fifth_less_capacity_is_within_the_limit() -> None:
    assert answer(changed("v3", capacity=0.8)) is Answer.PASS


def test_a_capacity_whose_bounds_include_the_limit_is_inconclusive() -> None:
    measured = changed("v3", capacity=0.7)
    assert answer(measured) is Answer.INCONCLUSIVE
    assert "v3 capacity ÷ null: near the limit" in sentence(rulings(BASELINE, measured))


def test_a_capacity_that_is_not_confirmed_decides_only_far_from_the_limit() -> None:
    for share, expected in ((0.8, Answer.INCONCLUSIVE), (0.2, Answer.REGRESS)):
        doubtful = msgspec.structs.replace(faster(BASELINE["v3"], capacity=share), confirmed=False)
        found = ruling(BASELINE | {"v3": doubtful}, "v3 capacity ÷ null")
        assert found.answer is expected
        assert ("not confirmed" in found.why) == (expected is Answer.INCONCLUSIVE)


def test_where_the_generator_was_the_limit_a_capacity_is_only_known_to_be_large() -> None:
    unbounded = msgspec.structs.replace(BASELINE["v3"], unstable_from=None)
    assert answer(BASELINE | {"v3": unbounded}) is Answer.PASS
    of_null = msgspec.structs.replace(BASELINE["null"], unstable_from=None)
    found = ruling(BASELINE | {"null": of_null}, "v1 capacity ÷ null")
    assert (found.answer, found.why) == (
        Answer.INCONCLUSIVE,
        "null was not the limit of its capacity",
    )


def test_a_service_that_is_stable_nowhere_regresses() -> None:
    nothing = msgspec.structs.replace(BASELINE["v3"], capacity=None, unstable_from=1.0)
    assert ruling(BASELINE | {"v3": nothing}, "v3 capacity ÷ null").answer is Answer.REGRESS


def test_a_violated_order_regresses() -> None:
    measured = changed("v2", capacity=0.25)
    assert ruling(measured, "v1 < v2").answer is Answer.REGRESS
    assert ruling(measured, "v2 < v3").answer is Answer.PASS
    assert "v2 has no more capacity than v1" in sentence(rulings(BASELINE, measured))


def test_an_order_of_capacities_that_overlap_is_inconclusive() -> None:
    assert ruling(changed("v2", capacity=0.31), "v1 < v2").answer is Answer.INCONCLUSIVE


def test_cpu_that_grows_beyond_the_limit_regresses() -> None:
    measured = changed("v3", cpu=1.3)
    assert answer(measured) is Answer.REGRESS
    assert sentence(rulings(BASELINE, measured)) == (
        "regress: v3 CPU ÷ null: +30% of CPU per request"
    )


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (1.12, Answer.PASS),
        # Of trials that differ by 1 % two standard errors are 2.3 %, and one is 1.2 %.
        (1.13, Answer.INCONCLUSIVE),
        (1.17, Answer.INCONCLUSIVE),
        (1.18, Answer.REGRESS),
    ],
)
def test_cpu_is_judged_beyond_two_standard_errors_from_fifteen_percent(
    cpu: float, expected: Answer
) -> None:
    assert ruling(changed("v3", cpu=cpu), "v3 CPU ÷ null").answer is expected


def test_cpu_within_the_limit_passes_and_less_of_it_is_reported() -> None:
    assert answer(changed("v3", cpu=1.1)) is Answer.PASS
    assert sentence(rulings(BASELINE, changed("v3", cpu=0.7))) == (
        "pass: all 8 rules hold; v3 CPU ÷ null: -30% of CPU per request"
    )


def test_trials_that_disagree_are_inconclusive() -> None:
    noisy = msgspec.structs.replace(BASELINE["v3"], cpu_us=[120.0, 250.0, 180.0, 160.0, 300.0])
    found = ruling(BASELINE | {"v3": noisy}, "v3 CPU ÷ null")
    assert found.answer is Answer.INCONCLUSIVE
    assert "too uncertain" in found.why


def test_the_baseline_that_is_kept_is_what_its_run_makes_today(tmp_path: Path) -> None:
    kept = check_command.read(check_command.BASELINE)
    check_command.renew(records.DEFAULT_DIRECTORY / kept.run, tmp_path / "baseline.json")
    assert (tmp_path / "baseline.json").read_bytes() == check_command.BASELINE.read_bytes()


@pytest.mark.parametrize("missing", ["null", *CASES])
def test_what_is_missing_leaves_its_rules_inconclusive(missing: str) -> None:
    ruled = rulings(BASELINE, {label: one for label, one in BASELINE.items() if label != missing})
    concerned = [each for each in ruled if missing in each.rule]
    assert concerned
    assert {each.answer for each in concerned} == {Answer.INCONCLUSIVE}
    assert all(missing in each.why for each in concerned)
    assert answer_of(ruled) is Answer.INCONCLUSIVE


def test_a_regress_stands_whatever_else_is_missing() -> None:
    measured = changed("v3", cpu=1.5)
    del measured["v1"]
    assert answer(measured) is Answer.REGRESS


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_valid_trials_are_inconclusive(count: int) -> None:
    few = msgspec.structs.replace(BASELINE["v3"], cpu_us=[180.0] * count)
    found = ruling(BASELINE | {"v3": few}, "v3 CPU ÷ null")
    assert found.answer is Answer.INCONCLUSIVE
    assert found.why == "v3 has fewer than 2 valid trials now at half of the capacity"


def test_an_overloaded_service_does_not_pass_but_may_regress() -> None:
    for cpu, expected in ((1.0, Answer.INCONCLUSIVE), (1.5, Answer.REGRESS)):
        one = msgspec.structs.replace(faster(BASELINE["v3"], cpu=cpu), overloaded=True)
        assert ruling(BASELINE | {"v3": one}, "v3 CPU ÷ null").answer is expected


def test_an_overloaded_null_server_accuses_nobody() -> None:
    null = msgspec.structs.replace(faster(BASELINE["null"], cpu=0.5), overloaded=True)
    found = ruling(BASELINE | {"null": null}, "v3 CPU ÷ null")
    assert (found.answer, found.why) == (
        Answer.INCONCLUSIVE,
        "null was not stable at 400 %",
    )


FACTORS = st.floats(0.05, 20.0)


@st.composite
def any_standing(draw: st.DrawFn) -> Standing:
    low = draw(st.none() | st.floats(1.0, 10_000.0))
    return Standing(
        capacity=low,
        unstable_from=draw(st.none() | st.floats(1.0, 2.0).map(lambda f: (low or 1.0) * f)),
        confirmed=draw(st.booleans()),
        half=draw(st.floats(1.0, 5000.0)),
        cpu_us=draw(st.lists(st.floats(10.0, 2000.0), max_size=5)),
        overloaded=draw(st.booleans()),
    )


ANY_STANDINGS = st.dictionaries(st.sampled_from(["null", *CASES]), any_standing())


@PROPERTY
@given(ANY_STANDINGS)
def test_a_run_never_regresses_against_itself_but_in_its_order(
    measured: dict[str, Standing],
) -> None:
    ruled = rulings(measured, measured)
    assert not [each.rule for each in ruled if each.answer is Answer.REGRESS and "÷" in each.rule]


@PROPERTY
@given(FACTORS)
def test_the_speed_of_the_machine_changes_no_answer(factor: float) -> None:
    def on_another(side: Mapping[str, Standing]) -> dict[str, Standing]:
        return {case: faster(one, capacity=factor, cpu=1 / factor) for case, one in side.items()}

    for measured in (BASELINE, changed("v3", capacity=0.6), changed("v2", cpu=1.3)):
        there = [each.answer for each in rulings(BASELINE, on_another(measured))]
        assert there == [each.answer for each in rulings(BASELINE, measured)]


@PROPERTY
@given(FACTORS, FACTORS, st.sampled_from(CASES))
def test_worse_is_never_answered_better(one: float, other: float, label: str) -> None:
    worse, better = sorted((one, other))
    for rule, bad, good in (
        ("capacity", changed(label, capacity=worse), changed(label, capacity=better)),
        ("CPU", changed(label, cpu=better), changed(label, cpu=worse)),
    ):
        answers = [ruling(side, f"{label} {rule} ÷ null").answer for side in (good, bad)]
        assert answers == sorted(answers, key=SEVERITY.index)


@PROPERTY
@given(ANY_STANDINGS, ANY_STANDINGS, st.sampled_from(["null", *CASES]))
def test_knowing_less_never_turns_an_answer_into_the_opposite(
    baseline: dict[str, Standing], measured: dict[str, Standing], missing: str
) -> None:
    less = {label: one for label, one in measured.items() if label != missing}
    before, after = rulings(baseline, measured), rulings(baseline, less)
    for one, other in zip(before, after, strict=True):
        assert other.answer in (one.answer, Answer.INCONCLUSIVE)


@PROPERTY
@given(ANY_STANDINGS, ANY_STANDINGS)
def test_one_answer_follows_from_those_of_the_rules(
    baseline: dict[str, Standing], measured: dict[str, Standing]
) -> None:
    ruled = rulings(baseline, measured)
    worst = max((each.answer for each in ruled), key=SEVERITY.index)
    assert answer_of(ruled) is worst
    assert sentence(ruled).startswith(f"{worst}: ")
    assert all(each.why for each in ruled if each.answer is not Answer.PASS)


# Runs without a service: what a search would record of cases that have the given capacities.

CAPACITIES = {"null": 800.0, "v1": 60.0, "v2": 200.0, "v3": 500.0}
CPU_US = {"null": 120.0, "v1": 900.0, "v2": 400.0, "v3": 180.0}


def trial(case: str, rate: float, purpose: str, number: int, capacity_: float) -> Record:
    noise = 1.0 + 0.01 * (number % 3 - 1)
    return a_trial(
        number=number,
        case=case,
        purpose=purpose,
        rate=rate,
        offered_per_s=13.125 * rate,
        verdict=Verdict.PASS if rate <= capacity_ else Verdict.FAIL,
        cpu_us_per_request={"service": CPU_US[case] * noise, "generator": 60.0},
    )


def simulated(options: Options, capacities: Mapping[str, float] = CAPACITIES) -> list[Record]:
    """Every trial that a run asks for."""
    done: list[Record] = []
    while (task := next_task(options, done, lambda case: 0.7 * capacities[case])) is not None:
        limit = capacities[task.case]
        done.append(trial(task.case, task.rate, task.purpose, len(done) + 1, limit))
    return done


def recorded(
    directory: Path, options: Options, done: list[Record], *, partial: bool = False
) -> Path:
    """The directory of a run with the given trials."""
    directory.mkdir()
    for one in done:
        trials.append(directory, one)
    run = Run(directory, options, print, print)
    content = records.meta("python -m bench capacity", conditions(options, run, partial))
    records.write_json(directory / "meta.json", content)
    return directory


@pytest.mark.parametrize(
    ("above", "unstable_from"), [(Verdict.FAIL, 510.0), (Verdict.INVALID, None)]
)
def test_a_rate_that_the_generator_could_not_reach_bounds_no_capacity(
    above: Verdict, unstable_from: float | None
) -> None:
    options = Options(["v3"], "default", "average", 1, {}, 1)
    passed, beyond = a_trial(rate=500.0), a_trial(rate=510.0, verdict=above)
    measured = gate.standings(options, [passed] * 3 + [beyond] * 4, {"v3": 250.0})
    assert (measured["v3"].capacity, measured["v3"].unstable_from) == (500.0, unstable_from)


DEFAULT = Options(CASES, "default", "average", 1, {}, 1)


@pytest.fixture
def baseline_file(tmp_path: Path) -> Path:
    """A baseline that the command has made of a simulated run."""
    run = recorded(tmp_path / "run", DEFAULT, simulated(DEFAULT))
    file = tmp_path / "baseline.json"
    check_command.renew(run, file)
    return file


def test_a_baseline_takes_no_trial_that_does_not_count(tmp_path: Path) -> None:
    options = msgspec.structs.replace(DEFAULT, mode="publish")
    usual, slow = {"0": Pace(90.0, 93.0)}, {"0": Pace(60.0, 93.0)}
    done = [msgspec.structs.replace(one, paces=usual) for one in simulated(options)]
    half = gate.halves(options, done)["v3"]
    [*_, last] = [one for one in done if (one.case, one.rate) == ("v3", half)]
    again = msgspec.structs.replace(last, number=len(done) + 1, paces=slow)
    run, file = recorded(tmp_path / "run", options, [*done, again]), tmp_path / "baseline.json"
    check_command.renew(run, file)
    assert len(check_command.read(file).standings["v3"].cpu_us) == 3


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated runs have no samples to draw."""
    monkeypatch.setattr("bench.capacity_charts.draw", lambda run: [])


def test_a_baseline_says_from_which_run_it_came(baseline_file: Path) -> None:
    made = check_command.read(baseline_file)
    assert made.run == "run"
    assert made.machine == records.machine_slug(records.machine())
    assert list(made.standings) == ["null", *CASES]
    for case, one in made.standings.items():
        assert one.capacity is not None
        assert one.capacity <= CAPACITIES[case] < one.capacity * 1.1
        assert one.half == pytest.approx(one.capacity / 2, rel=1e-3)
        assert len(one.cpu_us) == 3
        assert one.confirmed


def test_a_check_measures_each_capacity_and_half_of_the_baseline_s(baseline_file: Path) -> None:
    baseline = check_command.read(baseline_file)
    options = check_command.options_for(baseline, {})
    halves = {case: one.half for case, one in baseline.standings.items()}
    for factor, expected in ((1.0, Answer.PASS), (0.5, Answer.REGRESS)):
        capacities = CAPACITIES | {"v3": factor * CAPACITIES["v3"]}
        measured = gate.standings(options, simulated(options, capacities), halves)
        assert min(len(one.cpu_us) for one in measured.values()) == check_command.POINTS
        assert answer_of(rulings(baseline.standings, measured)) is expected


def test_trials_that_are_not_valid_do_not_count(baseline_file: Path) -> None:
    baseline = check_command.read(baseline_file)
    options = check_command.options_for(baseline, {})
    halves = {case: one.half for case, one in baseline.standings.items()}
    done = [
        msgspec.structs.replace(one, verdict=Verdict.INVALID)
        if (one.case, one.purpose) == ("v3", "curve")
        else one
        for one in simulated(options)
    ]
    measured = gate.standings(options, done, halves)
    assert measured["v3"].cpu_us == []
    ruled = rulings(baseline.standings, measured)
    assert answer_of(ruled) is Answer.INCONCLUSIVE
    assert "v3 has fewer than 2 valid trials now" in sentence(ruled)


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (0.5, 1), (0.7, 2)])
def test_the_exit_code_is_the_answer(
    baseline_file: Path,
    tmp_path: Path,
    factor: float,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = check_command.options_for(check_command.read(baseline_file), {})
    capacities = CAPACITIES | {"v3": factor * CAPACITIES["v3"]}
    run = recorded(tmp_path / "check", options, simulated(options, capacities))
    arguments = ["--baseline", str(baseline_file), "--resume", str(run)]
    assert check_command.main(arguments) == code
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(list(check_command.EXIT_CODES)[code])


@pytest.mark.usefixtures("no_charts")
def test_another_machine_is_named(
    baseline_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads(baseline_file.read_text()) | {"machine": "abacus-1c"}
    baseline_file.write_text(json.dumps(content))
    options = check_command.options_for(check_command.read(baseline_file), {})
    run = recorded(tmp_path / "check", options, simulated(options))
    assert check_command.main(["--baseline", str(baseline_file), "--resume", str(run)]) == 0
    assert "the baseline on abacus-1c" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "make one with: python -m bench check --renew RUN_DIR"),
        (b"", "is no whole baseline"),
        (b'{"layout": "baseline-1", "run": "2026', "is no whole baseline"),
        (b'{"layout": "baseline-0"}', "is from another layout (baseline-0)"),
        (b'{"layout": "baseline-1", "run": "x"}', "is from another layout"),
        (b"[]", "is from another layout"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "baseline.json"
    if content is not None:
        file.write_bytes(content)
    assert check_command.main(["--baseline", str(file), "--out", str(tmp_path)]) == 3
    line = capsys.readouterr().err
    assert line.startswith("--baseline: ")
    assert says in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--pins", "service=x"], "--pins"),
        (["--renew", "a", "--resume", "b"], "--resume"),
        (["--resume", "a", "--pins", "none"], "leave out --pins"),
        (["--resume", "a", "--out", "b"], "leave out --out"),
        (["--renew", "a", "--pins", "none", "--out", "b"], "leave out --pins, --out"),
        (["--renew"], "--renew"),
        (["--what"], "--what"),
    ],
)
def test_wrong_usage_is_not_taken_for_an_answer(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_command.main(arguments)
    line = capsys.readouterr().err
    assert ended.value.code == 3
    assert option in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nothing", "no such run"),
        ("partial", "is not complete"),
        ("quick", "null has fewer than 2 valid trials"),
        ("without v2", "it has no capacity of v2"),
    ],
)
def test_a_run_that_makes_no_baseline_is_one_line(
    tmp_path: Path, what: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "baseline.json"
    if what != "nothing":
        options = msgspec.structs.replace(
            DEFAULT,
            mode="quick" if what == "quick" else "default",
            cases=["v1", "v3"] if what == "without v2" else CASES,
        )
        recorded(run, options, simulated(options), partial=what == "partial")
    assert check_command.main(["--renew", str(run), "--baseline", str(file)]) == 3
    line = capsys.readouterr().err
    assert line.startswith("--renew: ")
    assert says in line
    assert line.count("\n") == 1
    assert not file.exists()


def test_another_run_is_not_resumed_as_a_check(
    baseline_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--baseline", str(baseline_file), "--resume", str(tmp_path / "run")]
    assert check_command.main(arguments) == 3
    assert "is no check against" in capsys.readouterr().err


@pytest.mark.alone
def test_ctrl_c_ends_a_check_at_once_and_leaves_no_process(
    baseline_file: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    arguments = ["--baseline", str(baseline_file), "--out", str(results)]
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "check", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watched = psutil.Process(process.pid)
        eventually(lambda: len(watched.children(recursive=True)) == 2)  # service and generator
        children = watched.children(recursive=True)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    [run] = results.iterdir()
    assert json.loads((run / "meta.json").read_text())["partial"]


# A real service, and the same one slowed.

RATE = 100.0
SLOWED = "v3x1"  # as good a label as v3, and its results stand beside those of v3
SLOW_MODULE = "tests.slowed_casev3"
TRIALS_EACH = (2, 4, 8)  # more where the host is too noisy for fewer


def real_rulings(done: list[Record], options: Options) -> tuple[list[Ruling], list[Ruling]]:
    """What the gate says of casev3 measured again, and of the slowed one.

    The first and every second of casev3's trials are the baseline, the others the new measurement.
    """
    null = [one for one in done if one.case == "null"]
    ours = [one for one in done if one.case == "v3" and one.verdict is not Verdict.INVALID]
    slowed = [msgspec.structs.replace(one, case="v3") for one in done if one.case == SLOWED]
    baseline, again, slow = (
        gate.standings(options, [*null, *one], {"null": RATE, "v3": RATE})
        for one in (ours[::2], ours[1::2], slowed)
    )
    return rulings(baseline, again), rulings(baseline, slow)


def of_cpu(ruled: list[Ruling]) -> Answer:
    [found] = [each.answer for each in ruled if each.rule == "v3 CPU ÷ null"]
    return found


@pytest.mark.alone
def test_a_service_that_burns_100_us_more_for_each_request_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(agenda.MODES, "short", Mode("short", 1.0, 0.1, 1.0))
    monkeypatch.setattr(capacity, "WARMUP_S", 0.5)
    # A generator that is late on a busy machine, and a host that takes CPU away, spoil latencies;
    # here only CPU is looked at.
    monkeypatch.setattr(figures, "SEND_LAG_MS_MAX", 100.0)
    monkeypatch.setattr(verdict, "STEAL_MAX", 1.0)
    directory = tmp_path / "run"
    directory.mkdir()
    for trials_each in TRIALS_EACH:
        counts = {"null": trials_each, "v3": 2 * trials_each, SLOWED: trials_each}
        options = Options(
            ["v3", SLOWED],
            "short",
            SMALL_MARKET,
            1,
            service.default_pins(),
            1,
            search=False,
            points={label: [RATE] * count for label, count in counts.items()},
        )
        run = Run(directory, options, print, lambda line: None, modules={SLOWED: SLOW_MODULE})
        with beside_the_generator(options.pins):
            run.complete()
        again, slow = real_rulings(run.done, options)
        assert answer_of(again) is not Answer.REGRESS
        assert of_cpu(slow) is not Answer.PASS
        if of_cpu(slow) is Answer.REGRESS:
            assert answer_of(slow) is Answer.REGRESS
            return
    pytest.fail(f"still inconclusive: {slow[-1].measured}")
