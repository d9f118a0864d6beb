"""The rules that decide a trial, on data whose answer is known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bench_records import HEALTHY, a_trial
from msgspec import structs

from bench import agenda, traffic, trial, trials, verdict
from bench.checking import Audit
from bench.figures import Samples
from bench.load import Load
from bench.observe import Counters, Seen
from bench.spec import Finished, Started
from bench.traffic import Floats, Kind
from bench.trials import Record, Setting
from bench.verdict import Stability, Verdict, at_most_one_percent, growth_bound, stability
from bench.wire import Health

RATE, DURATION_S, WARMUP_S = 1000.0, 10.0, 2.0


def samples(latency_s: Floats, intended_s: Floats, outcome: int = 200) -> Samples:
    """Book reads with the given latencies; NaN is never done."""
    n = len(intended_s)
    return Samples(
        intended_s=intended_s,
        sent_s=intended_s,
        done_s=intended_s + latency_s,
        kind=np.full(n, Kind.BOOK),
        outcome=np.full(n, outcome),
        waited=np.zeros(n, dtype=np.int64),
    )


def arrivals(seed: int = 1) -> Floats:
    rng = np.random.default_rng(seed)
    n = int(RATE * (DURATION_S + WARMUP_S))
    return np.sort(rng.random(n)) * (DURATION_S + WARMUP_S) - WARMUP_S


def queue(intended_s: Floats, service_s: float) -> Samples:
    """What a server that takes ``service_s`` for each request, in order, makes of them."""
    work = np.cumsum(np.full(len(intended_s), service_s))
    done_s = work + np.maximum.accumulate(intended_s - work + service_s)
    return samples(done_s - intended_s, intended_s)


def decided(given: Samples, limit_ms: float = 50.0) -> Verdict:
    reasons = stability(given, RATE, DURATION_S).reasons()
    over = verdict.over_limit(given, limit_ms)
    return verdict.judged(reasons, len(given.measured.kind), over)


@pytest.mark.parametrize(
    ("total", "over", "expected"),
    [
        (10_000, 60, Verdict.PASS),
        (10_000, 83, Verdict.PASS),
        (10_000, 84, Verdict.UNDECIDED),
        (10_000, 100, Verdict.UNDECIDED),
        (10_000, 117, Verdict.UNDECIDED),
        (10_000, 118, Verdict.FAIL),
        (10_000, 10_000, Verdict.FAIL),
        (400_000, 5_000, Verdict.FAIL),
        (299, 0, Verdict.PASS),
        (298, 0, Verdict.UNDECIDED),
        (1, 1, Verdict.FAIL),
        (0, 0, Verdict.UNDECIDED),
    ],
)
def test_the_binomial_rule_knows_when_there_are_too_few_requests_to_tell(
    total: int, over: int, expected: Verdict
) -> None:
    assert at_most_one_percent(total, over) is expected


def test_the_binomial_rule_errs_as_rarely_as_it_says() -> None:
    over = np.random.default_rng(2).binomial(20_000, 0.01, 2_000)
    verdicts = [at_most_one_percent(20_000, int(count)) for count in over]
    assert 0.03 < np.mean([each is Verdict.PASS for each in verdicts]) < 0.06
    assert 0.03 < np.mean([each is Verdict.FAIL for each in verdicts]) < 0.06


def test_a_stable_service_passes() -> None:
    assert decided(queue(arrivals(), 0.0008)) is Verdict.PASS


def test_a_service_that_drifts_away_fails_long_before_it_is_late() -> None:
    # Two percent too slow: after twelve seconds 240 requests wait, a quarter of a second.
    given = queue(arrivals(), 1.02e-3)
    found = stability(given, RATE, DURATION_S)
    assert 0.01 * RATE < found.growth_per_s < 0.03 * RATE
    assert any("backlog grows" in reason for reason in found.reasons())
    assert decided(given) is Verdict.FAIL


def test_a_creeping_latency_fails_although_it_is_within_the_limit() -> None:
    intended_s = arrivals()
    creeping = samples(0.012 + 0.003 * np.maximum(intended_s, 0.0), intended_s)
    assert verdict.over_limit(creeping, 50.0) == 0
    assert decided(creeping) is Verdict.FAIL


def day(seed: int, duration_s: float) -> Floats:
    """Arrivals of a short trial at a mean of RATE; they come ever faster after its warm-up."""
    profile = traffic.PROFILES["day"]
    scale = 100.0 * RATE / profile.requests_per_s
    return traffic.tape(profile, seed, scale, WARMUP_S + duration_s).intended_s - WARMUP_S


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rate_that_rises_is_no_drift(seed: int) -> None:
    # At the close 99 % of what the server can do: a queue, but never one of 50 ms.
    given = queue(day(seed, 4.0), 0.79e-3)
    found = stability(given, RATE, 4.0)
    assert "p99 drifts" in found.reasons()[0]
    assert found.reasons(steady=False) == []
    assert verdict.over_limit(given, 50.0) == 0


def test_an_overload_is_seen_without_the_rules_for_a_steady_rate() -> None:
    given = queue(day(1, 4.0), 1.1e-3)
    found = stability(given, RATE, 4.0)
    assert "in flight at the end" in found.reasons(steady=False)[0]
    over = verdict.over_limit(given, 50.0)
    assert verdict.judged([], len(given.measured.kind), over) is Verdict.FAIL


def test_bursts_that_clear_up_are_no_growth() -> None:
    # Half a second of double rate now and then: a queue of up to 300, gone before the next.
    rng = np.random.default_rng(3)
    bursts = [np.sort(begin + 0.5 * rng.random(500)) for begin in (1.0, 4.0, 7.0)]
    calm = arrivals()
    intended_s = np.sort(np.concatenate([calm[:: len(calm) // 8000 + 1], *bursts]))
    found = stability(queue(intended_s, 0.0008), RATE, DURATION_S)
    assert found.growth_per_s < 0.01 * RATE
    assert found.backlog < 100


def test_a_service_with_two_speeds_fails_by_its_slow_one() -> None:
    intended_s = arrivals()
    slow = np.random.default_rng(4).random(len(intended_s)) < 0.02
    assert decided(samples(np.where(slow, 0.2, 0.001), intended_s)) is Verdict.FAIL
    rarely = np.random.default_rng(4).random(len(intended_s)) < 0.005
    assert decided(samples(np.where(rarely, 0.2, 0.001), intended_s)) is Verdict.PASS


def test_a_failed_request_counts_as_over_the_limit() -> None:
    intended_s = arrivals()
    refused = samples(np.full(len(intended_s), 0.001), intended_s, outcome=503)
    assert verdict.over_limit(refused, 50.0) == len(refused.measured.kind)
    assert decided(refused) is Verdict.FAIL
    never = samples(np.full(len(intended_s), np.nan), intended_s)
    assert verdict.over_limit(never, 50.0) == len(never.measured.kind)


def test_the_slope_of_noise_is_rarely_taken_for_growth() -> None:
    # An autoregressive series around a constant: independent-error formulas would be fooled.
    rng = np.random.default_rng(5)
    positive = 0
    for _ in range(500):
        noise, series = rng.normal(size=20), np.zeros(20)
        for step in range(1, 20):
            series[step] = 0.6 * series[step - 1] + noise[step]
        positive += growth_bound(series, DURATION_S) > 0
    assert positive < 0.12 * 500
    assert growth_bound(np.arange(20.0), 10.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("first", "second", "rise", "expected"),
    [
        (20.0, 29.0, 0.1, False),
        (20.0, 31.0, 0.1, True),
        (20.0, 31.0, -0.01, False),
        (1.0, 24.0, 0.1, False),
        (9.0, 30.0, 0.1, True),
        (20.0, None, 0.1, True),
        (None, None, 0.1, False),
        (20.0, 31.0, None, True),
    ],
)
def test_the_second_half_may_not_be_much_worse(
    first: float | None, second: float | None, rise: float | None, expected: bool
) -> None:
    assert verdict.drifts(first, second, rise) is expected


def stalls(at_s: list[float], intended_s: Floats) -> Samples:
    """A quick service that now and then answers nobody for 40 ms."""
    latency_s = np.full(len(intended_s), 0.002)
    for begin_s in at_s:
        stalled = (intended_s >= begin_s) & (intended_s < begin_s + 0.04)
        latency_s[stalled] += begin_s + 0.04 - intended_s[stalled]
    return samples(latency_s, intended_s)


def test_stalls_that_fall_into_the_second_half_by_chance_are_no_drift() -> None:
    by_chance = stalls([1.1, 3.2, 5.3, 5.9, 6.2, 7.1, 8.4], arrivals())
    found = stability(by_chance, RATE, DURATION_S)
    assert found.p99_ms_first is not None
    assert found.p99_ms_second is not None
    assert found.p99_ms_second > 1.5 * found.p99_ms_first
    assert found.p99_ms_second > 10.0
    assert decided(by_chance) is Verdict.PASS


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_latency_that_doubles_is_a_drift(seed: int) -> None:
    intended_s = arrivals()
    mean_s = 0.003 * (1.0 + np.maximum(intended_s, 0.0) / 5.0)
    noisy = samples(np.random.default_rng(seed).exponential(mean_s), intended_s)
    assert verdict.over_limit(noisy, 50.0) < 30
    assert any("p99 drifts" in why for why in stability(noisy, RATE, DURATION_S).reasons())


def test_a_busy_but_stable_queue_is_rarely_taken_for_drift() -> None:
    # 97 % of what the server can do: the queue wanders slowly, which the halves alone mistake.
    by_halves, by_both = 0, 0
    for seed in range(200):
        found = stability(queue(arrivals(seed), 0.97e-3), RATE, DURATION_S)
        by_halves += verdict.drifts(found.p99_ms_first, found.p99_ms_second, None)
        by_both += verdict.drifts(found.p99_ms_first, found.p99_ms_second, found.rise_per_s)
    assert by_both < 0.1 * 200 < by_halves


def test_a_batch_without_requests_takes_the_value_between_its_neighbours() -> None:
    intended_s = np.array([0.1, 0.2, 9.9])
    given = samples(np.array([0.001, 0.001, np.nan]), intended_s)
    found = verdict.log_p99(given.measured, DURATION_S)
    assert found[0] == pytest.approx(0.0)
    assert found[-1] == pytest.approx(math.log(verdict.NEVER_MS))
    assert (np.diff(found) > 0).all()


def test_what_waits_for_the_database_too_long_fails() -> None:
    calm = Stability(RATE, 0.0, 10, 5.0, 5.0, 40.0, 0.1)
    assert calm.reasons() == []
    assert "waited" in replace(calm, flush_age_ms_max=1001.0).reasons()[0]
    assert "flushed only" in replace(calm, flushed_after_s=2.1).reasons()[0]
    assert "in flight" in replace(calm, backlog=101).reasons()[0]


def test_a_starved_generator_makes_a_trial_invalid_and_not_a_failure() -> None:
    def reasons(trusted_per_s: float = 5000.0, **changed: float) -> list[str]:
        health = structs.replace(HEALTHY, **changed)
        return verdict.invalid_reasons(health, RATE, trusted_per_s)

    assert reasons() == []
    assert "never sent" in reasons(not_sent=1)[0]
    assert "of a core" in reasons(cpu_share=0.9)[0]
    assert "send lag" in reasons(send_lag_ms_p99=2.5)[0]
    assert "host" in reasons(steal=0.06)[0]
    # A neighbour on its core explains it, as far as the null server has shown the rate is possible.
    assert reasons(send_lag_ms_p99=2.5, queued_share=0.05) == []
    assert "null server" in reasons(500.0, send_lag_ms_p99=2.5, queued_share=0.05)[0]


@pytest.mark.parametrize(
    ("changes", "lag_ms", "trusted_per_s"),
    [
        ({}, 0.5, 9000.0),
        ({}, 2.5, RATE),
        ({}, None, RATE),
        ({"verdict": Verdict.FAIL}, 0.5, RATE),
        ({"verdict": Verdict.INVALID}, 0.5, RATE),
        ({"case": "v3"}, 0.5, RATE),
    ],
)
def test_only_a_passed_trial_of_the_null_server_with_send_lag_shows_a_generator_in_time(
    changes: dict[str, Any], lag_ms: float | None, trusted_per_s: float
) -> None:
    health = structs.replace(HEALTHY, send_lag_ms_p99=lag_ms)
    slower = a_trial(case="null", offered_per_s=RATE)
    faster = a_trial(**({"case": "null", "offered_per_s": 9000.0, "generator": health} | changes))
    assert agenda.trusted_per_s([slower, faster]) == trusted_per_s


def loaded(seen: Seen, slow_s: float = 0.001) -> Load:
    """A load of which a twentieth was answered so late, the others in a millisecond."""
    slow = np.random.default_rng(6).random(len(arrivals())) < 0.05
    given = samples(np.where(slow, slow_s, 0.001), arrivals())
    finished = Finished(
        sent=len(given.measured.kind),
        cpu_s=4.0,
        cpu_share=0.4,
        wall_s=DURATION_S,
        connections=256,
        connections_exhausted=False,
        complete=True,
        steal=0.0,
        queued_s=0.0,
        nice=-10,
        realtime=True,
    )
    ids, none_left = [""] * len(given.kind), np.full(len(given.kind), -1)
    return Load(given, ids, none_left, len(given.kind), Started(98.0, 98.0), finished, seen, {}, {})


def recorded(
    health: list[tuple[float, Health]],
    counters: Sequence[tuple[float, Counters]] = (),
    slow_s: float = 0.001,
) -> Record:
    """A trial in which all went well but what is given here of /health, the database and of a
    twentieth of the requests."""
    end_s = 100.0 + DURATION_S
    flushed_s = next((at for at, each in health if at >= end_s and each.flushed), math.inf)
    seen = Seen(
        health=health, counters=[*counters], begin_s=100.0, end_s=end_s, flushed_s=flushed_s
    )
    setting = Setting(1, "v3", 1, "confirm", 100.0, 1, DURATION_S, RATE)
    return trials.record(
        setting, loaded(seen, slow_s), Audit(), trusted_per_s=10 * RATE, steady=True
    )


UNSEEN, NOT_FLUSHED = "no answer to /health", "not seen to be flushed after the last arrival"
FLUSHED, BEHIND = Health("ok", sequence=9, flushed_sequence=9), Health("ok", sequence=9)


@pytest.mark.parametrize(
    ("health", "reasons"),
    [
        ([(105.0, FLUSHED), (110.1, FLUSHED)], []),
        ([(105.0, BEHIND), (110.1, BEHIND), (111.0, FLUSHED)], []),
        ([(105.0, FLUSHED), (110.1, BEHIND)], [NOT_FLUSHED]),
        ([(105.0, FLUSHED)], [NOT_FLUSHED]),
        ([], [UNSEEN, NOT_FLUSHED]),
        ([(99.0, FLUSHED)], [UNSEEN, NOT_FLUSHED]),
    ],
)
def test_a_service_that_does_not_say_that_all_is_in_the_database_has_not_passed(
    health: list[tuple[float, Health]], reasons: list[str]
) -> None:
    one = recorded(health)
    assert one.reasons == reasons
    assert one.verdict is (Verdict.FAIL if reasons else Verdict.PASS)


def test_both_harnesses_take_the_flush_age_that_the_service_has_seen_itself() -> None:
    seen = [(99.0, structs.replace(FLUSHED, flush_age_ms=900.0))]
    seen += [(105.0, structs.replace(FLUSHED, flush_age_ms=20.0, flush_age_ms_max=70.0))]
    plan = trial.Plan("v3", "average", 1, 100.0, DURATION_S, reads=True)
    load = loaded(Seen(health=seen, begin_s=100.0, end_s=100.0 + DURATION_S))
    assert recorded(seen).flush_age_ms_max == 70.0
    assert trial._summary(plan, load, load.samples, Audit()).flush_age_ms_max == 70.0


def test_what_the_database_does_is_that_of_the_measured_part() -> None:
    idle = [(90.0, Counters(0, 0, 0)), (99.9, Counters(0, 0, 0))]
    busy = [(101.0, Counters(500, 100, 10**6)), (109.0, Counters(8500, 900, 9 * 10**6))]
    after = [(115.0, Counters(9000, 950, 10**7))]
    one = recorded([], [*idle, *busy, *after])
    assert one.database is not None
    assert (one.database.commits_per_s, one.database.fsyncs_per_s) == (1000.0, 100.0)
    assert one.database.wal_bytes_per_request == pytest.approx(
        8e6 / (8.0 * one.generator.requests_per_s)
    )
    assert recorded([], [*idle, busy[0], *after]).database is None


def test_a_trial_counts_what_was_later_than_each_limit_and_is_judged_by_both() -> None:
    quick, slower, late = (
        recorded([(105.0, FLUSHED), (110.1, FLUSHED)], slow_s=slow_s)
        for slow_s in (0.009, 0.011, 0.051)
    )
    assert (quick.over, quick.over_tight) == (0, 0)
    assert slower.over == 0
    assert slower.over_tight == late.over_tight == late.over > 0.04 * late.total
    verdicts = [(one.verdict, one.verdict_tight) for one in (quick, slower, late)]
    passed, failed = Verdict.PASS, Verdict.FAIL
    assert verdicts == [(passed, passed), (passed, failed), (failed, failed)]


@pytest.mark.parametrize("name", ["flush_age_ms", "flush_age_ms_max"])
def test_what_has_waited_is_known_at_each_look_and_by_the_service_between_them(name: str) -> None:
    waited = structs.replace(FLUSHED, **{name: 1200.0})
    one = recorded([(99.0, FLUSHED), (105.0, waited), (110.1, FLUSHED)])
    assert one.flush_age_ms_max == 1200.0
    assert one.verdict is Verdict.FAIL
    assert "waited" in one.reasons[0]
    before = recorded([(99.0, waited), (105.0, FLUSHED), (110.1, FLUSHED)])
    assert before.flush_age_ms_max == 0.0
