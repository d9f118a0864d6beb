"""Whether a run is as good as the baseline: pass, regress, or inconclusive. Pure.

Both sides are standings, which follow from the trials of a capacity run. Rates are percent of B3.
No figure of one machine is compared with that of another: each is divided by the null server's in
the same run, capacity by capacity, and CPU per request by CPU per request, both at half of the
baseline's capacity. There the two are equally busy, so they find about as many requests whenever
they wake up; at one rate they would not, and what a request costs depends on that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean
from typing import Annotated

import msgspec

from bench.agenda import HALF, Options, counted
from bench.findings import Finding, found, result_of
from bench.search import BRACKET_FACTOR, rounded
from bench.service import NULL, VERSIONS
from bench.trials import Record
from bench.verdict import Verdict

LAYOUT = "baseline-1"
SHARE_MIN = 0.70  # of the baseline's share of the null server's capacity
CPU_GROWTH_MAX = 1.15
TRIALS_MIN = 2  # fewer do not tell how noisy they are
_STANDARD_ERRORS = 2.0

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Answer(StrEnum):
    """What the gate says, of a rule and of the whole."""

    PASS = "pass"  # noqa: S105 - not a password
    REGRESS = "regress"
    INCONCLUSIVE = "inconclusive"


class Standing(msgspec.Struct, frozen=True):
    """How the null server or a case did in a run.

    ``capacity`` is the largest stable rate, ``unstable_from`` the smallest rate above it at which
    the service itself was not stable; None where the run has none. ``cpu_us`` is the service's CPU
    per request in each valid trial at ``half``, and ``overloaded`` says that most of those trials
    were not stable: the service then did not do all of the work, and the figure is too low.
    """

    capacity: Positive | None
    unstable_from: Positive | None
    confirmed: bool
    half: Positive
    cpu_us: list[Positive]
    overloaded: bool

    def bounds(self) -> tuple[float, float]:
        """Where the capacity lies; bounds that are not confirmed may be a step further out."""
        slack = 1.0 if self.confirmed else BRACKET_FACTOR
        low = (self.capacity or 0.0) / slack
        return low, math.inf if self.unstable_from is None else self.unstable_from * slack


Standings = Mapping[str, Standing]


class Baseline(msgspec.Struct, frozen=True):
    """results/baseline.json: the standings, and where they come from."""

    layout: str
    run: str
    machine: str
    profile: str
    seed: int
    standings: dict[str, Standing]


@dataclass(frozen=True)
class Ruling:
    """One rule. ``why`` says what is wrong or better; it is empty when there is nothing to say."""

    rule: str
    baseline: str
    measured: str
    limit: str
    answer: Answer
    why: str = ""


@dataclass(frozen=True)
class Estimate:
    """A figure and the bounds between which it lies; the figure is NaN where there is none."""

    value: float
    low: float
    high: float


def standings(
    options: Options, records: Sequence[Record], halves: Mapping[str, float]
) -> dict[str, Standing]:
    """The standing of each that has its rate in ``halves``, as far as it was measured."""
    findings, counting = found(options, records), counted(options, records)
    every = findings.cases if findings.null is None else [findings.null, *findings.cases]
    return {
        each.case: _standing(each, halves[each.case], counting)
        for each in every
        if each.case in halves
    }


def halves(options: Options, records: Sequence[Record]) -> dict[str, float]:
    """At which rates a run measured what it found to be half of each capacity."""
    lows = {case: result_of(options, records, case, 1).low for case in [NULL.label, *options.cases]}
    return {case: rounded(HALF * low) for case, low in lows.items() if low is not None}


def _standing(one: Finding, half: float, records: Sequence[Record]) -> Standing:
    trials = [
        each
        for each in records
        if (each.case, each.rate) == (one.case, half) and each.verdict is not Verdict.INVALID
    ]
    failed = sum(each.verdict is Verdict.FAIL for each in trials)
    cpu_us = [each.cpu_us_per_request.get("service", 0.0) for each in trials]
    return Standing(
        capacity=one.capacity.median,
        unstable_from=None if one.at_least else one.unstable_from.median,
        confirmed=one.confirmed,
        half=half,
        cpu_us=[each for each in cpu_us if each > 0.0],
        overloaded=2 * failed > len(trials),
    )


def unusable(found_: Standings) -> str | None:
    """Why no baseline can be made of the standings; None when one can."""
    for case in (NULL.label, *VERSIONS):
        one = found_.get(case)
        if one is None or one.capacity is None:
            return f"it has no capacity of {case}"
        if not one.confirmed:
            return f"the capacity of {case} is not confirmed"
        if one.unstable_from is None and case == NULL.label:
            return "the null server was not the limit of its own capacity"
        if len(one.cpu_us) < TRIALS_MIN:
            return f"{case} has fewer than {TRIALS_MIN} valid trials at {one.half:g} %"
        if one.overloaded:
            return f"{case} was not stable at {one.half:g} %"
    return None


def rulings(baseline: Standings, measured: Standings) -> list[Ruling]:
    """Every rule on its own: the order, each capacity, each CPU per request."""
    return [
        *(_order(baseline, measured, slow, fast) for slow, fast in pairwise(VERSIONS)),
        *(_capacity(baseline, measured, case) for case in VERSIONS),
        *(_cpu(baseline, measured, case) for case in VERSIONS),
    ]


def answer_of(ruled: Sequence[Ruling]) -> Answer:
    """One rule that is broken is a regress, whatever is not known about others."""
    said = {each.answer for each in ruled}
    return next(
        (each for each in (Answer.REGRESS, Answer.INCONCLUSIVE) if each in said), Answer.PASS
    )


def sentence(ruled: Sequence[Ruling]) -> str:
    """The answer and what it rests on."""
    answer = answer_of(ruled)
    said = [f"{each.rule}: {each.why}" for each in ruled if each.answer is answer and each.why]
    if answer is Answer.PASS:
        said = [f"all {len(ruled)} rules hold", *said]
    return f"{answer}: {'; '.join(said)}"


def _order(baseline: Standings, measured: Standings, slow: str, fast: str) -> Ruling:
    low, high = _bounds(measured, slow), _bounds(measured, fast)
    if low[1] <= high[0]:
        answer, why = Answer.PASS, ""
    elif high[1] <= low[0]:
        answer, why = Answer.REGRESS, f"{fast} has no more capacity than {slow}"
    else:
        answer, why = Answer.INCONCLUSIVE, _doubt(measured, slow, fast) or "the capacities overlap"
    return Ruling(
        f"{slow} < {fast}",
        " < ".join(_capacity_text(baseline, case) for case in (slow, fast)),
        " < ".join(_capacity_text(measured, case) for case in (slow, fast)),
        "<",
        answer,
        why,
    )


def _capacity(baseline: Standings, measured: Standings, case: str) -> Ruling:
    before, now = _share(baseline, case), _share(measured, case)
    limit = SHARE_MIN * before.value
    if now.low >= limit:
        answer, why = Answer.PASS, ""
    elif now.high < limit:
        answer, why = Answer.REGRESS, f"{now.high / before.value:.0%} of the baseline at most"
    else:
        doubts = (_doubt(side, case, NULL.label) for side in (measured, baseline))
        answer, why = Answer.INCONCLUSIVE, next(filter(None, doubts), "near the limit")
    return Ruling(
        f"{case} capacity ÷ null",
        _share_text(before),
        _share_text(now),
        "–" if math.isnan(limit) else f"≥ {limit:.3f}",
        answer,
        why,
    )


def _cpu(baseline: Standings, measured: Standings, case: str) -> Ruling:
    rule, limit = f"{case} CPU ÷ null", f"≤ +{CPU_GROWTH_MAX - 1:.0%}"
    sides = (baseline, measured)
    lacking = [
        f"{label} has fewer than {TRIALS_MIN} valid trials {where} at half of the capacity"
        for where, side in zip(("in the baseline", "now"), sides, strict=True)
        for label in (case, NULL.label)
        if label not in side or len(side[label].cpu_us) < TRIALS_MIN
    ]
    if lacking:
        return Ruling(rule, "–", "–", limit, Answer.INCONCLUSIVE, lacking[0])
    before, now = (_ratio([side[case].cpu_us], [side[NULL.label].cpu_us]) for side in sides)
    growth = _ratio(
        [measured[case].cpu_us, baseline[NULL.label].cpu_us],
        [measured[NULL.label].cpu_us, baseline[case].cpu_us],
    )
    answer, why = _of_growth(growth)
    # Of a service that does not keep up the figure is too low, so it can only be worse than it is.
    suspect = {Answer.PASS: case, Answer.REGRESS: NULL.label}.get(answer)
    if suspect is not None and measured[suspect].overloaded:
        half = measured[suspect].half
        answer, why = Answer.INCONCLUSIVE, f"{suspect} was not stable at {half:g} %"
    return Ruling(
        rule,
        f"{before.value:.2f}",
        f"{now.value:.2f} ({growth.low - 1:+.0%} to {growth.high - 1:+.0%})",
        limit,
        answer,
        why,
    )


def _of_growth(growth: Estimate) -> tuple[Answer, str]:
    if growth.low > CPU_GROWTH_MAX:
        return Answer.REGRESS, f"{growth.value - 1:+.0%} of CPU per request"
    if growth.high <= CPU_GROWTH_MAX:
        better = growth.high < 1.0
        return Answer.PASS, f"{growth.value - 1:+.0%} of CPU per request" if better else ""
    return Answer.INCONCLUSIVE, f"{growth.low - 1:+.0%} to {growth.high - 1:+.0%} is too uncertain"


def _bounds(side: Standings, case: str) -> tuple[float, float]:
    return side[case].bounds() if case in side else (0.0, math.inf)


def _share(side: Standings, case: str) -> Estimate:
    """The share of the null server's capacity."""
    (low, high), (null_low, null_high) = _bounds(side, case), _bounds(side, NULL.label)
    own, null = (side[each].capacity if each in side else None for each in (case, NULL.label))
    return Estimate(
        own / null if own and null else math.nan,
        low / null_high,
        high / null_low if null_low else math.inf,
    )


