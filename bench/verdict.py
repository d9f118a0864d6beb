"""Whether a trial was stable, and whether it counts at all: pure functions on its raw figures.

The rules stand in ``bench/README.md``. A trial fails for reasons that are said in words; a latency
that is too close to the limit for its number of requests leaves it undecided.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from bench.figures import STEAL_MAX, GeneratorHealth, Samples, late_latencies, percentile
from bench.traffic import Floats

LIMIT_MS = 50.0
TIGHT_LIMIT_MS = 10.0
OVER_SHARE_MAX = 0.01  # of a 99th percentile
ERROR_RISK = 0.05  # of each one-sided test
GROWTH_SHARE_MAX = 0.01
# Below half of the limit a latency may do what it likes: every trial has a hump of its own there.
DRIFT_MAX, DRIFT_FREE_MS = 1.5, LIMIT_MS / 2
# Beyond what a trial waits for, and below what a request can take: so that a logarithm exists.
NEVER_MS, LEAST_MS = 10_000.0, 0.001
FLUSH_AGE_MAX_MS = 1000.0
FLUSHED_AFTER_MAX_S = 2.0

# Twenty batches leave 18 degrees of freedom; Student's t there, one-sided 95 %.
BATCHES, _POINTS_PER_BATCH = 20, 10
_STUDENT_T = 1.734
_CORRELATION_MAX = 0.9


class Verdict(StrEnum):
    """What a trial says about its rate."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNDECIDED = "undecided"
    INVALID = "invalid"


@dataclass(frozen=True)
class Stability:
    """What decides a trial besides the latency of its requests.

    ``growth_per_s`` is the lower 95 % bound of the slope of requests in flight, ``backlog`` how
    many were in flight at the end of the schedule; the halves' p99 are None where infinite.
    ``rise_per_s`` is the lower 95 % bound of the slope of the p99's logarithm; None in records
    from before 2026-11-25, whose halves alone told a drift.
    """

    offered_per_s: float
    growth_per_s: float
    backlog: int
    p99_ms_first: float | None
    p99_ms_second: float | None
    flush_age_ms_max: float | None
    flushed_after_s: float | None
    rise_per_s: float | None = None

    def reasons(self, steady: bool = True) -> list[str]:
        """Why the trial was not stable; empty when it was.

        Unless the rate is ``steady``, growth and drift say how the profile goes, not how the
        service does; the percentile and the backlog at the end still find a queue that grows.
        """
        found = []
        if steady and self.growth_per_s > GROWTH_SHARE_MAX * self.offered_per_s:
            share = self.growth_per_s / self.offered_per_s
            found.append(f"backlog grows by {share:.1%} of the rate at least")
        backlog_max = 2 * self.offered_per_s * LIMIT_MS / 1e3
        if self.backlog > backlog_max:
            found.append(f"{self.backlog:,} in flight at the end (limit {backlog_max:,.0f})")
        if steady and drifts(self.p99_ms_first, self.p99_ms_second, self.rise_per_s):
            first, second = _text(self.p99_ms_first), _text(self.p99_ms_second)
            found.append(f"p99 drifts from {first} to {second} ms")
        if (self.flush_age_ms_max or 0.0) > FLUSH_AGE_MAX_MS:
            found.append(f"a change waited {self.flush_age_ms_max:,.0f} ms for the database")
        flushed_after_s = self.flushed_after_s or 0.0
        if math.isinf(flushed_after_s):
            found.append("not seen to be flushed after the last arrival")
        elif flushed_after_s > FLUSHED_AFTER_MAX_S:
            found.append(f"flushed only {flushed_after_s:.1f} s after the last arrival")
        return found


def at_most_one_percent(total: int, over: int) -> Verdict:
    """The binomial rule for "p99 is within the limit", from how many requests were over it.

    PASS when so few would be rare (5 %) at a true share of 1 %, FAIL when so many would.
    """
    below, at = _binomial(total, over)
    if below + at <= ERROR_RISK:
        return Verdict.PASS
    if 1.0 - below <= ERROR_RISK:
        return Verdict.FAIL
    return Verdict.UNDECIDED


def _binomial(total: int, count: int) -> tuple[float, float]:
    """P(X < count) and P(X = count) of a binomial X with ``total`` draws at 1 %."""
    if total == 0:
        return 0.0, 1.0
    k = np.arange(1, count + 1)
    odds = math.log(OVER_SHARE_MAX / (1.0 - OVER_SHARE_MAX))
    steps = np.log((total - k + 1) / k) + odds if count <= total else np.array([])
    first = total * math.log1p(-OVER_SHARE_MAX)
    probabilities = np.exp(first + np.concatenate([[0.0], np.cumsum(steps)]))
    return float(probabilities[:-1].sum()), float(probabilities[-1])


def in_flight(samples: Samples, instants_s: Floats) -> Floats:
    """Requests that were due and not done at each instant, warm-up included; shape as given."""
    due = np.searchsorted(np.sort(samples.intended_s), instants_s, side="right")
    done_s = np.sort(samples.done_s[~np.isnan(samples.done_s)])
    return (due - np.searchsorted(done_s, instants_s, side="right")).astype(np.float64)


