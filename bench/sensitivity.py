"""Whether the order of the cases depends on the traffic: a capacity run under each profile.

What decides is pure: a capacity lies between two bounds, and two cases are in order only where
their bounds do not overlap.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import combinations

import msgspec

from bench import agenda
from bench.findings import Finding, Findings
from bench.service import NULL

LAYOUT = "sensitivity-1"
MODE = "quick"


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for; it stands in meta.json. ``cases`` begin with the slowest."""

    cases: list[str]
    profiles: list[str]
    seed: int
    pins: dict[str, int]

    def of_profile(self, profile: str) -> agenda.Options:
        """Those of the capacity run under one profile."""
        return agenda.Options(self.cases, MODE, profile, self.seed, self.pins, repeats=1)


class Order(StrEnum):
    """Whether each case carries more than the one before it."""

    KEPT = "kept"
    BROKEN = "broken"
    UNDECIDED = "undecided"


class Bounds(msgspec.Struct, frozen=True):
    """The capacity of a case is at least ``stable`` and less than ``unstable_from``, percent of B3.

    ``stable`` is None when nothing was, ``unstable_from`` when the service was not the limit.
    """

    case: str
    stable: float | None
    unstable_from: float | None
    confirmed: bool

    @property
    def interval(self) -> tuple[float, float]:
        """Where the capacity is for certain: anywhere, unless the bounds are confirmed."""
        if not self.confirmed:
            return 0.0, math.inf
        above = math.inf if self.unstable_from is None else self.unstable_from
        return self.stable or 0.0, above


class UnderProfile(msgspec.Struct, frozen=True):
    """What one capacity run says.

    ``highest_rate`` is that in the measured part of a trial, as a multiple of the trial's mean.
    """

    profile: str
    highest_rate: float
    cases: list[Bounds]
    order: Order


class Sensitivity(msgspec.Struct, frozen=True):
    """summary.json: the profiles that were measured, in their order."""

    profiles: list[UnderProfile]

    def count(self, order: Order) -> int:
        """The profiles with this order."""
        return sum(each.order is order for each in self.profiles)


def order_of_two(slower: Bounds, faster: Bounds) -> Order:
    """Kept or broken only when no capacities within the bounds say anything else."""
    (slower_low, slower_high), (faster_low, faster_high) = slower.interval, faster.interval
    if slower_high <= faster_low:
        return Order.KEPT
    if faster_high <= slower_low:
        return Order.BROKEN
    return Order.UNDECIDED


def order_of(cases: Sequence[Bounds]) -> Order:
    """Of cases that are to be in ascending order: one pair that is not breaks it."""
    pairs = {order_of_two(slower, faster) for slower, faster in combinations(cases, 2)}
    if Order.BROKEN in pairs:
        return Order.BROKEN
    return Order.UNDECIDED if Order.UNDECIDED in pairs else Order.KEPT


def bounds_of(case: str, finding: Finding | None) -> Bounds:
    """The bounds that a search has found; None is a case without a trial."""
    if finding is None:
        return Bounds(case, None, None, confirmed=False)
    above = None if finding.at_least else finding.unstable_from.median
    return Bounds(case, finding.capacity.median, above, finding.confirmed)


def found(options: Options, runs: Sequence[Findings]) -> Sensitivity:
    """What the capacity runs say together."""
    return Sensitivity([_under_profile(options, each) for each in runs])


def _under_profile(options: Options, findings: Findings) -> UnderProfile:
    by_case = {each.case: each for each in findings.cases}
    cases = [bounds_of(case, by_case.get(case)) for case in options.cases]
    highest = agenda.highest_rate(options.of_profile(findings.profile))
    return UnderProfile(findings.profile, highest, cases, order_of(cases))


def expected_s(options: Options, profile: str) -> float:
    """About how long the capacity run under a profile takes."""
    asked = options.of_profile(profile)
    cases = [NULL.label, *asked.cases]
    return sum(agenda.search_s(asked, case) for case in cases)
