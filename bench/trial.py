"""One trial: set up, load, drain, audit. Many trials can follow each other on one service.

The harness stays out of the way while the load runs: it reads the generator's progress and asks
/health once a second.
"""

import asyncio
import contextlib
import http.client
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psycopg
import uvloop

from bench import audit, exchange_client, figures, outcomes, stored_state, traffic
from bench.exchange_client import Broker, FinalState, HarnessError, Session, Target
from bench.figures import GeneratorHealth, KindFigures, Samples
from bench.loadgen import Event, Finished, Progress, Spec, Started
from bench.service import ROOT, CpuSeconds, Service, end_with_parent
from bench.traffic import Kind, Market, Tape
from bench.wire import Health

WARMUP_S = 2.0
DRAIN_S = 2.0
HEALTH_EVERY_S = 1.0
FLUSH_PATIENCE_S = 60.0
# Orders must have expired by the clock of the service too, and its sweep may take a moment.
EXPIRY_MARGIN_S = 0.5

Say = Callable[[str], None]
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


@dataclass(frozen=True)
class Place:
    """Where to measure: a service, its database if we may look into it, and the pins."""

    target: Target
    database_url: str | None
    pins: dict[str, int]
    service: Service | None


@dataclass
class Audit:
    """Findings by check; a check without findings has passed."""

    findings: dict[str, list[str]] = field(default_factory=dict)
    not_done: str | None = None
    trades: int | None = None

    @property
    def passed(self) -> bool:
        return self.not_done is None and not any(self.findings.values())


@dataclass
class Load:
    """What came back from the generator and was seen beside it."""

    samples: Samples
    order_ids: list[str]
    offered: int
    started: Started
    finished: Finished
    health: list[tuple[float, Health]]
    cpu: CpuSeconds | None


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


def run(plan: Plan, place: Place, workdir: Path, say: Say, show: Show) -> Trial:
    """One trial on an empty exchange. Raises HarnessError when it cannot be done.

    Ctrl-C after the warm-up gives a partial trial; before that there is nothing to keep.
    """
    profile = traffic.PROFILES[plan.profile]
    market = traffic.market(profile, plan.seed, plan.scale)
    seeds = traffic.seed_orders(market)
    say(f"{market.brokers} brokers, {len(market.symbols)} books, {len(seeds)} seed orders")
    brokers, acknowledged = uvloop.run(_set_up(place.target, market, seeds))
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
        output=str(workdir / f"{plan.name}.npz"),
    )
    tape = spec.tape()
    load = _load(plan, place, spec, tape, show)
    checked = Audit(not_done="the run was interrupted")
    if load.finished.complete:
        say("audit")
        with contextlib.suppress(KeyboardInterrupt):
            sent = _sent(market, tape, load, acknowledged)
            expired_s = _last_expiry_s(tape, load.started)
            checked = uvloop.run(_audit(place, market, brokers, sent, expired_s))
    # After a stop the requests that were never due are no part of the run.
    samples = load.samples.only(np.arange(len(tape)) < load.offered)
    if not len(samples.measured.kind):
        raise KeyboardInterrupt
    return Trial(_summary(plan, load, samples, checked), samples)


def with_finding(summary: Summary, check: str, finding: str) -> Summary:
    """The summary with one more failed check."""
    findings = {**summary.audit_findings, check: [finding]}
    return msgspec.structs.replace(summary, audit_findings=findings, audit_passed=False)


async def _set_up(
    target: Target, market: Market, seeds: traffic.SeedOrders
) -> tuple[list[Broker], dict[str, audit.SentOrder]]:
    async with Session(target) as session:
        brokers = await exchange_client.register(session, market.brokers)
        acknowledged = await exchange_client.seed(session, market, seeds, brokers, time.time())
        # What the seeding left to write must not count as load of the run.
        await exchange_client.until_flushed(session, FLUSH_PATIENCE_S)
        return brokers, acknowledged


# --- Load ---


