"""What a capacity run is to measure: its options, and from its trials so far the next one. Pure.

Where a run stands follows from its recorded trials alone, so one that was interrupted goes on where
it was.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from bench import pace, traffic
from bench.load import WARMUP_S
from bench.search import INVALID_REPEATS_MAX, Capacity, Probe, Vote, bounds, next_step, rounded
from bench.service import NULL
from bench.trials import Record
from bench.verdict import Verdict

TRIALS_TO_FIND, TRIALS_TO_CONFIRM, KNOWN_BOUNDS = 5, 4, 2
TRIAL_OVERHEAD_S = 4.0  # new process, copy of the database, audit


class Mode(msgspec.Struct, frozen=True):
    """How thoroughly to measure. ``null_width`` is the width for the null server.

    After its search each case, and the null server too, is measured at the shares of its capacity
    in ``around``, as often as each stands there, and at the rates in ``at``, percent of B3, that it
    can carry. ``duration_s`` is that of a trial of a search: all are as long, since a bound that a
    short trial found and long ones overturn costs more than it saved. What is measured beside the
    search may be as short as ``curve_s``. A trial during which a core had less than ``pace_min`` of
    its usual pace does not count, and is made again; those ``at`` given rates count always, since a
    core that mostly sleeps is found slow each time it wakes.
    """

    name: str
    duration_s: float
    width: float
    curve_s: float
    repeats: int = 1
    around: tuple[float, ...] = ()
    at: tuple[float, ...] = ()
    null_width: float = 0.10
    pace_min: float = 0.0


# The gate compares the CPU per request at half of the capacity; several trials tell its noise.
HALF = 0.5
_HALVES = (HALF, HALF, HALF)


MODES = {
    mode.name: mode
    for mode in (
        Mode("quick", 4.0, 0.10, 4.0),
        Mode("default", 10.0, 0.05, 10.0, around=_HALVES),
        Mode(
            "publish",
            30.0,
            0.025,
            10.0,
            repeats=5,
            around=(*_HALVES, 0.75, 0.9, 1.0, 1.1),
            at=(25.0, 100.0, 300.0),
            null_width=0.05,
            pace_min=0.9,
        ),
    )
}


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for; it stands in meta.json.

    ``points`` are rates by case that are measured besides, each as often as it stands there;
    without ``search`` they are all that is measured. ``trial_s`` is how long a trial is measured,
    if not as long as the mode says. ``repeats_planned`` is with how many repeats the run was begun,
    if it was resumed with another number; trials of later repeats do not count then. ``begin_at``
    are the bounds, by case, at which the first searches begin.
    """

    cases: list[str]
    mode: str
    profile: str
    seed: int
    pins: dict[str, int]
    repeats: int
    generators: int = 1
    search: bool = True
    points: dict[str, list[float]] = {}
    trial_s: float | None = None
    repeats_planned: int | None = None
    begin_at: dict[str, list[float]] = {}


@dataclass(frozen=True)
class Task:
    """The next trial of a run, and how many are likely to follow in its search."""

    case: str
    repeat: int
    purpose: str
    rate: float
    left: int


def slowed(options: Options, done: Sequence[Record]) -> dict[int, str]:
    """Why trials do not count: by number, those for which the machine was slower than usual.

    What is usual is known only in the end, so a trial may be found to be slow later.
    """
    mode = MODES[options.mode]
    if not mode.pace_min:
        return {}
    usual = usual_paces(done)
    said = {
        one.number: pace.slow(one.paces, usual[one.repeat], mode.pace_min)
        for one in done
        if one.purpose != "curve" or one.rate not in mode.at
    }
    return {number: cores for number, cores in said.items() if cores is not None}


def usual_paces(done: Sequence[Record]) -> dict[int, pace.Paces]:
    """The usual pace of the cores by repeat: a run may go on in an hour of another pace."""
    return {
        repeat: pace.usual([one.paces for one in done if one.repeat == repeat])
        for repeat in {one.repeat for one in done}
    }


def counted(options: Options, done: Sequence[Record]) -> list[Record]:
    """The trials that count."""
    without = slowed(options, done)
    return [one for one in done if one.number not in without]


def search_votes(done: Sequence[Record], case: str, repeat: int, tight: bool = False) -> list[Vote]:
    """What the trials of one search said, at 50 or at 10 ms, without those measured after it."""
    return [
        Vote(
            one.rate,
            one.verdict_tight if tight else one.verdict,
            one.total,
            one.over_tight if tight else one.over,
        )
        for one in done
        if (one.case, one.repeat) == (case, repeat) and one.purpose != "curve"
    ]


def next_task(
    options: Options, done: Sequence[Record], start: Callable[[str], float]
) -> Task | None:
    """The next trial; None when the run is complete. ``start`` gives the first rate of a case.

    A search that has begun, also with trials that do not count, is ended before another that lost
    one meanwhile: each change of the case fills a database anew.
    """
    counting = counted(options, done)
    under_way = (done[-1].case, done[-1].repeat) if done else None
    for case, repeat in sorted(searches(options), key=lambda each: each != under_way):
        task = _next_of(options, counting, case, repeat, start)
        if task is not None:
            return task
    return None


