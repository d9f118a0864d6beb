"""What a run's raw arrays say: percentiles, errors, health of the generator. Pure.

Latency counts from the intended time. A failed request counts as infinitely late, so a service
cannot improve its percentiles by refusing; an infinite percentile is None in JSON and ∞ in tables.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench import outcomes
from bench.spec import SENT_AT_ONCE, WAITED_FOR_CONNECTION, WAITED_FOR_TARGET, Finished
from bench.traffic import Flags, Floats, Integers, Kind

SEND_LAG_MS_MAX = 2.0
GENERATOR_CPU_MAX = 0.85
STEAL_MAX = 0.05
# Arrivals are Poisson, so they meet the generator without CPU in proportion to how long that
# lasts: what takes less than 1 % of the time cannot explain a 99th percentile.
STARVED_MAX = 0.01

KIND_LABELS = {
    Kind.ORDER: "new order",
    Kind.CANCEL: "cancel",
    Kind.STATUS: "order status",
    Kind.PRICE: "price",
    Kind.BOOK: "book",
    Kind.BALANCE: "balance",
}


@dataclass(frozen=True)
class Samples:
    """The raw requests of a run, shape (n,); seconds from the first measured instant.

    The warm-up has negative times. ``sent_s`` and ``done_s`` are NaN where it never happened.
    """

    intended_s: Floats
    sent_s: Floats
    done_s: Floats
    kind: Integers
    outcome: Integers
    waited: Integers

    @property
    def failed(self) -> Flags:
        return outcomes.failures(self.kind, self.outcome)

    @property
    def latency_ms(self) -> Floats:
        return (self.done_s - self.intended_s) * 1e3

    @property
    def lag_ms(self) -> Floats:
        return (self.sent_s - self.intended_s) * 1e3

    def only(self, which: Flags) -> "Samples":
        """The requests of a mask."""
        return Samples(
            self.intended_s[which],
            self.sent_s[which],
            self.done_s[which],
            self.kind[which],
            self.outcome[which],
            self.waited[which],
        )

    @property
    def measured(self) -> "Samples":
        """Without the warm-up."""
        return self.only(self.intended_s >= 0)


class KindFigures(msgspec.Struct, frozen=True):
    """One row of the table; milliseconds, None where infinite or without requests."""

    label: str
    count: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    latency_ms_p999: float | None
    latency_ms_max: float | None
    errors: int


class GeneratorHealth(msgspec.Struct, frozen=True):
    """Whether the generator did what it should.

    Send lag is that of requests that left at once; those that had to wait for the id of their order
    or for a connection are counted beside it, their latency includes the wait.
    """

    scheduled: int
    sent: int
    not_sent: int
    target_failed: int
    requests_per_s: float
    send_lag_ms_p50: float | None
    send_lag_ms_p99: float | None
    send_lag_ms_max: float | None
    waited_for_target: int
    waited_for_connection: int
    connections: int
    cpu_s: float
    cpu_share: float
    queued_share: float | None
    steal: float | None
    nice: int
    realtime: bool = False

    @property
    def starved_share(self) -> float:
        """The share of time the host or a neighbour on its core took from the generator."""
        return (self.steal or 0.0) + (self.queued_share or 0.0)

    @property
    def starved(self) -> bool:
        return self.starved_share > STARVED_MAX

    @property
    def late(self) -> bool:
        return (self.send_lag_ms_p99 or 0.0) > SEND_LAG_MS_MAX

    def limits(self) -> list[str]:
        """Why the generator was the limit; empty when it was not."""
        found = []
        if self.not_sent:
            found.append(f"{self.not_sent} of {self.scheduled} requests were never sent")
        if self.cpu_share >= GENERATOR_CPU_MAX:
            found.append(
                f"the generator used {self.cpu_share:.0%} of a core (limit {GENERATOR_CPU_MAX:.0%})"
            )
        if self.late and not self.starved:
            found.append(
                f"send lag p99 {self.send_lag_ms_p99:.2f} ms (limit {SEND_LAG_MS_MAX:g} ms)"
            )
        return found

    def warnings(self) -> list[str]:
        """What makes latencies worse than the service's own; empty when nothing does."""
        found = []
        if self.late and self.starved:
            found.append(
                f"send lag p99 {self.send_lag_ms_p99:.2f} ms (limit {SEND_LAG_MS_MAX:g} ms), "
                f"because others took {self.starved_share:.1%} of the generator's CPU: latencies "
                "include that"
            )
        if self.steal is not None and self.steal > STEAL_MAX:
            found.append(
                f"the host took {self.steal:.1%} of this machine's CPU (limit {STEAL_MAX:.0%}): "
                "the service had less than it seems"
            )
        return found


