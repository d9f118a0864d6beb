"""``python -m bench crash``: kill -9 under load, again and again, and count what is lost.

In each cycle the generator sends traffic and the service is killed at a random instant. A new one
is started on the same database (and the same log), and every order that was acknowledged is asked
for. Then every order of the cycle is sent once more with its ``client_order_id``, as a client whose
connection died would do: none may be placed twice. When the last cycle is over, the database is
audited as after any run.

kill -9 ends the process, not the machine: what the kernel has taken reaches the disk. What a power
failure does is tested with a simulated disk (``tests/test_wal.py``).
"""

import contextlib
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import uvloop

from bench import (
    audit,
    checking,
    exchange_client,
    outcomes,
    records,
    service,
    traffic,
    trial,
    wire,
)
from bench.checking import FLUSH_PATIENCE_S, Audit
from bench.exchange_client import Broker, HarnessError, Session
from bench.load import Load, Say, drive
from bench.loadgen import Requests
from bench.service import Case, Database, Place, Service
from bench.spec import Progress, Spec
from bench.traffic import Kind, Market, Tape

_Key = TypeVar("_Key")

LAYOUT = "crash-1"
FILE = "crashes.jsonl"
# The load of a cycle, and when the kill may come: not before there is something to lose.
CYCLE_S = 3.0
KILL_FROM_S, KILL_UNTIL_S = 1.0, 2.5
DRAIN_S = 1.0
FLUSH_S = 0.030  # EXCHANGE_FLUSH_MS, left as it is by default
PROFILE = "average"


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for. ``scale`` is percent of B3's average rates."""

    cases: list[str]
    scale: float
    cycles: int
    seed: int
    pins: dict[str, int]


class Crash(msgspec.Struct, frozen=True):
    """One cycle.

    ``offered_per_s`` and all counts are of orders. To ``acknowledged_traded`` of the acknowledged
    and ``lost_traded`` of the lost ones the reply said that they had traded at once; it does not
    say in how many trades, so that so many trades are lost at least (the trades of an order that
    is not lost are flushed with it). ``oldest_lost_ms`` is how long before the kill the first of
    the lost was acknowledged, ``recovery_s`` the time from the start of the new process to its
    first good /health.
    ``cancels_lost`` are orders that are open though their cancel was acknowledged.

    Of the orders that were sent again ``replayed`` were there, ``placed`` were not and came in,
    and ``too_late`` had ended by then; ``doubled`` were there and came in a second time. In records
    from before 2026-11-25 none was sent again, and before 2026-11-27T17 it was not counted how many
    of the acknowledged had traded.
    """

    case: str
    number: int
    killed_after_s: float
    acknowledged: int
    offered_per_s: float
    lost: int
    lost_traded: int
    cancels_lost: int
    oldest_lost_ms: float | None
    recovery_s: float
    replayed: int = 0
    placed: int = 0
    too_late: int = 0
    doubled: int = 0
    acknowledged_traded: int | None = None


@dataclass
class Course:
    """What is known of one case when all its cycles are over."""

    case: str
    crashes: list[Crash] = field(default_factory=list)
    checked: Audit = field(default_factory=Audit)


def promises_all(case: str) -> bool:
    """Whether a case acknowledges only what a crash cannot undo."""
    return case.startswith("v1") or Case.of(case).durability == "wal"


def predicted_lost(case: str, orders_per_s: float) -> float:
    """The most by arithmetic: what comes between two flushes, if a flush itself takes no time."""
    return 0.0 if promises_all(case) else orders_per_s * FLUSH_S


def run(options: Options, label: str, directory: Path, say: Say) -> Course:
    """All cycles of a case, each written down when it is over. Raises HarnessError."""
    course = Course(label)
    with ExitStack() as made:
        database = made.enter_context(service.database(options.pins))
        victim = made.enter_context(_Victim.running(Case.of(label), database, options.pins))
        market = traffic.market(traffic.PROFILES[PROFILE], options.seed, options.scale)
        seeds = traffic.seed_orders(market)
        brokers, kept = uvloop.run(trial.set_up(victim.service.target, market, seeds))
        scene = _Scene(options, victim, market, brokers)
        asked = audit.Sent(kept, [], frozenset(), frozenset(), {})
        for number in range(1, options.cycles + 1):
            crash, sent = scene.cycle(number)
            asked = _together(asked, sent)
            course.crashes.append(crash)
            records.append_line(directory, FILE, crash)
            say(line_of(crash, options.cycles))
        victim.stop()
        course.checked = checking.in_database(database.url, brokers, asked)
        course.checked.add_stop(victim.stop_finding)
    return course