def _load(plan: Plan, place: Place, spec: Spec, tape: Tape, show: Show) -> Load:
    """Let the generator run and watch. After Ctrl-C it is told to end, and keeps what it has."""
    log = Path(spec.output).with_suffix(".log")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.loadgen"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # A Ctrl-C in the terminal must not kill it before it has saved its arrays.
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call
        )
    # Leaving the block closes the pipes and waits; killing first makes sure that it ends.
    with process:
        try:
            with _watched_health(place.target) as health:
                assert process.stdin
                process.stdin.write(msgspec.json.encode(spec) + b"\n")
                process.stdin.flush()
                started, finished, cpu = _follow(process, plan, place, show)
        finally:
            process.kill()
    if started is None or finished is None:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise HarnessError(f"the generator failed: {lines[-1] if lines else 'no reason given'}")
    samples, order_ids, offered = _arrays(spec, tape)
    return Load(samples, order_ids, offered, started, finished, health, cpu)


def _follow(
    process: subprocess.Popen[bytes], plan: Plan, place: Place, show: Show
) -> tuple[Started | None, Finished | None, CpuSeconds | None]:
    assert process.stdout
    started: Started | None = None
    finished: Finished | None = None
    before: CpuSeconds | None = None
    while finished is None:
        try:
            line = process.stdout.readline()
            if not line:
                break
            match msgspec.json.decode(line, type=Event):
                case Started() as started:
                    before = place.service.cpu_seconds() if place.service else None
                case Progress() as progress:
                    show(plan, progress)
                case Finished() as finished:
                    pass
        except KeyboardInterrupt:
            if started is None:
                raise
            process.terminate()
    after = place.service.cpu_seconds() if place.service else None
    if before is None or after is None:
        return started, finished, None
    used = CpuSeconds(after.service - before.service, after.postgres - before.postgres)
    return started, finished, used


def _arrays(spec: Spec, tape: Tape) -> tuple[Samples, list[str], int]:
    """What the generator has written: samples, order ids, how many requests were offered."""
    with np.load(spec.output) as arrays:
        samples = Samples(
            arrays["intended_s"],
            arrays["sent_s"],
            arrays["done_s"],
            tape.kind,
            arrays["outcome"].astype(np.int64),
            arrays["waited"].astype(np.int64),
        )
        order_ids = [order_id.decode() for order_id in arrays["order_ids"].tolist()]
        return samples, order_ids, int(arrays["offered"])