def percentile(ordered: NDArray[Any], share: float) -> float | None:
    """The nearest-rank percentile of an ascending array; None when empty or infinite."""
    if len(ordered) == 0:
        return None
    value = float(ordered[max(math.ceil(share * len(ordered)) - 1, 0)])
    return value if math.isfinite(value) else None


def late_latencies(samples: Samples) -> Floats:
    """Latencies in ascending order, failed requests as infinite ones at the end."""
    return np.sort(np.where(samples.failed, np.inf, samples.latency_ms))


def kind_figures(label: str, samples: Samples) -> KindFigures:
    """The row of the given requests."""
    ordered = late_latencies(samples)
    p50, p95, p99, p999, most = (percentile(ordered, s) for s in (0.5, 0.95, 0.99, 0.999, 1.0))
    return KindFigures(label, len(ordered), p50, p95, p99, p999, most, int(samples.failed.sum()))


def all_kinds(samples: Samples) -> list[KindFigures]:
    """A row for each kind that occurs, then one for all."""
    rows = [
        kind_figures(label, samples.only(samples.kind == kind))
        for kind, label in KIND_LABELS.items()
        if (samples.kind == kind).any()
    ]
    return [*rows, kind_figures("all", samples)]


def error_counts(samples: Samples) -> dict[str, int]:
    """How often each kind failed in which way, such as ``new order 503``."""
    failed = samples.only(samples.failed)
    pairs = zip(failed.kind.tolist(), failed.outcome.tolist(), strict=True)
    counted = Counter(f"{KIND_LABELS[Kind(kind)]} {outcomes.name(how)}" for kind, how in pairs)
    return dict(counted.most_common())


def generator_health(samples: Samples, finished: Finished, duration_s: float) -> GeneratorHealth:
    """From the measured requests and from what the generator says of itself."""
    lag_ms = np.sort(samples.lag_ms[(samples.waited == SENT_AT_ONCE) & ~np.isnan(samples.sent_s)])
    unsent = np.isnan(samples.sent_s)
    target_failed = samples.outcome == outcomes.TARGET_FAILED
    # Waiting for an id that never came, or for a service that does not take connections, is not
    # the generator's fault; having no connection left to open is.
    own_fault = samples.waited == SENT_AT_ONCE
    if finished.connections_exhausted:
        own_fault |= samples.waited == WAITED_FOR_CONNECTION
    return GeneratorHealth(
        scheduled=len(unsent),
        sent=int((~unsent).sum()),
        not_sent=int((unsent & own_fault & ~target_failed).sum()),
        target_failed=int(target_failed.sum()),
        requests_per_s=float((~unsent).sum()) / duration_s,
        send_lag_ms_p50=percentile(lag_ms, 0.5),
        send_lag_ms_p99=percentile(lag_ms, 0.99),
        send_lag_ms_max=percentile(lag_ms, 1.0),
        waited_for_target=int((samples.waited == WAITED_FOR_TARGET).sum()),
        waited_for_connection=int((samples.waited == WAITED_FOR_CONNECTION).sum()),
        connections=finished.connections,
        cpu_s=finished.cpu_s,
        cpu_share=finished.cpu_share,
        queued_share=None if finished.queued_s is None else finished.queued_s / finished.wall_s,
        steal=finished.steal,
        nice=finished.nice,
        realtime=finished.realtime,
    )
