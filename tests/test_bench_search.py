"""The search finds what is there to be found: driven by simulated services, no clock, no I/O."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from bench import verdict
from bench.figures import Samples
from bench.search import Capacity, Probe, Vote, bounds, next_step, split
from bench.traffic import Floats, Kind
from bench.verdict import Verdict, stability

Trial = Callable[[float, int], Vote]


def searched(trial: Trial, start: float, width: float) -> tuple[Capacity, list[Vote]]:
    """Drive a search to its end."""
    votes: list[Vote] = []
    while True:
        step = next_step(votes, start, width)
        if isinstance(step, Capacity):
            return step, votes
        votes.append(trial(step.rate, len(votes)))


def threshold(limit: float) -> Trial:
    return lambda rate, _: Vote(rate, Verdict.PASS if rate <= limit else Verdict.FAIL)


def md1(service_s: float, limit_s: float, per_s: float, seed: int, length_s: float) -> Vote:
    """A trial against one server with constant service time and Poisson arrivals, at ``per_s``."""
    warmup_s = 2.0
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0 / per_s, int(1.2 * per_s * (length_s + warmup_s)) + 100)
    arrival_s = np.cumsum(gaps) - warmup_s
    arrival_s = arrival_s[arrival_s < length_s]
    # Lindley's recursion for all requests at once.
    work: Floats = np.arange(len(arrival_s), dtype=np.float64) * service_s
    done_s: Floats = work + np.maximum.accumulate(arrival_s - work) + service_s
    kinds = np.full(len(arrival_s), Kind.BOOK)
    nothing = np.zeros(len(arrival_s), dtype=np.int64)
    samples = Samples(arrival_s, arrival_s, done_s, kinds, nothing + 200, nothing)
    reasons = stability(samples, per_s, length_s).reasons()
    total, over = len(samples.measured.kind), verdict.over_limit(samples, limit_s * 1e3)
    return Vote(per_s, verdict.judged(reasons, total, over), total, over)


def md1_capacity(service_s: float, limit_s: float) -> float:
    """The rate at which 1 % of an M/D/1 queue's requests take longer than the limit.

    P(wait > x) falls as C·exp(-θx), where λ(exp(θD) - 1) = θ and C = (1 - ρ) / (λD·exp(θD) - 1):
    exact but for terms that vanish at such loads.
    """

    def tail(per_s: float) -> float:
        low, high = 1e-9, 50.0 / service_s
        for _ in range(200):
            theta = (low + high) / 2
            low, high = (
                (theta, high) if per_s * math.expm1(theta * service_s) < theta else (low, theta)
            )
        factor = (1 - per_s * service_s) / (per_s * service_s * math.exp(low * service_s) - 1)
        return factor * math.exp(-low * (limit_s - service_s))

    least, most = 0.5 / service_s, 0.99999 / service_s
    for _ in range(100):
        middle = (least + most) / 2
        least, most = (middle, most) if tail(middle) < 0.01 else (least, middle)
    return least


@pytest.mark.parametrize("width", [0.10, 0.05, 0.025])
@pytest.mark.parametrize("start", [20.0, 330.0, 4000.0])
def test_a_sharp_limit_is_bracketed_within_the_width(width: float, start: float) -> None:
    found, votes = searched(threshold(437.0), start, width)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 437.0 < found.high <= found.low * (1 + width)
    assert found.confirmed
    assert not found.at_least
    assert [vote.rate for vote in votes].count(found.low) == 3
    assert [vote.rate for vote in votes].count(found.high) == 3


def test_the_first_steps_are_of_factor_one_point_four() -> None:
    _, votes = searched(threshold(437.0), 200.0, 0.05)
    assert [vote.rate for vote in votes[:4]] == [200.0, 280.0, 392.0, 548.8]


def test_the_estimate_of_what_is_left_is_right_when_all_goes_well() -> None:
    votes: list[Vote] = []
    promised = []
    while isinstance(step := next_step(votes, 400.0, 0.05), Probe):
        promised.append(step.left)
        votes.append(threshold(437.0)(step.rate, 0))
    assert promised == list(range(len(votes) - 1, -1, -1))


def test_a_lucky_first_pass_does_not_survive_its_confirmation() -> None:
    def lucky(rate: float, number: int) -> Vote:
        return Vote(rate, Verdict.PASS if rate <= 400.0 or number == 1 else Verdict.FAIL)

    found, _ = searched(lucky, 390.0, 0.05)
    assert found.low is not None
    assert found.low <= 400.0
    assert found.confirmed


def test_an_unlucky_first_failure_does_not_survive_either() -> None:
    def unlucky(rate: float, number: int) -> Vote:
        return Vote(rate, Verdict.FAIL if rate > 500.0 or number == 0 else Verdict.PASS)

    found, _ = searched(unlucky, 480.0, 0.05)
    assert found.low is not None
    assert found.low >= 480.0


def test_an_undecided_rate_is_tried_again_and_in_the_end_decided_by_all_its_requests() -> None:
    def close(rate: float, _: int) -> Vote:
        if rate == 100.0:
            return Vote(rate, Verdict.UNDECIDED, 10_000, 95)
        return Vote(rate, Verdict.PASS if rate < 100.0 else Verdict.FAIL, 10_000, 0)

    found, votes = searched(close, 100.0, 0.05)
    assert [vote.rate for vote in votes[:5]] == [100.0] * 5
    assert found.low == 100.0


PASS, FAIL, UNDECIDED, INVALID = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.UNDECIDED,
    Verdict.INVALID,
)


@pytest.mark.parametrize(
    "said",
    [
        [(PASS, 83), *[(UNDECIDED, 117)] * 4],  # together more than 1 % was late
        [(PASS, 0), (FAIL, 0), (PASS, 0), (FAIL, 0), (UNDECIDED, 100)],  # a backlog, twice
        [(PASS, 0), (PASS, 0), (FAIL, 0), (FAIL, 0), (FAIL, 0)],
    ],
)
def test_a_rate_without_a_majority_is_not_stable_if_it_failed_as_often_or_was_late_on_the_whole(
    said: list[tuple[Verdict, int]],
) -> None:
    votes = [Vote(100.0, verdict, 10_000, over) for verdict, over in said]
    below = [Vote(97.0, PASS, 10_000)] * 3
    assert next_step([*votes, *below], 0.0, 0.05) == Capacity(97.0, 100.0, False, True)


@pytest.mark.parametrize(
    "said",
    [
        [(PASS, 80), *[(UNDECIDED, 95)] * 4],
        [(PASS, 0), (PASS, 0), (FAIL, 150), (UNDECIDED, 95), (UNDECIDED, 95)],
        [(PASS, 0), (FAIL, 900), (PASS, 0), (FAIL, 900), (PASS, 0)],
    ],
)
def test_a_rate_without_a_majority_is_stable_if_it_passed_more_often_and_was_in_time_on_the_whole(
    said: list[tuple[Verdict, int]],
) -> None:
    votes = [Vote(100.0, verdict, 10_000, over) for verdict, over in said]
    above = [Vote(103.0, FAIL, 10_000)] * 3
    assert next_step([*votes, *above], 0.0, 0.05) == Capacity(100.0, 103.0, False, True)


@pytest.mark.parametrize(
    ("valid", "confirmed"),
    [
        ([PASS], False),
        ([PASS, PASS], False),
        ([PASS, UNDECIDED], False),
        ([PASS, PASS, FAIL, UNDECIDED], False),
        ([PASS, PASS, PASS], True),
        ([PASS, PASS, UNDECIDED, UNDECIDED, UNDECIDED], True),
    ],
)
def test_a_bound_is_confirmed_by_three_valid_trials_that_agree_or_five_and_not_asked_for_forever(
    valid: list[Verdict], confirmed: bool
) -> None:
    lower = [Vote(100.0, verdict) for verdict in (*valid, *[INVALID] * 4)]
    upper = [Vote(103.0, FAIL)] * 3
    assert next_step([*lower, *upper], 0.0, 0.05) == Capacity(100.0, 103.0, False, confirmed)


@pytest.mark.parametrize(
    ("valid", "confirmed"),
    [
        ([FAIL], False),
        ([FAIL, FAIL], False),
        ([PASS, FAIL], False),
        ([FAIL, FAIL, FAIL], True),
        ([PASS, FAIL, PASS, FAIL, FAIL], True),
    ],
)
def test_an_upper_bound_is_confirmed_by_the_same_rule(
    valid: list[Verdict], confirmed: bool
) -> None:
    upper = [Vote(103.0, verdict) for verdict in (*valid, *[INVALID] * 4)]
    lower = [Vote(100.0, PASS)] * 3
    assert next_step([*lower, *upper], 0.0, 0.05) == Capacity(100.0, 103.0, False, confirmed)


def test_an_upper_bound_without_a_valid_trial_needs_no_confirmation() -> None:
    votes = [*[Vote(100.0, PASS)] * 3, *[Vote(103.0, INVALID)] * 4]
    assert next_step(votes, 0.0, 0.05) == Capacity(100.0, 103.0, at_least=True, confirmed=True)


def test_an_invalid_trial_is_repeated_and_never_counts_as_a_failure() -> None:
    def once_disturbed(rate: float, number: int) -> Vote:
        return Vote(rate, Verdict.INVALID) if number == 2 else threshold(437.0)(rate, number)

    found, votes = searched(once_disturbed, 400.0, 0.05)
    assert votes[3].rate == votes[2].rate
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 437.0 < found.high


def searched_from_420_to_440(limit: float) -> tuple[Capacity, list[float]]:
    """What a search that begins at these bounds finds, and the rates it tried."""
    votes: list[Vote] = []
    while isinstance(step := next_step(votes, 0.0, 0.05, known=(420.0, 440.0)), Probe):
        votes.append(threshold(limit)(step.rate, 0))
    return step, [vote.rate for vote in votes]


def test_known_bounds_are_confirmed_like_those_that_a_search_found_itself() -> None:
    found, rates = searched_from_420_to_440(437.0)
    assert rates == [420.0, 440.0, 420.0, 420.0, 440.0, 440.0]
    assert found == Capacity(420.0, 440.0, at_least=False, confirmed=True)


@pytest.mark.parametrize("limit", [200.0, 419.0, 441.0, 900.0])
def test_a_search_whose_known_bounds_do_not_hold_finds_its_own(limit: float) -> None:
    found, _ = searched_from_420_to_440(limit)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= limit < found.high <= found.low * 1.05


@pytest.mark.parametrize("limit", [390.0, 415.0, 445.0, 480.0])
def test_a_search_looks_first_near_the_bounds_that_do_not_hold(limit: float) -> None:
    _, rates = searched_from_420_to_440(limit)
    assert len(set(rates)) <= 5


def test_where_the_generator_ends_the_result_is_at_least() -> None:
    def limited(rate: float, _: int) -> Vote:
        return Vote(rate, Verdict.PASS if rate <= 900.0 else Verdict.INVALID)

    found, votes = searched(limited, 500.0, 0.05)
    assert found.at_least
    assert found.low is not None
    assert 900.0 / 1.05 <= found.low <= 900.0
    beyond = [vote.rate for vote in votes if vote.rate > 900.0]
    assert all(beyond.count(rate) == 4 for rate in beyond)  # itself and three repeats


def test_trials_in_any_order_are_split_where_the_fewest_contradict() -> None:
    def vote(rate: float, verdict: Verdict) -> Vote:
        return Vote(rate, verdict)

    passed = [vote(rate, Verdict.PASS) for rate in (100.0, 200.0, 300.0, 300.0)]
    failed = [vote(rate, Verdict.FAIL) for rate in (400.0, 500.0)]
    unlucky = vote(150.0, Verdict.FAIL)
    assert split([unlucky, *failed, *passed]) == (300.0, 400.0)
    assert split(passed) == (300.0, None)
    assert split(failed) == (None, 400.0)
    assert split([]) == (None, None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([(100.0, PASS), (110.0, UNDECIDED), (120.0, FAIL)], (100.0, 120.0)),
        ([(100.0, PASS), (110.0, INVALID), (120.0, FAIL)], (100.0, 120.0)),
        ([(100.0, PASS), (110.0, INVALID)], (100.0, None)),
        ([(90.0, UNDECIDED), (100.0, FAIL)], (None, 100.0)),
        ([(100.0, UNDECIDED)], (None, None)),
    ],
)
def test_a_rate_at_which_nothing_passed_or_failed_is_no_end_of_a_split(
    said: list[tuple[float, Verdict]], expected: tuple[float | None, float | None]
) -> None:
    assert split([Vote(rate, verdict) for rate, verdict in said]) == expected


def test_what_passed_above_a_rate_that_failed_is_no_lower_bound() -> None:
    said = [(120.0, PASS), (100.0, FAIL), (96.0, PASS)]
    votes = [Vote(rate, verdict) for rate, verdict in said for _ in range(3)]
    assert bounds(votes) == (96.0, 100.0)
    assert bounds(votes[:6]) == (None, 100.0)


@PROPERTY
@given(
    st.lists(
        st.builds(Vote, st.sampled_from([90.0, 100.0, 110.0, 120.0]), st.sampled_from(Verdict)),
        max_size=12,
    )
)
def test_something_passed_below_a_split_and_failed_above_it(votes: list[Vote]) -> None:
    low, high = split(votes)
    said = {(vote.rate, vote.verdict) for vote in votes}
    assert low is None or (low, PASS) in said
    assert high is None or (high, FAIL) in said


def test_a_service_that_never_passes_has_no_capacity() -> None:
    found, votes = searched(threshold(0.5), 30.0, 0.10)
    assert found.low is None
    assert min(vote.rate for vote in votes) < 1.5


def test_a_service_without_a_limit_ends_the_search_at_the_largest_rate() -> None:
    found, _ = searched(threshold(1e9), 3000.0, 0.10)
    assert found.high is None
    assert found.at_least


def test_a_search_without_end_is_ended() -> None:
    seen: set[float] = set()

    def fickle(rate: float, _: int) -> Vote:
        first = rate not in seen
        seen.add(rate)
        return Vote(rate, Verdict.PASS if first and rate < 5000.0 else Verdict.FAIL)

    found, votes = searched(fickle, 4000.0, 0.025)
    assert len(votes) == 60
    assert not found.confirmed


def test_the_known_capacity_of_a_queue_is_found_within_the_width() -> None:
    service_s, limit_s, width = 0.001, 0.050, 0.05
    truth = md1_capacity(service_s, limit_s)
    assert 0.94 < truth * service_s < 0.97
    found, middles = 0, list[float]()
    for seed in range(100):
        start = float(np.random.default_rng([seed, 1]).uniform(300.0, 2000.0))
        capacity, _ = searched(
            lambda rate, number, seed=seed: md1(  # type: ignore[misc]
                service_s, limit_s, rate, 1000 * seed + number, 10.0
            ),
            start,
            width,
        )
        assert capacity.low is not None
        assert capacity.high is not None
        found += truth / (1 + width) <= capacity.low <= truth * (1 + width)
        middles.append(math.sqrt(capacity.low * capacity.high) / truth)
    assert found >= 95
    assert abs(np.mean(middles) - 1) < width / 2, "neither too high nor too low on the whole"