def growth_bound(batch_means: Floats, length_s: float) -> float:
    """The lower 95 % bound of the slope, per second, of a series that covers ``length_s``.

    Least squares on the means of twenty batches. Neighbouring samples of a queue are alike, so the
    means of batches stand in for them; what likeness remains between neighbouring batches (lag 1)
    widens the error as in an autoregressive series.
    """
    n = len(batch_means)
    at_s = (np.arange(n) + 0.5) * length_s / n
    centred_s = at_s - at_s.mean()
    spread = float((centred_s**2).sum())
    slope = float((centred_s * batch_means).sum()) / spread
    residuals = batch_means - batch_means.mean() - slope * centred_s
    squares = float((residuals**2).sum())
    if squares == 0.0:
        return slope
    correlation = float((residuals[1:] * residuals[:-1]).sum()) / squares
    correlation = min(max(correlation, 0.0), _CORRELATION_MAX)
    error = math.sqrt(squares / (n - 2) / spread * (1 + correlation) / (1 - correlation))
    return slope - _STUDENT_T * error


def drifts(first_ms: float | None, second_ms: float | None, rise_per_s: float | None) -> bool:
    """Whether the p99 gets worse: its second half against its first (None is infinite), and the
    slope of its logarithm, which noise alone makes positive once in twenty trials."""
    second = math.inf if second_ms is None else second_ms
    first = math.inf if first_ms is None else first_ms
    if first < DRIFT_FREE_MS and second < DRIFT_FREE_MS:
        return False
    return second > DRIFT_MAX * first and (rise_per_s is None or rise_per_s > 0.0)


def log_p99(measured: Samples, duration_s: float) -> Floats:
    """The natural logarithm of the p99 in ms of each of twenty batches of intended times.

    What never came or failed counts as ``NEVER_MS``. A batch without requests says nothing, so it
    takes the value between its neighbours.
    """
    batch = np.clip((measured.intended_s * (BATCHES / duration_s)).astype(int), 0, BATCHES - 1)
    values = np.full(BATCHES, math.nan)
    for number in np.unique(batch):
        p99_ms = percentile(late_latencies(measured.only(batch == number)), 0.99)
        values[number] = math.log(NEVER_MS if p99_ms is None else max(p99_ms, LEAST_MS))
    known = np.flatnonzero(~np.isnan(values))
    return np.interp(np.arange(BATCHES), known, values[known]) if len(known) else np.zeros(BATCHES)


def stability(
    samples: Samples,
    offered_per_s: float,
    duration_s: float,
    flush_age_ms_max: float | None = None,
    flushed_after_s: float | None = None,
) -> Stability:
    """The figures that decide a trial of ``duration_s`` measured seconds."""
    points = BATCHES * _POINTS_PER_BATCH
    series = in_flight(samples, (np.arange(points) + 0.5) * duration_s / points)
    measured = samples.measured
    first_half = measured.intended_s < duration_s / 2
    return Stability(
        offered_per_s=offered_per_s,
        growth_per_s=growth_bound(series.reshape(BATCHES, -1).mean(axis=1), duration_s),
        backlog=int(in_flight(samples, np.array([duration_s]))[0]),
        p99_ms_first=percentile(late_latencies(measured.only(first_half)), 0.99),
        p99_ms_second=percentile(late_latencies(measured.only(~first_half)), 0.99),
        flush_age_ms_max=flush_age_ms_max,
        flushed_after_s=flushed_after_s,
        rise_per_s=growth_bound(log_p99(measured, duration_s), duration_s),
    )


def over_limit(samples: Samples, limit_ms: float) -> int:
    """How many of the measured requests were later than the limit or failed."""
    measured = samples.measured
    return int((measured.failed | ~(measured.latency_ms <= limit_ms)).sum())


def late_share(samples: Samples) -> float:
    """Of the measured requests, those that were later than 50 ms or failed."""
    return over_limit(samples, LIMIT_MS) / max(len(samples.measured.kind), 1)


def judged(reasons: list[str], total: int, over: int) -> Verdict:
    """The verdict of a valid trial at one limit of latency."""
    return Verdict.FAIL if reasons else at_most_one_percent(total, over)


def invalid_reasons(
    health: GeneratorHealth, offered_per_s: float, trusted_per_s: float
) -> list[str]:
    """Why the trial says nothing about the service; empty when it does.

    A late generator is excused when others took its CPU, as far as it was in time with the null
    server: ``trusted_per_s`` is the highest rate at which it was.
    """
    found = health.limits()
    if health.late and health.starved and offered_per_s > trusted_per_s:
        found.append(
            f"send lag p99 {health.send_lag_ms_p99:.2f} ms at a rate that the null server's "
            "trials do not cover"
        )
    if health.steal is not None and health.steal > STEAL_MAX:
        found.append(f"the host took {health.steal:.1%} of the CPU (limit {STEAL_MAX:.0%})")
    return found


def _text(value_ms: float | None) -> str:
    return "∞" if value_ms is None else f"{value_ms:.1f}"
