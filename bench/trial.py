"""One trial of ``perf_realistic.py``: set up, load, drain, audit, and its figures."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import uvloop

from bench import audit, checking, exchange_client, figures, traffic
from bench.checking import FLUSH_PATIENCE_S, Audit
from bench.exchange_client import Broker, Session, Target
from bench.figures import GeneratorHealth, KindFigures, Samples
from bench.load import DRAIN_S, WARMUP_S, Load, Say, drive
from bench.service import Place
from bench.spec import BROKERS_CONNECTIONS, Progress, Spec
from bench.traffic import Market

Show = Callable[["Plan", Progress], None]


@dataclass(frozen=True)
class Plan:
    """What to measure. ``scale`` is percent of the profile's rates."""

    version: str
    profile: str
    seed: int
    scale: float
    duration_s: float
    reads: bool

    @property
    def name(self) -> str:
        return f"scale-{self.scale:g}"

    @property
    def length_s(self) -> float:
        return WARMUP_S + self.duration_s

    @property
    def offered_per_s(self) -> float:
        profile = traffic.PROFILES[self.profile]
        share = 1.0 if self.reads else 1.0 - profile.reads_of_all
        return profile.requests_per_s * share * self.scale / 100.0


class Summary(msgspec.Struct, frozen=True):
    """All figures of a trial, as they stand in summary.json and in the tables."""

    name: str
    version: str
    profile: str
    scale: float
    seed: int
    duration_s: float
    reads: bool
    partial: bool
    offered_per_s: float
    kinds: list[KindFigures]
    errors: dict[str, int]
    trades: int | None
    audit_passed: bool
    audit_not_done: str | None
    audit_findings: dict[str, list[str]]
    generator: GeneratorHealth
    generator_limits: list[str]
    warnings: list[str]
    flush_age_ms_max: float | None
    flush_pending_max: int | None
    cpu_us_per_request: dict[str, float]

    @property
    def passed(self) -> bool:
        return self.audit_passed and not self.generator_limits and not self.partial


@dataclass
class Trial:
    """A finished trial: its figures and its raw requests."""

    summary: Summary
    samples: Samples


def run(plan: Plan, place: Place, say: Say, show: Show) -> Trial:
    """One trial on an empty exchange. Raises HarnessError when it cannot be done.

    Ctrl-C gives a partial trial of what had its time to be answered; before that there is nothing
    to keep.
    """
    profile = traffic.PROFILES[plan.profile]
    market = traffic.market(profile, plan.seed, plan.scale)
    seeds = traffic.seed_orders(market)
    say(f"{market.brokers} brokers, {len(market.symbols)} books, {len(seeds)} seed orders")
    brokers, acknowledged = uvloop.run(set_up(place.target, market, seeds))
    spec = Spec(
        host_header=place.target.host_header,
        address=place.target.address,
        profile=plan.profile,
        seed=plan.seed,
        scale=plan.scale,
        reads=plan.reads,
        warmup_s=WARMUP_S,
        duration_s=plan.duration_s,
        drain_s=DRAIN_S,
        broker_keys=[broker.key for broker in brokers],
        first_document=len(seeds),
        core=place.pins.get("generator"),
        connections=BROKERS_CONNECTIONS,
    )
    tape = spec.tape()
    load = drive(spec, tape, place, lambda progress: show(plan, progress), partly=True)
    checked = Audit(not_done="the run was interrupted")
    if load.finished.complete:
        say("audit")
        with contextlib.suppress(KeyboardInterrupt):
            asked = checking.sent(market, tape, load, acknowledged)
            expired_s = checking.last_expiry_s(tape, load.started)
            checked = uvloop.run(
                checking.through_api(place, market.symbols, brokers, asked, expired_s)
            )
    # After a stop the requests that were never due are no part of the run.
    samples = load.samples.only(np.arange(len(tape)) < load.offered)
    if not load.finished.complete:
        samples = judgeable(samples, load.finished.wall_s - WARMUP_S)
    if not len(samples.measured.kind):
        raise KeyboardInterrupt
    return Trial(_summary(plan, load, samples, checked), samples)


def judgeable(samples: Samples, stopped_s: float) -> Samples:
    """Without those that were under way at a stop: each of the others could take until the end of
    a drain. The stop is in seconds after the first measured instant."""
    return samples.only(samples.intended_s <= stopped_s - DRAIN_S)


def with_finding(summary: Summary, check: str, finding: str) -> Summary:
    """The summary with one more failed check."""
    findings = {**summary.audit_findings, check: [finding]}
    return msgspec.structs.replace(summary, audit_findings=findings, audit_passed=False)


async def set_up(
    target: Target, market: Market, seeds: traffic.SeedOrders
) -> tuple[list[Broker], dict[str, audit.SentOrder]]:
    """Brokers, and the acknowledged seed orders, all flushed. Raises HarnessError."""
    async with Session(target) as session:
        brokers = await exchange_client.register(session, market.brokers)
        acknowledged = await exchange_client.seed(session, market, seeds, brokers, time.time())
        # What the seeding left to write must not count as load of the run.
        await exchange_client.until_flushed(session, FLUSH_PATIENCE_S)
        return brokers, acknowledged


def _summary(plan: Plan, load: Load, samples: Samples, checked: Audit) -> Summary:
    measured = samples.measured
    duration_s = plan.duration_s if load.finished.complete else _covered_s(measured)
    health = figures.generator_health(measured, load.finished, duration_s)
    # A run that was stopped has requests under way, which says nothing about anybody.
    partial = not load.finished.complete or checked.not_done == "the run was interrupted"
    flush = [entry for _, entry in load.seen.health]
    return Summary(
        name=plan.name,
        version=plan.version,
        profile=plan.profile,
        scale=plan.scale,
        seed=plan.seed,
        duration_s=duration_s,
        reads=plan.reads,
        partial=partial,
        offered_per_s=plan.offered_per_s,
        kinds=figures.all_kinds(measured),
        errors=figures.error_counts(measured),
        trades=checked.trades,
        audit_passed=checked.passed,
        audit_not_done=checked.not_done,
        audit_findings=checked.findings,
        generator=health,
        generator_limits=health.limits(),
        warnings=health.warnings(),
        flush_age_ms_max=load.seen.flush_age_ms_max(),
        flush_pending_max=max((entry.flush_pending for entry in flush), default=None),
        cpu_us_per_request=load.cpu_us_per_request(),
    )


def _covered_s(measured: Samples) -> float:
    return float(measured.intended_s.max()) if len(measured.kind) else 0.0