def _ratio(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> Estimate:
    """A product of means over a product of means, give or take two standard errors.

    The means are geometric, and all trials are taken to be equally noisy, relative to their size.
    """
    groups = [[math.log(value) for value in group] for group in [*above, *below]]
    means = [fmean(group) for group in groups]
    squares = sum((x - mean) ** 2 for group, mean in zip(groups, means, strict=True) for x in group)
    variance = squares / sum(len(group) - 1 for group in groups)
    error = _STANDARD_ERRORS * math.sqrt(variance * sum(1 / len(group) for group in groups))
    value = sum(means[: len(above)]) - sum(means[len(above) :])
    return Estimate(math.exp(value), math.exp(value - error), math.exp(value + error))


def _doubt(side: Standings, *cases: str) -> str:
    """Which of the capacities that a rule needs is not known well."""
    for case in cases:
        if case not in side or side[case].capacity is None:
            return f"no capacity of {case}"
        if not side[case].confirmed:
            return f"the capacity of {case} is not confirmed"
        if side[case].unstable_from is None:
            return f"{case} was not the limit of its capacity"
    return ""


def _share_text(share: Estimate) -> str:
    return (
        "–" if math.isnan(share.value) else f"{share.value:.3f} ({share.low:.3f}–{share.high:.3f})"
    )


def _capacity_text(side: Standings, case: str) -> str:
    one = side.get(case)
    if one is None or one.capacity is None:
        return "–"
    above = "" if one.unstable_from is None else f"{one.unstable_from:.0f}"
    return f"{one.capacity:.0f}–{above} %"