@contextlib.contextmanager
def _watched_health(target: Target) -> Iterator[list[tuple[float, Health]]]:
    """/health once a second, with the instant (monotonic); a missing answer leaves a gap."""
    seen: list[tuple[float, Health]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(HEALTH_EVERY_S):
            with contextlib.suppress(OSError, http.client.HTTPException, msgspec.MsgspecError):
                connection = http.client.HTTPConnection(*target.address, timeout=5.0)
                with contextlib.closing(connection):
                    connection.request("GET", "/health")
                    body = connection.getresponse().read()
                seen.append((time.monotonic(), msgspec.json.decode(body, type=Health)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


# --- Audit ---


def _sent(
    market: Market, tape: Tape, load: Load, acknowledged: dict[str, audit.SentOrder]
) -> audit.Sent:
    """All that the run asked of the exchange, the seed orders included."""
    outcome, target = load.samples.outcome, tape.target
    all_acknowledged = dict(acknowledged)
    uncertain = []
    # A reply that never came, or that says "internal error", leaves open what has happened.
    lost = np.isin(outcome, (outcomes.RESET, outcomes.TIMEOUT, outcomes.MALFORMED))
    lost |= (outcome >= 500) & (outcome != 503)
    lost &= ~np.isnan(load.samples.sent_s)
    for index in np.flatnonzero(tape.kind == Kind.ORDER).tolist():
        order = audit.SentOrder(
            int(tape.broker[index]),
            market.symbols[tape.symbol[index]],
            traffic.SIDES[tape.side[index]],
            int(tape.price[index]) or None,
            int(tape.quantity[index]),
        )
        if load.order_ids[index]:
            all_acknowledged[load.order_ids[index]] = order
        elif lost[index]:
            uncertain.append(order)
    cancels = np.flatnonzero((tape.kind == Kind.CANCEL) & (outcome == 204))
    cancelled = frozenset(load.order_ids[index] for index in target[cancels].tolist())
    return audit.Sent(all_acknowledged, uncertain, cancelled)


def _last_expiry_s(tape: Tape, started: Started) -> float:
    """When the last short-lived order has expired, in seconds since 1970."""
    short = tape.life_s <= traffic.SHORT_LIFE_MAX_S
    expiries = tape.intended_s[short] + tape.life_s[short]
    return started.epoch_s + (float(expiries.max()) if len(expiries) else 0.0)


async def _audit(
    place: Place, market: Market, brokers: list[Broker], sent: audit.Sent, expired_s: float
) -> Audit:
    """Read the final state when nothing changes any more, and compare."""
    checked = Audit()
    try:
        async with Session(place.target) as session:
            await asyncio.sleep(max(0.0, expired_s + EXPIRY_MARGIN_S - time.time()))
            state = await exchange_client.final_state(session, market, brokers)
            checked.findings = _findings(sent, state, brokers)
            checked.trades = len({t.trade_id for held in state.held for t in held.order.trades})
            await exchange_client.until_flushed(session, FLUSH_PATIENCE_S)
        if place.database_url is not None:
            stored = stored_state.read(place.database_url)
            checked.findings |= _stored_findings(state, stored, brokers)
    except (HarnessError, TimeoutError, psycopg.Error) as error:
        checked.not_done = str(error) or type(error).__name__
    return checked


def _findings(sent: audit.Sent, state: FinalState, brokers: list[Broker]) -> dict[str, list[str]]:
    held, names = state.held, [broker.name for broker in brokers]
    return {
        "every acknowledged order once": audit.order_findings(sent, held),
        "shares conserved": audit.state_findings(held),
        "trades two-sided": audit.trade_findings(held, names, state.trade_count),
        "cash sums to zero": audit.cash_findings(held, state.balances),
        "books uncrossed": audit.book_findings(held, state.books),
    }


def _stored_findings(
    state: FinalState, stored: stored_state.StoredState, brokers: list[Broker]
) -> dict[str, list[str]]:
    ids = [broker.id for broker in brokers]
    return {
        "memory = database: orders": audit.stored_order_findings(state.held, ids, stored.orders),
        "memory = database: trades": audit.stored_trade_findings(state.held, stored.trades),
        "memory = database: cash": audit.stored_cash_findings(state.balances, ids, stored.balances),
    }


# --- Summary ---


def _summary(plan: Plan, load: Load, samples: Samples, checked: Audit) -> Summary:
    measured = samples.measured
    duration_s = plan.duration_s if load.finished.complete else _covered_s(measured)
    health = figures.generator_health(measured, load.finished, duration_s)
    # A run that was stopped has requests under way, which says nothing about anybody.
    partial = not load.finished.complete or checked.not_done == "the run was interrupted"
    flush = [entry for _, entry in load.health]
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
        flush_age_ms_max=max((entry.flush_age_ms for entry in flush), default=None),
        flush_pending_max=max((entry.flush_pending for entry in flush), default=None),
        cpu_us_per_request=_cpu_us_per_request(load, samples),
    )


def _covered_s(measured: Samples) -> float:
    return float(measured.intended_s.max()) if len(measured.kind) else 0.0


def _cpu_us_per_request(load: Load, samples: Samples) -> dict[str, float]:
    """By process, over warm-up, measured part and drain, per request that was sent."""
    sent = max(int((~np.isnan(samples.sent_s)).sum()), 1)
    used = {"generator": load.finished.cpu_s}
    if load.cpu is not None:
        used |= load.cpu._asdict()
    return {name: 1e6 * seconds / sent for name, seconds in used.items()}
