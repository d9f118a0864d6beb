"""The search for the largest stable rate: a pure function from all trials so far to the next one.

Rates are percent of B3. Bracket by 1.4, bisect geometrically until the bounds are as close as the
mode asks, then confirm each bound: three of at most five trials. A bound that is not confirmed
becomes the other bound, and the search goes on from there, in small steps first: it is probably
near.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.verdict import OVER_SHARE_MAX, Verdict

BRACKET_FACTOR = 1.4
VOTES_MAX, VOTES_NEEDED = 5, 3
INVALID_REPEATS_MAX = 3
RATE_MIN, RATE_MAX = 1.0, 10_000.0
TRIALS_MAX = 60


@dataclass(frozen=True)
class Vote:
    """What one trial said about one rate; ``over`` of ``total`` requests were over the limit."""

    rate: float
    verdict: Verdict
    total: int = 0
    over: int = 0


@dataclass(frozen=True)
class Probe:
    """The search wants a trial at this rate; ``left`` more or so after it."""

    rate: float
    purpose: str
    left: int


@dataclass(frozen=True)
class Capacity:
    """What a search has found: the largest stable rate, and the smallest one that is not.

    ``low`` is None when nothing was stable, ``high`` None when nothing tried was unstable.
    ``at_least`` says that the generator or the machine, not the service, set the upper bound, which
    then needs no confirmation.
    """

    low: float | None
    high: float | None
    at_least: bool
    confirmed: bool


def next_step(
    votes: Sequence[Vote],
    start: float,
    width: float,
    known: Sequence[float] = (),
) -> Probe | Capacity:
    """Where to measure next, or the result. ``width`` is that of the final bounds, 0.05 for 5 %.

    It begins at the bounds that are ``known`` from another search, if there are any.
    """
    by_rate, standing = _by_rate(votes), _standings(votes)
    untried = [rate for rate in known if rate not in by_rate]
    if untried:
        return Probe(untried[0], "confirm", len(untried) - 1)
    if not votes:
        return Probe(rounded(start), "bracket", _left(None, None, width, 0, 0))
    low, high = bounds(votes)
    at_least = high is None or standing[high].verdict is Verdict.INVALID
    if len(votes) >= TRIALS_MAX:
        return Capacity(low, high, at_least, confirmed=False)
    wanted = _wanted(by_rate, standing, (low, high), width)
    if wanted is None:
        counting = [bound for bound in (low, None if at_least else high) if bound is not None]
        confirmed = all(_is_confirmed(by_rate[each], standing[each].verdict) for each in counting)
        return Capacity(low, high, at_least, confirmed)
    rate, purpose = wanted
    low_votes = _valid_count(by_rate, low)
    high_votes = VOTES_NEEDED if at_least and high else _valid_count(by_rate, high)
    return Probe(rate, purpose, _left(low, high, width, low_votes, high_votes))


def bounds(votes: Sequence[Vote]) -> tuple[float | None, float | None]:
    """What any trials say together: the smallest unstable rate, and the largest stable below it."""
    standing = _standings(votes)
    high = min((rate for rate, seen in standing.items() if seen.is_upper), default=None)
    stable = (rate for rate, seen in standing.items() if seen.verdict is Verdict.PASS)
    low = max((rate for rate in stable if high is None or rate < high), default=None)
    return low, high


def split(votes: Sequence[Vote]) -> tuple[float | None, float | None]:
    """Between which rates any trials, in whatever order they were made, put the limit.

    The split that the fewest trials contradict, a pass above it or a failure below it; of several
    the lowest. So something passed at its lower rate and failed at its upper one; None where it
    lies below or above all rates.
    """
    votes = [vote for vote in votes if vote.verdict in (Verdict.PASS, Verdict.FAIL)]
    rates = sorted({vote.rate for vote in votes})
    edges: list[float | None] = [None, *rates]

    def contradictions(low: float | None) -> int:
        return sum(
            vote.verdict is (Verdict.PASS if low is None or vote.rate > low else Verdict.FAIL)
            for vote in votes
        )

    low = min(edges, key=contradictions)
    above = [rate for rate in rates if low is None or rate > low]
    return low, above[0] if above else None


def rounded(rate: float) -> float:
    """Four digits: rates are names in files and tables."""
    return float(f"{rate:.4g}")


def _wanted(
    by_rate: dict[float, list[Vote]],
    standing: dict[float, "_Standing"],
    bounds: tuple[float | None, float | None],
    width: float,
) -> tuple[float, str] | None:
    low, high = bounds
    for rate, seen in standing.items():
        if not seen.settled:
            return rate, "repeat" if seen.verdict is Verdict.UNDECIDED else "confirm"
    tried = sorted(by_rate)
    if low is None:
        rate = rounded(tried[0] / _step(tried[:2], width))
        return (rate, "bracket") if rate >= RATE_MIN else None
    if high is None:
        rate = rounded(tried[-1] * _step(tried[-2:], width))
        return (rate, "bracket") if rate <= RATE_MAX else None
    if high / low > 1.0 + width:
        middle = rounded(math.sqrt(low * high))
        if low < middle < high:
            return middle, "bisect"
    for bound in (low, high):
        if _valid_count(by_rate, bound) == 1 and not standing[bound].exhausted:
            return bound, "confirm"
    return None


def _step(outermost: Sequence[float], width: float) -> float:
    """The factor to the next rate beyond those tried, twice as far as the last two are apart."""
    if len(outermost) == 1:
        return BRACKET_FACTOR
    near, far = outermost
    return min(max((far / near) ** 2, 1.0 + width), BRACKET_FACTOR)


def _by_rate(votes: Sequence[Vote]) -> dict[float, list[Vote]]:
    found: dict[float, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.rate, []).append(vote)
    return found


def _standings(votes: Sequence[Vote]) -> dict[float, "_Standing"]:
    return {rate: _standing(trials) for rate, trials in _by_rate(votes).items()}


@dataclass(frozen=True)
class _Standing:
    """What is known of a rate; unless it is ``settled`` it needs another trial, unless it is
    ``exhausted`` it may have one."""

    verdict: Verdict
    settled: bool
    exhausted: bool = False

    @property
    def is_upper(self) -> bool:
        return self.verdict in (Verdict.FAIL, Verdict.INVALID)


def _standing(trials: Sequence[Vote]) -> _Standing:
    """One trial is believed until a second is asked for, then it is three of five.

    Where five trials, or those that were possible, give neither side three, all their requests
    together decide, and a rate that failed as often as it passed is not stable. INVALID means that
    no valid trial was possible.
    """
    valid = [trial for trial in trials if trial.verdict is not Verdict.INVALID]
    exhausted = len(trials) - len(valid) > INVALID_REPEATS_MAX
    if not valid:
        return _Standing(Verdict.INVALID if exhausted else Verdict.UNDECIDED, exhausted, exhausted)
    passed = sum(trial.verdict is Verdict.PASS for trial in valid)
    failed = sum(trial.verdict is Verdict.FAIL for trial in valid)
    majority = Verdict.PASS if passed > failed else Verdict.FAIL
    if max(passed, failed) >= VOTES_NEEDED or (len(valid) == 1 and passed != failed):
        return _Standing(majority, settled=True, exhausted=exhausted)
    if len(valid) < VOTES_MAX and not exhausted:
        undecided = passed == failed
        return _Standing(Verdict.UNDECIDED if undecided else majority, settled=False)
    over, total = sum(trial.over for trial in valid), sum(trial.total for trial in valid)
    stable = failed < max(passed, 1) and over <= OVER_SHARE_MAX * total
    return _Standing(Verdict.PASS if stable else Verdict.FAIL, settled=True, exhausted=exhausted)


def _is_confirmed(trials: Sequence[Vote], verdict: Verdict) -> bool:
    """Whether as many valid trials say so as may be asked for, or enough of them agree."""
    valid = sum(trial.verdict is not Verdict.INVALID for trial in trials)
    agreeing = sum(trial.verdict is verdict for trial in trials)
    return valid >= VOTES_MAX or agreeing >= VOTES_NEEDED


def _valid_count(by_rate: dict[float, list[Vote]], rate: float | None) -> int:
    """Valid trials at a bound; a rate without any needs no confirmation."""
    trials = by_rate.get(rate, []) if rate is not None else []
    return sum(trial.verdict is not Verdict.INVALID for trial in trials)


def _left(
    low: float | None, high: float | None, width: float, low_votes: int, high_votes: int
) -> int:
    """How many trials are likely to follow the next one, if no vote is contradicted."""
    if low is None or high is None:
        # One step closes the bracket if the start was good.
        ratio, steps = BRACKET_FACTOR, 1 if low or high else 2
        low_votes = high_votes = 1
    else:
        ratio, steps = high / low, 0
    halvings = max(0, math.ceil(math.log2(max(math.log(ratio) / math.log1p(width), 1.0))))
    if halvings or steps:
        low_votes = high_votes = 1
    confirmations = max(0, VOTES_NEEDED - low_votes) + max(0, VOTES_NEEDED - high_votes)
    return max(0, steps + halvings + confirmations - 1)
