"""What a load generator is told and what it says: a Spec, and the events of a run. Pure."""

from dataclasses import fields, replace

import msgspec
import numpy as np

from bench import traffic
from bench.http_client import Address
from bench.traffic import Integers, Tape

# What brokers hold who keep their connections, two or three each. Who falls behind for a moment
# would otherwise get thousands more just then, each of which must be accepted and is dear to use.
BROKERS_CONNECTIONS = 256
# What a request waited for before it left, in the arrays of a run.
SENT_AT_ONCE, WAITED_FOR_TARGET, WAITED_FOR_CONNECTION = 0, 1, 2


class Start(msgspec.Struct, frozen=True):
    """When the first request is due, on the monotonic clock and in seconds since 1970."""

    origin_s: float
    epoch_s: float


class Stage(msgspec.Struct, frozen=True):
    """A part of a schedule in which ``share`` of its scale is offered."""

    duration_s: float
    share: float


class Spec(msgspec.Struct, frozen=True):
    """What to send where. Times are seconds; ``scale`` is percent.

    Several processes can share one tape: this one sends part ``part`` of ``parts``, and all of them
    begin at the same ``start``. A single one begins when it is ready.

    Of ``connections`` there are as many as that, and what finds none idle waits for one, which its
    latency includes; None: as many as the requests under way need, as far as the system has them.
    """

    host_header: str
    address: Address
    profile: str
    seed: int
    scale: float
    reads: bool
    warmup_s: float
    duration_s: float
    drain_s: float
    broker_keys: list[str]
    first_document: int
    core: int | None
    # The file for the arrays of a run; whoever starts the process names one.
    output: str = ""
    part: int = 0
    parts: int = 1
    start: Start | None = None
    connections: int | None = None
    # With a prefix, each order has a client_order_id: this and its position in the tape.
    client_order_prefix: str | None = None
    # Which together are as long as warm-up and measured part; none: the whole scale all the time.
    stages: list[Stage] = []

    def tape(self) -> Tape:
        """The tape of this run, the same in every process that asks."""
        profile = traffic.PROFILES[self.profile]
        if not self.stages:
            length_s = self.warmup_s + self.duration_s
            return traffic.tape(profile, self.seed, self.scale, length_s, self.reads)
        # Poisson arrivals at a changing rate are those at a steady one on a clock that stretches.
        durations_s = [stage.duration_s for stage in self.stages]
        steady_s = [stage.duration_s * stage.share for stage in self.stages]
        tape = traffic.tape(profile, self.seed, self.scale, sum(steady_s), self.reads)
        ends_s, steady_ends_s = np.cumsum([0.0, *durations_s]), np.cumsum([0.0, *steady_s])
        return replace(tape, intended_s=np.interp(tape.intended_s, steady_ends_s, ends_s))


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the run is; latencies of at most the last 1000 replies, None before the first."""

    elapsed_s: float
    sent: int
    done: int
    failed: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None


class Started(Start, frozen=True, tag="started"):
    """When the first request is due, now that it is certain."""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The run is over and its arrays are on disk. All but the connections is of the schedule alone,
    without the wait before it and the drain; ``sent`` had left by its end.

    ``steal`` is the share of this machine's CPU time that its host gave to others, and
    ``queued_s`` how long this process was ready but another had its core; None where the system
    does not tell.
    """

    sent: int
    cpu_s: float
    cpu_share: float
    wall_s: float
    connections: int
    connections_exhausted: bool
    complete: bool
    steal: float | None
    queued_s: float | None
    nice: int
    realtime: bool = False


Event = Started | Progress | Finished


def owners(tape: Tape, parts: int) -> Integers:
    """Which part sends each request, shape (n,): who sends an order sends all that asks for it."""
    own = np.arange(len(tape))
    return np.where(tape.target >= 0, tape.target, own) % parts


def share_of(tape: Tape, part: int, parts: int) -> tuple[Tape, Integers]:
    """One part of a tape as a tape, and the positions of its requests in the whole one."""
    positions = np.flatnonzero(owners(tape, parts) == part)
    columns = {each.name: getattr(tape, each.name)[positions] for each in fields(tape)}
    aimed = columns["target"] >= 0
    columns["target"] = np.where(aimed, np.searchsorted(positions, columns["target"]), -1)
    return Tape(**columns), positions