def searches(options: Options) -> list[tuple[str, int]]:
    """Case and repeat of each, in their order."""
    cases = [NULL.label, *options.cases]
    return [(case, repeat) for repeat in range(1, options.repeats + 1) for case in cases]


def _next_of(
    options: Options,
    done: Sequence[Record],
    case: str,
    repeat: int,
    start: Callable[[str], float],
) -> Task | None:
    wanted = Counter[float]()
    if options.search:
        step = search_step(options, done, case, repeat, start)
        if isinstance(step, Probe):
            return Task(case, repeat, step.purpose, step.rate, step.left)
        wanted.update(curve(MODES[options.mode], step))
    if repeat > 1:
        return None
    wanted.update(options.points.get(case, []))
    missing = _missing(wanted, [one for one in done if (one.case, one.purpose) == (case, "curve")])
    return Task(case, repeat, "curve", missing[0], len(missing) - 1) if missing else None


def search_step(
    options: Options,
    done: Sequence[Record],
    case: str,
    repeat: int,
    start: Callable[[str], float] = lambda case: 0.0,
) -> Probe | Capacity:
    """Where one search stands; ``start`` matters only before its first trial."""
    said, width = search_votes(done, case, repeat), mode_of(options, case).width
    known = options.begin_at.get(case, [])
    if repeat > 1:  # also where the first search is to go on, since it lost a trial
        known = [rate for rate in bounds(search_votes(done, case, 1)) if rate is not None]
    first_rate = 0.0 if said or known else start(case)
    return next_step(said, first_rate, width, known)


def bounds_found(options: Options, done: Sequence[Record], case: str) -> list[float]:
    """Between which rates the first search of a case ended; none if it did not end."""
    first = search_step(options, done, case, 1)
    if not isinstance(first, Capacity):
        return []
    return [rate for rate in (first.low, first.high) if rate is not None]


def curve(mode: Mode, found: Capacity) -> list[float]:
    """The rates at which a case is measured after its search."""
    if found.low is None:
        return []
    around = [rounded(share * found.low) for share in mode.around]
    most = max(mode.around, default=1.0) * found.low
    return [*around, *(rate for rate in mode.at if rate <= most)]


def _missing(wanted: Counter[float], points: Sequence[Record]) -> list[float]:
    """The rates still to be measured; a trial that is not valid is repeated three times at most."""
    invalid = Counter(one.rate for one in points if one.verdict is Verdict.INVALID)
    valid = Counter(one.rate for one in points) - invalid
    return [
        rate
        for rate, count in wanted.items()
        if invalid[rate] <= INVALID_REPEATS_MAX
        for _ in range(count - valid[rate])
    ]


def mode_of(options: Options, case: str = "") -> Mode:
    """That of the cases; the null server may be measured less thoroughly."""
    mode = MODES[options.mode]
    if case == NULL.label:
        # Its trials are as long: the longer one is, the more moments to fall behind it has.
        mode = msgspec.structs.replace(mode, width=mode.null_width)
    if options.trial_s is None:
        return mode
    return msgspec.structs.replace(mode, duration_s=options.trial_s, curve_s=options.trial_s)


def duration_of(mode: Mode, purpose: str) -> float:
    """How long a trial is measured, in seconds."""
    return mode.curve_s if purpose == "curve" else mode.duration_s


def highest_rate(options: Options) -> float:
    """The highest rate in the measured part of a trial, as a multiple of the trial's mean.

    Of the first repeat, as far as the profile leaves it to the seed.
    """
    profile, duration_s = traffic.PROFILES[options.profile], MODES[options.mode].duration_s
    market = traffic.market(profile, options.seed, 100.0)
    course = traffic.flow(profile, market, options.seed, WARMUP_S + duration_s)
    return course.highest_rate(WARMUP_S)


def search_s(options: Options, case: str, repeat: int = 1) -> float:
    """About how long one search takes, with what is measured after it."""
    mode, curve_ = mode_of(options, case), MODES[options.mode]
    known = repeat > 1 or case in options.begin_at
    searching = (KNOWN_BOUNDS if known else TRIALS_TO_FIND) + TRIALS_TO_CONFIRM
    points = len(curve_.around) + len(curve_.at) if repeat == 1 else 0
    return searching * trial_s(mode, "confirm") + points * trial_s(mode, "curve")


def trial_s(mode: Mode, purpose: str) -> float:
    """About how long one trial takes."""
    return duration_of(mode, purpose) + WARMUP_S + TRIAL_OVERHEAD_S


def trusted_per_s(done: Sequence[Record]) -> float:
    """The highest rate at which the generator was in time with the null server, requests/s.

    A trial in which all waited for a connection has no send lag, so it says nothing of it.
    """
    passed = [one for one in done if (one.case, one.verdict) == (NULL.label, Verdict.PASS)]
    in_time = [
        one.offered_per_s
        for one in passed
        if one.generator.send_lag_ms_p99 is not None and not one.generator.late
    ]
    return max(in_time, default=0.0)
