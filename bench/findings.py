"""What the trials of capacity runs say together: pure functions to ``summary.json``."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench.agenda import Options, counted, mode_of, search_step, search_votes
from bench.attribution import Bottleneck, Knee, bottleneck, mean_of
from bench.figures import KindFigures
from bench.search import Capacity, bounds, split
from bench.service import NULL, Case
from bench.traffic import PROFILES
from bench.trials import LogWrites, Record, Staleness
from bench.verdict import Verdict

POINTS = (25.0, 100.0, 300.0)
POINT_TOLERANCE = 0.02
KNEE_TOLERANCE = 0.02
ROUNDING = 0.001  # of rates, which have four digits


class Range(msgspec.Struct, frozen=True):
    """A figure over repeats: its median, least and largest value.

    None is where there is none: as the least of rates that are stable where one repeat found
    nothing, as the most of rates that are not where one found everything stable, and as the median
    where half of the repeats did.
    """

    median: float | None
    least: float | None
    most: float | None


NO_RANGE = Range(None, None, None)


class Point(msgspec.Struct, frozen=True):
    """Latencies at one rate (percent of B3); None percentiles are infinite."""

    rate: float
    figures: KindFigures
    stable: bool = True


class Finding(msgspec.Struct, frozen=True):
    """One case. Rates are percent of B3, requests/s that much of the profile.

    ``capacity`` runs over the repeats' largest stable rates, ``unstable_from`` over the
    smallest rates above them that were not stable or, if ``at_least``, not valid either;
    ``tight`` and ``tight_unstable_from`` are the same at 10 ms, by the passes and failures of
    the search. A repeat whose search was broken off counts only where no other is. ``late`` is
    the share of requests that were over the limit in all trials of the searches at the repeats'
    capacities, those that failed among them (None in findings from before 2026-11-29). In
    ``repeats_confirmed`` of the repeats, all where it is ``confirmed``, more trials said the
    same of both bounds (None in findings from before 2026-11-28). ``of_null`` is the share of
    the null server's capacity in the same repeat, ``of_null_range`` the same with its range,
    and ``of_flush``, of a case with a log, that of the case without; none in findings from
    before 2026-11-27. Staleness, by kind of read the median of the trials' medians and the
    largest of all, write-behind age and what the log did, the mean by repeat, are those at the
    capacity.
    """

    case: str
    repeats: int
    trials: int
    capacity: Range
    unstable_from: Range
    at_least: bool
    confirmed: bool
    tight: Range
    tight_unstable_from: Range
    requests_per_s: float | None
    of_null: float | None
    points: list[Point]
    cpu_us_per_request: dict[str, float]
    staleness_ms: dict[str, Staleness]
    flush_age_ms_max: float | None
    changes_per_flush: float | None
    limit: Bottleneck | None
    log: LogWrites | None = None
    of_null_range: Range = NO_RANGE
    of_flush: Range = NO_RANGE
    repeats_confirmed: int | None = None
    late: float | None = None


class _Search(NamedTuple):
    """What one search found, at 10 ms too, and in the same repeat that of the null server and, of a
    case with a log, that of the case without."""

    found: Capacity
    tight: tuple[float | None, float | None]
    null_low: float | None
    flush_low: float | None
    # Requests over the limit, and all, in the trials of the search at its largest stable rate.
    over: int
    total: int


class Findings(msgspec.Struct, frozen=True):
    """summary.json."""

    mode: str
    profile: str
    null: Finding | None
    cases: list[Finding]

    @property
    def every(self) -> list[Finding]:
        """The cases, then the null server."""
        return [*self.cases, *([self.null] if self.null else [])]


def found(options: Options, records: Sequence[Record]) -> Findings:
    """The findings of a run, whole or not; a case without trials that count is left out."""
    records = _own(options, records)
    measured = [
        _finding(options, records, case)
        for case in [NULL.label, *options.cases]
        if any(one.case == case for one in records)
    ]
    null = next((each for each in measured if each.case == NULL.label), None)
    cases = [each for each in measured if each.case != NULL.label]
    return Findings(options.mode, options.profile, null, cases)


def pooled(runs: Sequence[tuple[Options, Sequence[Record]]]) -> Findings:
    """The findings of the last of several runs, with medians and ranges over the repeats of all.

    An hour differs from the next by more than the repeats within one.
    """
    last = found(*runs[-1])
    own = [(options, _own(options, records)) for options, records in runs]

    def over_all(one: Finding) -> Finding:
        searches = [each for run in own for each in _searches(*run, one.case).values()]
        return msgspec.structs.replace(one, **_over(searches, last.profile))

    null = over_all(last.null) if last.null else None
    return msgspec.structs.replace(last, null=null, cases=[over_all(one) for one in last.cases])


def _own(options: Options, records: Sequence[Record]) -> list[Record]:
    """The trials that count, of the repeats that were asked for."""
    return [one for one in counted(options, records) if one.repeat <= options.repeats]


def _finding(options: Options, records: Sequence[Record], case: str) -> Finding:
    own = [one for one in records if one.case == case]
    searches = _searches(options, records, case)
    by_repeat = _at_knee(own, {repeat: one.found for repeat, one in searches.items()})
    at_knee = [one for trials in by_repeat for one in trials]
    return Finding(
        case=case,
        trials=len(own),
        points=[point for rate in POINTS if (point := _point(own, rate)) is not None],
        cpu_us_per_request=_mean_of(by_repeat, "cpu_us_per_request"),
        staleness_ms=_staleness_ms([one.staleness_ms for one in at_knee]),
        flush_age_ms_max=_most([one.flush_age_ms_max for one in at_knee]),
        changes_per_flush=_median([one.changes_per_flush for one in at_knee]),
        limit=bottleneck(case, _knee(options, case, by_repeat)) if at_knee else None,
        log=_log(by_repeat),
        **_over(list(searches.values()), options.profile),
    )


def _searches(options: Options, records: Sequence[Record], case: str) -> dict[int, _Search]:
    """Those of one case, by repeat."""
    without_log = case.partition("-")[0]

    def low(other: str, repeat: int) -> float | None:
        return result_of(options, records, other, repeat).low

    def search(repeat: int) -> _Search:
        found = result_of(options, records, case, repeat)
        votes = search_votes(records, case, repeat)
        at_low = [
            vote for vote in votes if vote.rate == found.low and vote.verdict is not Verdict.INVALID
        ]
        return _Search(
            found=found,
            tight=split(search_votes(records, case, repeat, tight=True)),
            null_low=low(NULL.label, repeat),
            flush_low=None if without_log == case else low(without_log, repeat),
            over=sum(vote.over for vote in at_low),
            total=sum(vote.total for vote in at_low),
        )

    return {repeat: search(repeat) for repeat in _found_bounds(options, records, case)}


def _over(searches: Sequence[_Search], profile: str) -> dict[str, Any]:
    """What a finding says over repeats, by its fields."""
    capacity = _range([one.found.low for one in searches])
    of_null = _shares([(one.found.low, one.null_low) for one in searches])
    confirmed = sum(one.found.confirmed for one in searches)
    total = sum(one.total for one in searches)
    per_percent = PROFILES[profile].requests_per_s / 100.0
    return {
        "repeats": len(searches),
        "capacity": capacity,
        "unstable_from": _range([one.found.high for one in searches], none=math.inf),
        "at_least": any(one.found.at_least for one in searches),
        "confirmed": confirmed == len(searches),
        "repeats_confirmed": confirmed,
        "late": sum(one.over for one in searches) / total if total else None,
        "tight": _range([one.tight[0] for one in searches]),
        "tight_unstable_from": _range([one.tight[1] for one in searches], none=math.inf),
        "requests_per_s": None if capacity.median is None else capacity.median * per_percent,
        "of_null": of_null.median,
        "of_null_range": of_null,
        "of_flush": _shares([(one.found.low, one.flush_low) for one in searches]),
    }


def _shares(pairs: Sequence[tuple[float | None, float | None]]) -> Range:
    """A part of a whole, where the whole is known."""
    return _range([part / whole if part else None for part, whole in pairs if whole])


def _found_bounds(options: Options, records: Sequence[Record], case: str) -> list[int]:
    """The repeats whose search has found its bounds, confirmed or not; all that were begun, if none
    has."""
    begun = sorted({one.repeat for one in records if one.case == case})
    ended = [repeat for repeat in begun if _has_bounds(options, records, case, repeat)]
    return ended or begun


def _has_bounds(options: Options, records: Sequence[Record], case: str, repeat: int) -> bool:
    if isinstance(search_step(options, records, case, repeat), Capacity):
        return True
    low, high = bounds(search_votes(records, case, repeat))
    if low is None or high is None:
        return False
    return high / low <= 1.0 + mode_of(options, case).width + ROUNDING


def result_of(options: Options, records: Sequence[Record], case: str, repeat: int) -> Capacity:
    """The result of one search; of one that is not complete what is known so far."""
    said = search_votes(records, case, repeat)
    if not said:
        return Capacity(None, None, at_least=False, confirmed=False)
    step = search_step(options, records, case, repeat)
    if isinstance(step, Capacity):
        return step
    low, high = bounds(said)
    return Capacity(low, high, at_least=high is None, confirmed=False)


def _at_knee(own: Sequence[Record], results: Mapping[int, Capacity]) -> list[list[Record]]:
    """The valid, stable trials at the capacity that a search found, of each repeat with any."""
    found = [
        [
            one
            for one in own
            if one.repeat == repeat
            and one.verdict is Verdict.PASS
            and result.low is not None
            and abs(one.rate / result.low - 1.0) <= KNEE_TOLERANCE
        ]
        for repeat, result in results.items()
    ]
    return [trials for trials in found if trials]


def _mean_of(by_repeat: Sequence[Sequence[Record]], figures: str) -> dict[str, float]:
    """The mean of each figure, in which each repeat counts once however many trials it has."""
    return _mean([[getattr(one, figures) for one in trials] for trials in by_repeat])


def _mean(by_repeat: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    return mean_of([mean_of(trials) for trials in by_repeat])


def _log(by_repeat: Sequence[Sequence[Record]]) -> LogWrites | None:
    """The mean of what the log did, likewise."""
    means = _mean(
        [[msgspec.structs.asdict(one.log) for one in trials if one.log] for trials in by_repeat]
    )
    return LogWrites(**means) if means else None


def _knee(options: Options, case: str, by_repeat: Sequence[Sequence[Record]]) -> Knee:
    pins, processes = options.pins, Case.of(case).processes if case != NULL.label else 1
    at_knee = [one for trials in by_repeat for one in trials]
    busy = [[one.database.busy if one.database else {} for one in trials] for trials in by_repeat]
    return Knee(
        rate=statistics.median(
            statistics.median(one.rate for one in trials) for trials in by_repeat
        ),
        cpu_share=_mean_of(by_repeat, "cpu_share"),
        service_cores=1.0 if "service" in pins else float(processes),
        shares_generator="postgres" in pins and pins.get("generator") == pins["postgres"],
        busy=_mean(busy),
        loop_lag_ms_p99=_median([one.loop_lag_ms_p99 for one in at_knee]),
        pool_wait_ms_per_request=statistics.fmean(one.pool_wait_ms_per_request for one in at_knee),
    )


def _point(own: Sequence[Record], rate: float) -> Point | None:
    """The trial at a rate, or the one next to it."""
    near = [
        one
        for one in own
        if one.verdict is not Verdict.INVALID and abs(one.rate / rate - 1.0) <= POINT_TOLERANCE
    ]
    if not near:
        return None
    one = min(near, key=lambda one: abs(one.rate - rate))
    return Point(one.rate, one.everything, one.verdict is Verdict.PASS)


def _staleness_ms(trials: Sequence[Mapping[str, Staleness]]) -> dict[str, Staleness]:
    kinds = dict.fromkeys(kind for each in trials for kind in each)
    own = {kind: [each[kind] for each in trials if kind in each] for kind in kinds}
    return {
        kind: Staleness(statistics.median(one.p50 for one in seen), max(one.max for one in seen))
        for kind, seen in own.items()
    }


def _range(values: Sequence[float | None], none: float = -math.inf) -> Range:
    """``none`` says before or behind which values those that are missing stand."""
    ordered = sorted(values, key=lambda value: none if value is None else value)
    if not ordered:
        return NO_RANGE
    least, most = ordered[0], ordered[-1]
    below, above = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    median = None if below is None or above is None else (below + above) / 2
    return Range(median, least, most)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
