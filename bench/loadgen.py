"""The load generator, a process of its own: ``python -m bench.loadgen`` with a Spec on stdin.

Open loop: every request leaves at its intended time whatever has become of those before. Progress
goes to stdout as JSON lines, the raw arrays to the .npz file that the Spec names. SIGTERM ends the
run at once and keeps what there is.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from bench import http_client, outcomes, traffic, wire
from bench.alarm import Alarm, Rounds, new_alarm
from bench.spec import (
    SENT_AT_ONCE,
    WAITED_FOR_CONNECTION,
    WAITED_FOR_TARGET,
    Event,
    Finished,
    Progress,
    Spec,
    Started,
    share_of,
)
from bench.traffic import Kind, Tape

PROGRESS_EVERY_S = 0.5
PROGRESS_SAMPLE = 1000
# Opened before a load that does not say how many: enough for all that is under way while
# replies take 500 ms (up to a few thousand).
CONNECTIONS_MIN, CONNECTIONS_MAX = 256, 2048
CONNECTIONS_PER_RATE_S = 0.5
NICE = -10
# From so many requests a second on it goes round at a fixed pace, and before all others. To go
# before all others for each request and each reply would cost a third more, on a core that
# PostgreSQL needs.
ROUNDS_FROM_PER_S = 4_000.0
ROUND_S = 0.00025
START_MARGIN_S = 0.2


class Requests:
    """All requests of a tape, encoded beforehand.

    A request that asks for an order has that order's position in ``target`` and becomes complete
    by ``start + id + data``; all others are complete in ``data``. ``numbers`` are the positions
    in the whole tape, from which documents get their numbers.
    """

    def __init__(self, spec: Spec, tape: Tape, numbers: Sequence[int], epoch_s: float) -> None:
        host, keys, prefix = spec.host_header, spec.broker_keys, spec.client_order_prefix
        symbols = traffic.market(traffic.PROFILES[spec.profile], spec.seed, spec.scale).symbols
        valid_until = wire.instants(epoch_s + tape.intended_s + tape.life_s)
        self.kind: list[int] = tape.kind.tolist()
        self.target: list[int] = tape.target.tolist()
        self.data: list[bytes] = []
        reads: dict[tuple[int, int, int], bytes] = {}
        rows = zip(
            self.kind,
            tape.broker.tolist(),
            tape.symbol.tolist(),
            tape.side.tolist(),
            tape.price.tolist(),
            tape.quantity.tolist(),
            strict=True,
        )
        for index, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            kind, broker, symbol, side, price, quantity = row
            key = keys[broker]
            if kind == Kind.ORDER:
                data = wire.order(
                    host,
                    key,
                    document_number=spec.first_document + number,
                    side=traffic.SIDES[side],
                    symbol=symbols[symbol],
                    price=price,
                    quantity=quantity,
                    valid_until=valid_until[index],
                    client_order_id=None if prefix is None else f"{prefix}{number}",
                )
            elif kind == Kind.CANCEL:
                data = wire.cancel_end(host, key)
            elif kind == Kind.STATUS:
                data = wire.request_end(host, key)
            else:
                same = (kind, broker, symbol)
                if same not in reads:
                    reads[same] = wire.get(host, key, _READ_PATHS[kind].format(symbols[symbol]))
                data = reads[same]
            self.data.append(data)


_READ_PATHS: dict[int, str] = {
    Kind.PRICE: "/stocks/{}/price",
    Kind.BOOK: "/stocks/{}/book",
    Kind.BALANCE: "/balance",
}
_STARTS: dict[int, bytes] = {Kind.CANCEL: b"POST /orders/", Kind.STATUS: b"GET /orders/"}


class Generator:
    """One run: what was intended, sent and done, each in seconds of the monotonic clock, 0 = never.

    ``outcome`` is an HTTP status or one of the outcomes of ``outcomes``.
    """

    def __init__(
        self, spec: Spec, requests: Requests, intended_s: Sequence[float], start: Started
    ) -> None:
        n = len(intended_s)
        self.length_s = spec.warmup_s + spec.duration_s
        self.origin_s = start.origin_s
        self.end_s = self.origin_s + self.length_s
        self.spec = spec
        self.requests = requests
        self.intended_s = intended_s
        self.sent_s = [0.0] * n
        self.done_s = [0.0] * n
        self.outcome = [outcomes.TIMEOUT] * n
        self.waited = [SENT_AT_ONCE] * n
        self.order_ids: list[bytes | None] = [None] * n
        # What was left of each order when it was acknowledged, -1 for all other requests.
        self.remaining = [-1] * n
        self._waiting_for: dict[int, list[int]] = {}
        self._position = 0
        self._sent = 0
        self._done = 0
        self._without_target = 0
        self._failed = 0
        self._latest: list[float] = []
        self._receipt = msgspec.json.Decoder(wire.Receipt)
        self._stopped: asyncio.Future[None]
        self._drained: asyncio.Future[None]
        self._alarm: Alarm
        self._next_report: asyncio.TimerHandle
        system = http_client.connection_limit()
        limit = system if spec.connections is None else min(spec.connections, system)
        self.pool = http_client.Pool(spec.address, limit, self._on_reply, self._on_sent)

    async def run(self) -> Finished:
        """Send everything, drain, and say how it went. The first request is still to come."""
        loop = asyncio.get_running_loop()
        self._stopped, self._drained = loop.create_future(), loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        if len(self.intended_s) >= ROUNDS_FROM_PER_S * self.length_s:
            _go_first()
            self._alarm = Rounds(self._send_due, ROUND_S)
        else:
            self._alarm = new_alarm(self._send_due)
        self._alarm.set(self.intended_s[0] if self.intended_s else self.end_s)
        self._report()
        # The wait for the first request and the drain are idle time; they must not make the
        # generator look less busy than it was.
        await asyncio.wait([self._stopped], timeout=self.origin_s - time.monotonic())
        start = Usage.now()
        await asyncio.wait([self._stopped], timeout=self.end_s - time.monotonic())
        end, complete = Usage.now(), not self._stopped.done()
        sent = self._sent - len(self.pool.waiting)
        if complete:
            await asyncio.wait(
                [self._stopped, self._drained],
                timeout=self.spec.drain_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        self._alarm.close()
        self._next_report.cancel()
        for waiting in self._waiting_for.values():
            for index in waiting:
                self.outcome[index] = outcomes.TARGET_FAILED
        connections = self.pool.size
        self.pool.close()
        return Finished(
            sent=sent,
            cpu_s=end.cpu_s - start.cpu_s,
            cpu_share=(end.cpu_s - start.cpu_s) / (end.wall_s - start.wall_s),
            wall_s=end.wall_s - start.wall_s,
            connections=connections,
            connections_exhausted=self.pool.limit != self.spec.connections
            and connections >= self.pool.limit,
            complete=complete,
            steal=end.steal_since(start),
            queued_s=end.queued_since(start),
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            realtime=_is_realtime(),
        )

    def save(self) -> None:
        """Write the arrays, shape (n,); times are seconds after the first measured instant."""
        begin_s = self.end_s - self.spec.duration_s
        sent_s, done_s = np.array(self.sent_s), np.array(self.done_s)
        np.savez(
            self.spec.output,
            intended_s=np.array(self.intended_s) - begin_s,
            sent_s=np.where(sent_s > 0, sent_s - begin_s, np.nan),
            done_s=np.where(done_s > 0, done_s - begin_s, np.nan),
            outcome=np.array(self.outcome, dtype=np.int16),
            waited=np.array(self.waited, dtype=np.uint8),
            remaining=np.array(self.remaining, dtype=np.int64),
            order_ids=np.array([order_id or b"" for order_id in self.order_ids], dtype="S36"),
            offered=self._position,
        )

    def _send_due(self) -> None:
        """Send all that is due, then sleep until the next: replies are read in between."""
        now = time.monotonic()
        position, intended_s = self._position, self.intended_s
        n = len(intended_s)
        while position < n and intended_s[position] <= now:
            self._offer(position)
            position += 1
        self._position = position
        if position < n:
            self._alarm.set(intended_s[position])
        else:
            self._alarm.close()

    def _offer(self, index: int) -> None:
        requests = self.requests
        target = requests.target[index]
        if target < 0:
            self._send(index, requests.data[index])
            return
        order_id = self.order_ids[target]
        if order_id is not None:
            self._send(index, _STARTS[requests.kind[index]] + order_id + requests.data[index])
        elif self.done_s[target]:
            self._without_target += 1
            self._finish(index, outcomes.TARGET_FAILED)
        else:
            self.waited[index] = WAITED_FOR_TARGET
            self._waiting_for.setdefault(target, []).append(index)

    def _send(self, index: int, data: bytes) -> None:
        self._sent += 1
        if self.pool.send(index, data):
            self.sent_s[index] = time.monotonic()
        else:
            self.waited[index] = WAITED_FOR_CONNECTION

    def _on_sent(self, index: int) -> None:
        self.sent_s[index] = time.monotonic()

    def _on_reply(self, index: int, status: int, body: bytes) -> None:
        if self.requests.kind[index] != Kind.ORDER:
            self._finish(index, status)
            return
        if status == 201:
            try:
                receipt = self._receipt.decode(body)
                self.order_ids[index] = receipt.order_id.encode()
                self.remaining[index] = receipt.remaining_quantity
            except msgspec.MsgspecError:
                status = outcomes.MALFORMED
        self._finish(index, status)
        for waiting in self._waiting_for.pop(index, ()):
            self._offer(waiting)

    def _finish(self, index: int, outcome: int) -> None:
        now = time.monotonic()
        self.done_s[index] = now
        self.outcome[index] = outcome
        self._latest.append(now - self.intended_s[index])
        if not outcomes.succeeded(self.requests.kind[index], outcome):
            self._failed += 1
        self._done += 1
        if self._done == len(self.intended_s) and not self._drained.done():
            self._drained.set_result(None)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _report(self) -> None:
        # Sorting all of a busy half second would itself delay requests.
        sample = sorted(self._latest[-PROGRESS_SAMPLE:])
        self._latest.clear()
        # The pipes of the other parts are read at the end only: when full they would stop a part.
        if self.spec.part == 0:
            emit(
                Progress(
                    elapsed_s=time.monotonic() - self.origin_s,
                    sent=self._sent,
                    done=self._done - self._without_target,
                    failed=self._failed,
                    latency_ms_p50=1e3 * sample[len(sample) // 2] if sample else None,
                    latency_ms_p99=1e3 * sample[len(sample) * 99 // 100] if sample else None,
                )
            )
        self._next_report = asyncio.get_running_loop().call_later(PROGRESS_EVERY_S, self._report)


@dataclass(frozen=True)
class Usage:
    """CPU of this process and clock ticks of the machine, at one instant."""

    cpu_s: float
    wall_s: float
    stolen_ticks: int
    all_ticks: int
    queued_s: float | None

    @classmethod
    def now(cls) -> "Usage":
        try:
            first_line = Path("/proc/stat").read_text().partition("\n")[0]
            ticks = [int(field) for field in first_line.split()[1:9]]
        except OSError:
            ticks = [0] * 8
        try:
            queued_s = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
        except OSError:
            queued_s = None
        return cls(time.process_time(), time.monotonic(), ticks[7], sum(ticks), queued_s)

    def steal_since(self, start: "Usage") -> float | None:
        """The share of all CPU time since ``start`` that the host gave to others."""
        ticks = self.all_ticks - start.all_ticks
        return (self.stolen_ticks - start.stolen_ticks) / ticks if ticks else None

    def queued_since(self, start: "Usage") -> float | None:
        """Seconds since ``start`` that this process waited for its core."""
        if self.queued_s is None or start.queued_s is None:
            return None
        return self.queued_s - start.queued_s


def emit(event: Event) -> None:
    """One line to the harness."""
    os.write(sys.stdout.fileno(), msgspec.json.encode(event) + b"\n")


def prepared(spec: Spec, tape: Tape, numbers: Sequence[int]) -> tuple[Requests, Started]:
    """The requests of a run that starts soon: their valid_until depends on when it does.

    Raises TimeoutError when that takes longer than a given start allows.
    """
    if spec.start is not None:
        start = Started(spec.start.origin_s, spec.start.epoch_s)
        requests = Requests(spec, tape, numbers, start.epoch_s)
        if time.monotonic() > start.origin_s - START_MARGIN_S:
            raise TimeoutError("preparing the requests took longer than until their start")
        return requests, start
    ahead_s = 0.5 + 1e-5 * len(tape)
    while True:
        start = Started(origin_s=time.monotonic() + ahead_s, epoch_s=time.time() + ahead_s)
        requests = Requests(spec, tape, numbers, start.epoch_s)
        if time.monotonic() < start.origin_s - START_MARGIN_S:
            return requests, start
        ahead_s *= 2


async def run(spec: Spec) -> None:
    """One run from its Spec to its file."""
    tape, positions = share_of(spec.tape(), spec.part, spec.parts)
    requests, start = prepared(spec, tape, positions.tolist())
    generator = Generator(spec, requests, (start.origin_s + tape.intended_s).tolist(), start)
    rate = len(tape) / (spec.warmup_s + spec.duration_s)
    needed = min(max(CONNECTIONS_MIN, int(rate * CONNECTIONS_PER_RATE_S)), CONNECTIONS_MAX)
    await generator.pool.open(min(spec.connections or needed, generator.pool.limit))
    emit(start)
    finished = await generator.run()
    generator.save()
    emit(finished)


def _go_first() -> None:
    """Take the core whenever it is wanted, if that is allowed.

    A better priority is not enough: Linux lets who has the core finish its slice of 3 ms.
    """
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _is_realtime() -> bool:
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_RR


def main() -> int:
    """Exit code 0, or 1 with one line when the service cannot be reached."""
    # A collection in the middle of a run would look like latency of the service.
    gc.disable()
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=Spec)
    if spec.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {spec.core})
    # Whoever shares the generator's core must not delay what is due; only root may say so.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    try:
        uvloop.run(run(spec))
    except OSError as error:
        print(f"the generator cannot work with {spec.host_header}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