def line_of(crash: Crash, cycles: int) -> str:
    """The line that is shown when a cycle is over."""
    oldest = "" if crash.oldest_lost_ms is None else f", the oldest {crash.oldest_lost_ms:.0f} ms"
    return (
        f"{crash.case:<7} crash {crash.number:>3} of {cycles}  after {crash.killed_after_s:.2f} s  "
        f"{crash.acknowledged:>6,} acknowledged  {crash.lost:>4} lost{oldest}  "
        f"back in {crash.recovery_s:.2f} s"
    )


@dataclass
class _Victim:
    """A service that is killed and started again on one port."""

    case: Case
    database: Database
    pins: dict[str, int]
    port: int
    service: Service = field(init=False)
    stop_finding: str | None = None
    _made: ExitStack = field(default_factory=ExitStack)

    @classmethod
    @contextlib.contextmanager
    def running(cls, case: Case, database: Database, pins: dict[str, int]) -> Iterator["_Victim"]:
        victim = cls(case, database, pins, service.free_port())
        with victim._made:
            victim._start(None)
            yield victim

    def _start(self, admin_key: str | None) -> None:
        self.service = self._made.enter_context(
            service.service_on(
                self.case,
                self.database,
                self.database.url,
                self.pins,
                port=self.port,
                admin_key=admin_key,
            )
        )

    def kill(self) -> float:
        """Kill it; the instant, monotonic seconds. From any thread."""
        self.service.process.send_signal(signal.SIGKILL)
        return time.monotonic()

    def start_again(self) -> float:
        """Start the next one on the same database and log; seconds until it served."""
        self._made.close()
        begun_s = time.monotonic()
        self._start(self.service.target.admin_key)
        return time.monotonic() - begun_s

    def stop(self) -> None:
        last = self.service
        self._made.close()
        self.stop_finding = last.stop_finding


@dataclass(frozen=True)
class _Scene:
    """A case with its brokers, to be killed again and again."""

    options: Options
    victim: _Victim
    market: Market
    brokers: list[Broker]

    def cycle(self, number: int) -> tuple[Crash, audit.Sent]:
        """Load, kill, start, and ask for everything that was acknowledged."""
        spec, tape, load, killing = self._load(number)
        killed_s = killing.killed_s()
        recovery_s = self.victim.start_again()
        sent = checking.sent(self.market, tape, load, {})
        found = uvloop.run(_found(self.victim.service, self.brokers, sent))
        acknowledged = [i for i, id in enumerate(load.order_ids) if id]
        lost = [i for i in acknowledged if found[load.order_ids[i]] is None]
        gone = {load.order_ids[i] for i in lost}
        traded = {i for i in acknowledged if load.remaining[i] < tape.quantity[i]}
        still_open = {id for id, order in found.items() if order and order.status == "open"}
        again = uvloop.run(
            _sent_again(self.victim.service, _orders_sent(spec, tape, load), load.order_ids)
        )
        killed_after_s = killed_s - load.started.origin_s
        oldest_s = min((float(load.samples.done_s[i]) for i in lost), default=None)
        crash = Crash(
            case=self.victim.case.label,
            number=number,
            killed_after_s=killed_after_s,
            acknowledged=len(sent.acknowledged),
            offered_per_s=traffic.PROFILES[PROFILE].orders_per_s * self.options.scale / 100.0,
            lost=len(lost),
            lost_traded=len(traded & set(lost)),
            cancels_lost=len(sent.cancelled & still_open),
            oldest_lost_ms=None if oldest_s is None else (killed_after_s - oldest_s) * 1e3,
            recovery_s=recovery_s,
            replayed=len(again.replayed),
            placed=len(again.placed),
            too_late=len(again.too_late),
            doubled=len(again.placed.keys() & set(acknowledged) - set(lost)),
            acknowledged_traded=len(traded),
        )
        kept = {id: order for id, order in sent.acknowledged.items() if id not in gone}
        known = {i: id for i, id in (again.replayed | again.placed).items() if id not in kept}
        kept |= {id: checking.sent_order(self.market, tape, i) for i, id in known.items()}
        ends_us = checking.valid_until_us(tape, load.started)
        unknown = [
            checking.sent_order(self.market, tape, i)
            for i in again.too_late
            if not load.order_ids[i]
        ]
        return crash, audit.Sent(
            kept,
            unknown,
            sent.cancelled - still_open - gone,
            sent.cancels_asked,
            {
                **sent.valid_until_us,
                **{id: end_us for i, id in known.items() if (end_us := ends_us[i])},
            },
        )

    def _load(self, number: int) -> tuple[Spec, Tape, Load, "_Killing"]:
        options, target = self.options, self.victim.service.target
        spec = Spec(
            host_header=target.host_header,
            address=target.address,
            profile=PROFILE,
            seed=options.seed,  # the market is that of the seed
            scale=options.scale,
            reads=True,
            warmup_s=0.0,
            duration_s=CYCLE_S,
            drain_s=DRAIN_S,
            broker_keys=[broker.key for broker in self.brokers],
            first_document=0,
            core=options.pins.get("generator"),
            client_order_prefix=f"{number}-",
        )
        tape = spec.tape()
        chance = random.Random(f"{options.seed} {self.victim.case.label} {number}")  # noqa: S311
        killing = _Killing(self.victim, chance.uniform(KILL_FROM_S, KILL_UNTIL_S))
        place = Place(target, None, options.pins, None)
        try:
            load = drive(spec, tape, place, killing.at_progress, watch=False)
        except KeyboardInterrupt:
            killing.cancel()
            raise
        return spec, tape, load, killing


