"""``python -m bench overload``: far more than a case can answer, for a minute, and back.

A stage at half of the capacity, one at three times the capacity, and again one at half. What a
service must do then: answer some in time, tell the others at once that they may try again, keep its
memory, and be itself again a moment after the load is.

Latencies count from when a request left the generator: with more requests than connections the
others wait in the generator, which is not the service's doing.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from bench import bed, outcomes, traffic
from bench.figures import Samples, percentile
from bench.load import Say, drive
from bench.service import Case
from bench.spec import WAITED_FOR_CONNECTION, Stage
from bench.traffic import Flags, Floats
from bench.usage import watching
from bench.verdict import LIMIT_MS

LAYOUT = "overload-1"
FILE = "overload.jsonl"
PROFILE = "average"
BEFORE, DURING, AFTER = "before", "overload", "after"
SHARE_BESIDE = 0.5
BEFORE_S, AFTER_S = 10.0, 20.0
# At 11 us of CPU each, as beside casev3 at three times its capacity, this is 77 % of a core; beyond
# 85 % a generator is the limit.
OFFERED_MAX_PER_S = 70_000.0
_BUSY = 503


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for: ``capacity`` by case in percent of B3, ``factor`` of it offered."""

    cases: list[str]
    capacity: dict[str, float]
    factor: float
    during_s: float
    seed: int
    pins: dict[str, int]
    before_s: float = BEFORE_S
    after_s: float = AFTER_S


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds; None without requests."""

    p50: float | None
    p99: float | None
    max: float | None


class Part(msgspec.Struct, frozen=True):
    """A stretch of the schedule, by when requests left the generator; rates per second.

    ``failed`` counts by outcome what was neither served nor refused. ``unsent`` were due and found
    no connection, or ask for an order that was refused.
    """

    begin_s: float
    end_s: float
    offered_per_s: float
    served_per_s: float
    refused_per_s: float
    unsent_per_s: float
    failed: dict[str, int]
    served_ms: Latency
    refused_ms: Latency
    resident_mb: float | None


class Flood(msgspec.Struct, frozen=True):
    """One case: the three stages, second by second, and when all was normal again.

    ``normal_after_s`` counts from the end of the overload, None when that was not seen.
    """

    case: str
    capacity: float
    factor: float
    parts: dict[str, Part]
    seconds: list[Part]
    normal_after_s: float | None
    waited_for_connection: int
    generator_cpu: float
    faults: list[str]


def factor_of(options: Options, label: str) -> float:
    """How many times its capacity a case is offered: as asked, or what the generator can."""
    profile = traffic.PROFILES[PROFILE]
    most = OFFERED_MAX_PER_S / (profile.requests_per_s * options.capacity[label] / 100.0)
    return min(options.factor, most)


def stages(options: Options, factor: float) -> list[Stage]:
    """The schedule, as shares of the overload."""
    beside = SHARE_BESIDE / factor
    return [
        Stage(options.before_s, beside),
        Stage(options.during_s, 1.0),
        Stage(options.after_s, beside),
    ]


def run(options: Options, label: str, say: Say) -> Flood:
    """Drive one case through the three stages and audit it. Raises HarnessError."""
    say(f"{label}: starting a database and filling the books")
    factor, capacity = factor_of(options, label), options.capacity[label]
    with bed.made(Case.of(label), PROFILE, options.seed, options.pins) as ready:
        with ready.fresh() as place, watching(place) as used:
            spec = ready.spec(
                place,
                seed=options.seed,
                scale=capacity * factor,
                length_s=options.before_s + options.during_s + options.after_s,
                warmup_s=0.0,
            )
            # Those who are refused are not a few brokers who wait for their connections.
            spec = msgspec.structs.replace(spec, stages=stages(options, factor), connections=None)
            tape = spec.tape()
            say(f"{label}: {capacity:g} % is its capacity, {factor:.2g} times that is offered")
            load = drive(spec, tape, place)
            audit = ready.read_back(place, tape, load, ready.sent(tape, load))
        audit.add_stop(place.stop_finding)
    samples = load.samples
    seen_mb = used.resident_mb(load.started.origin_s)
    return Flood(
        case=label,
        capacity=capacity,
        factor=factor,
        parts=parts(options, samples, seen_mb),
        seconds=seconds(options, samples, seen_mb),
        normal_after_s=normal_after_s(options, samples),
        waited_for_connection=int((samples.waited == WAITED_FOR_CONNECTION).sum()),
        generator_cpu=load.finished.cpu_share,
        faults=audit.faults(),
    )


# ---- figures, pure ----


def parts(
    options: Options, samples: Samples, seen_mb: Sequence[tuple[float, float]]
) -> dict[str, Part]:
    """The three stages."""
    ends_s = np.cumsum([0.0, options.before_s, options.during_s, options.after_s]).tolist()
    return {
        name: part(samples, seen_mb, begin_s, end_s)
        for name, begin_s, end_s in zip((BEFORE, DURING, AFTER), ends_s, ends_s[1:], strict=False)
    }


def seconds(
    options: Options, samples: Samples, seen_mb: Sequence[tuple[float, float]]
) -> list[Part]:
    """Every second of the schedule."""
    length = int(options.before_s + options.during_s + options.after_s)
    return [part(samples, seen_mb, float(at), float(at + 1)) for at in range(length)]


def part(
    samples: Samples, seen_mb: Sequence[tuple[float, float]], begin_s: float, end_s: float
) -> Part:
    """What became of the requests of a stretch."""
    due = _within(samples.intended_s, begin_s, end_s)
    left = _within(samples.sent_s, begin_s, end_s)
    refused = left & (samples.outcome == _BUSY)
    served = left & ~samples.failed
    unsent = due & np.isnan(samples.sent_s)
    length_s = end_s - begin_s
    lost = samples.outcome[left & ~refused & ~served].tolist()
    resident = [megabytes for at_s, megabytes in seen_mb if begin_s <= at_s < end_s]
    return Part(
        begin_s=begin_s,
        end_s=end_s,
        offered_per_s=float(due.sum()) / length_s,
        served_per_s=float(served.sum()) / length_s,
        refused_per_s=float(refused.sum()) / length_s,
        unsent_per_s=float(unsent.sum()) / length_s,
        failed=dict(Counter(outcomes.name(outcome) for outcome in lost)),
        served_ms=_latency(samples, served),
        refused_ms=_latency(samples, refused),
        resident_mb=max(resident, default=None),
    )


def normal_after_s(options: Options, samples: Samples) -> float | None:
    """From the end of the overload to the first second from which on every second is normal: all
    are served, 99 of 100 within 50 ms of when they were due. None when the last is not.

    What asks for an order that was refused is never sent, and says nothing about the service.
    """
    back_s = options.before_s + options.during_s
    samples = samples.only(samples.outcome != outcomes.TARGET_FAILED)
    late = samples.failed | np.isnan(samples.done_s) | (samples.latency_ms > LIMIT_MS)
    normal_from = None
    for after in range(int(options.after_s) - 1, -1, -1):
        due = _within(samples.intended_s, back_s + after, back_s + after + 1)
        if late[due].sum() > 0.01 * due.sum() or samples.failed[due].any():
            break
        normal_from = float(after)
    return normal_from


def _within(times_s: Floats, begin_s: float, end_s: float) -> Flags:
    return np.asarray((times_s >= begin_s) & (times_s < end_s), dtype=np.bool_)


def _latency(samples: Samples, which: Flags) -> Latency:
    taken_ms = np.sort((samples.done_s - samples.sent_s)[which] * 1e3)
    if not len(taken_ms):
        return Latency(None, None, None)
    return Latency(*(percentile(taken_ms, share) for share in (0.5, 0.99, 1.0)))