class _Killing:
    """Kills in a thread of its own, as soon as the load has run so long."""

    def __init__(self, victim: _Victim, after_s: float) -> None:
        self._victim = victim
        self._after_s = after_s
        self._timer: threading.Timer | None = None
        self._killed_s: float | None = None
        self._ended_with: int | None = None

    def at_progress(self, progress: Progress) -> None:
        """Called when the generator reports; the first report comes before its schedule begins."""
        if self._timer is None:
            self._timer = threading.Timer(self._after_s - progress.elapsed_s, self._kill)
            self._timer.start()

    def cancel(self) -> None:
        """Leave it alive, if there is still time."""
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self) -> None:
        self._ended_with = self._victim.service.process.poll()
        self._killed_s = self._victim.kill()

    def killed_s(self) -> float:
        """When it was killed, monotonic seconds. Raises HarnessError when it was not."""
        if self._timer is not None:
            self._timer.join()
        if self._killed_s is None:
            raise HarnessError("the load ended before the service was killed")
        if self._ended_with is not None:
            raise HarnessError(f"the service had ended by itself, with {self._ended_with}")
        return self._killed_s


async def _found(
    running: Service, brokers: list[Broker], sent: audit.Sent
) -> dict[str, wire.OrderDetail | None]:
    """What the exchange says of each acknowledged order, None where it knows none."""
    host = running.target.host_header
    found: dict[str, wire.OrderDetail | None] = {}
    async with Session(running.target) as session:
        requests = {
            id: wire.get(host, brokers[order.broker].key, f"/orders/{id}")
            for id, order in sent.acknowledged.items()
        }
        async for id, outcome, body in _answers(session, requests):
            if outcome not in (200, 404):
                raise HarnessError(f"GET /orders/{id} answered {outcomes.name(outcome)}")
            found[id] = msgspec.json.decode(body, type=wire.OrderDetail) if outcome == 200 else None
    return found


async def _answers(
    session: Session, requests: Mapping[_Key, bytes]
) -> AsyncIterator[tuple[_Key, int, bytes]]:
    """Outcome and body of each; they are so many at once that some are refused and asked again."""
    answers = {key: session.send(data) for key, data in requests.items()}
    for key, answer in answers.items():
        outcome, body = await answer
        if outcome == HTTPStatus.SERVICE_UNAVAILABLE:
            outcome, body = await session.answer(requests[key], again=True)
        yield key, outcome, body


@dataclass
class _Again:
    """What came of the orders that were sent again: their ids by position in the tape."""

    replayed: dict[int, str] = field(default_factory=dict)
    placed: dict[int, str] = field(default_factory=dict)
    too_late: list[int] = field(default_factory=list)


def _orders_sent(spec: Spec, tape: Tape, load: Load) -> dict[int, bytes]:
    """The requests of the orders that have left the generator, byte for byte."""
    requests = Requests(spec, tape, range(len(tape.kind)), load.started.epoch_s)
    left = (tape.kind == Kind.ORDER) & ~np.isnan(load.samples.sent_s)
    return {index: requests.data[index] for index in np.flatnonzero(left).tolist()}


async def _sent_again(
    running: Service, requests: dict[int, bytes], acknowledged: list[str]
) -> _Again:
    """Send orders a second time. Raises HarnessError for an answer that they cannot have."""
    found = _Again()
    async with Session(running.target) as session:
        async for index, outcome, body in _answers(session, requests):
            if outcome == 422 and b"in the past" in body:
                found.too_late.append(index)
                continue
            if outcome not in (200, 201):
                said = body[:200].decode(errors="replace")
                raise HarnessError(f"an order sent again got {outcomes.name(outcome)}: {said}")
            id = msgspec.json.decode(body, type=wire.Receipt).order_id
            if outcome == 201:
                found.placed[index] = id
            elif acknowledged[index] in ("", id):
                found.replayed[index] = id
            else:
                raise HarnessError(f"order {acknowledged[index]} sent again became order {id}")
        await exchange_client.until_flushed(session, FLUSH_PATIENCE_S)
    return found


def _together(one: audit.Sent, other: audit.Sent) -> audit.Sent:
    return audit.Sent(
        {**one.acknowledged, **other.acknowledged},
        [*one.uncertain, *other.uncertain],
        one.cancelled | other.cancelled,
        one.cancels_asked | other.cancels_asked,
        {**one.valid_until_us, **other.valid_until_us},
    )
