"""Run the generator beside a service, watch both, and bring back what happened."""

import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench import pace
from bench.exchange_client import Broker, HarnessError
from bench.figures import Samples
from bench.observe import Seen, watching
from bench.pace import Pace
from bench.service import Place, beside
from bench.spec import Event, Finished, Progress, Spec, Start, Started, share_of
from bench.traffic import Integers, Tape

WARMUP_S = 2.0
DRAIN_S = 2.0
# Until several generators begin together: what importing, encoding and connecting take.
START_AHEAD_S, START_AHEAD_PER_REQUEST_S = 2.0, 4e-5

Say = Callable[[str], None]  # shows a lasting line
Show = Callable[[Progress], None]


@dataclass
class Load:
    """What came back from the generator and was seen beside it.

    ``remaining`` is what was left of each order when it was acknowledged, shape (n,), -1 for other
    requests. ``cpu_share`` is that of one core by process, over the measured part of the schedule;
    ``paces`` are those of the cores that were watched, over the same.
    """

    samples: Samples
    order_ids: list[str]
    remaining: Integers
    offered: int
    started: Started
    finished: Finished
    seen: Seen
    cpu_share: dict[str, float]
    paces: dict[str, Pace]

    def cpu_us_per_request(self) -> dict[str, float]:
        """By process, for each request that was sent while its CPU was counted: that of the
        generator in warm-up and load, that of the others in the measured part."""
        length_s, sent_s = self.seen.end_s - self.seen.begin_s, self.samples.sent_s
        measured = int(np.count_nonzero((sent_s >= 0.0) & (sent_s < length_s)))
        whole_per_s, measured_per_s = self.finished.sent / self.finished.wall_s, measured / length_s
        per_s = dict.fromkeys(self.cpu_share, measured_per_s) | {"generator": whole_per_s}
        return {
            name: 1e6 * share / per_s[name] for name, share in self.cpu_share.items() if per_s[name]
        }


def drive(
    spec: Spec,
    tape: Tape,
    place: Place,
    show: Show = lambda _: None,
    *,
    prober: Broker | None = None,
    generators: int = 1,
    watch: bool = True,
    cores: Sequence[int | None] = (),
    partly: bool = False,
) -> Load:
    """Let the generators run and watch. After Ctrl-C they are told to end, and KeyboardInterrupt is
    raised, unless what they have sent until then will do: ``partly``.

    ``generators`` processes share the tape. Without ``watch`` nothing is seen beside the load, for
    a service that will not be there at the end. The pace of these ``cores`` is watched.
    """
    number = len(spec.broker_keys)
    watched = watching(place, prober, number) if watch else nullcontext(Seen())
    with tempfile.TemporaryDirectory() as directory:
        specs = _shares(spec, generators, len(tape), Path(directory))
        with pace.watching(cores) as looks, ExitStack() as running, watched as seen:
            processes = [running.enter_context(_generator(each)) for each in specs]
            followed = _follow(processes, spec, show, seen)
        if followed is None:
            said = (_log(each).read_text(errors="replace").strip() for each in specs)
            lines = [line for text in said for line in text.splitlines()]
            raise HarnessError(f"the generator failed: {lines[-1] if lines else 'no reason given'}")
        started, finished = followed
        if not (finished.complete or partly):
            raise KeyboardInterrupt
        samples, order_ids, remaining, offered = _arrays(specs, tape)
    cpu_share = seen.cpu_share() | {"generator": finished.cpu_s / finished.wall_s}
    paces = pace.paces(looks, seen.begin_s, seen.end_s)
    return Load(samples, order_ids, remaining, offered, started, finished, seen, cpu_share, paces)


def _shares(spec: Spec, generators: int, requests: int, directory: Path) -> list[Spec]:
    """The spec of each generator; several begin at an instant at which all are ready."""
    outputs = [str(directory / f"{part}.npz") for part in range(generators)]
    if generators == 1:
        return [msgspec.structs.replace(spec, output=outputs[0])]
    ahead_s = START_AHEAD_S + START_AHEAD_PER_REQUEST_S * requests
    start = Start(time.monotonic() + ahead_s, time.time() + ahead_s)
    cores = sorted(os.sched_getaffinity(0)) if spec.core is not None else []
    return [
        msgspec.structs.replace(
            spec,
            part=part,
            parts=generators,
            connections=spec.connections and math.ceil(spec.connections / generators),
            start=start,
            # The next cores, as far as there are any.
            core=None if spec.core is None else _core(cores, spec.core, part),
            output=output,
        )
        for part, output in enumerate(outputs)
    ]


def _core(cores: list[int], first: int, part: int) -> int:
    return first + part if first + part in cores else first


@contextmanager
def _generator(spec: Spec) -> Iterator[subprocess.Popen[bytes]]:
    with (
        _log(spec).open("wb") as errors,
        beside("bench.loadgen", stdin=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdin
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        process.stdin.flush()
        yield process


def _follow(
    processes: list[subprocess.Popen[bytes]], spec: Spec, show: Show, seen: Seen
) -> tuple[Started, Finished] | None:
    """Wait for all of them; what the first says on its way is what is shown."""
    started: list[Started] = []
    finished: list[Finished] = []
    while len(finished) < len(processes):
        try:
            event = _next_event(processes[len(finished)])
            match event:
                case None:
                    return None
                case Started():
                    started.append(event)
                    seen.begin_s = event.origin_s + spec.warmup_s
                    seen.end_s = seen.begin_s + spec.duration_s
                case Progress():
                    if not finished:
                        show(_of_all(event, len(processes)))
                case Finished():
                    finished.append(event)
        except KeyboardInterrupt:
            if not started:
                raise
            # What is flushed when does not matter any more.
            seen.end_s = min(seen.end_s, time.monotonic())
            for process in processes:
                process.terminate()
    return started[0], _together(finished)


def _next_event(process: subprocess.Popen[bytes]) -> Event | None:
    assert process.stdout
    line = process.stdout.readline()
    return msgspec.json.decode(line, type=Event) if line else None


def _of_all(progress: Progress, parts: int) -> Progress:
    """What the first of several says, scaled to all of them: their parts are of equal size."""
    return msgspec.structs.replace(
        progress,
        sent=progress.sent * parts,
        done=progress.done * parts,
        failed=progress.failed * parts,
    )


def _together(finished: list[Finished]) -> Finished:
    """Several generators as one; the busiest decides whether they were the limit."""
    waits = [each.queued_s for each in finished if each.queued_s is not None]
    steals = [each.steal for each in finished if each.steal is not None]
    return Finished(
        sent=sum(each.sent for each in finished),
        cpu_s=sum(each.cpu_s for each in finished),
        cpu_share=max(each.cpu_share for each in finished),
        wall_s=max(each.wall_s for each in finished),
        connections=sum(each.connections for each in finished),
        connections_exhausted=any(each.connections_exhausted for each in finished),
        complete=all(each.complete for each in finished),
        steal=max(steals, default=None),
        queued_s=max(waits, default=None),
        nice=max(each.nice for each in finished),
        realtime=all(each.realtime for each in finished),
    )


def _arrays(specs: list[Spec], tape: Tape) -> tuple[Samples, list[str], Integers, int]:
    """What the generators have written, as one: see ``Load``; and how many were offered."""
    times = {name: np.full(len(tape), np.nan) for name in ("intended_s", "sent_s", "done_s")}
    outcome, waited = (np.zeros(len(tape), dtype=np.int64) for _ in range(2))
    remaining = np.full(len(tape), -1, dtype=np.int64)
    order_ids = [""] * len(tape)
    offered = 0
    for spec in specs:
        _, positions = share_of(tape, spec.part, spec.parts)
        with np.load(spec.output) as arrays:
            for name, column in times.items():
                column[positions] = arrays[name]
            outcome[positions], waited[positions] = arrays["outcome"], arrays["waited"]
            remaining[positions] = arrays["remaining"]
            ids = arrays["order_ids"].tolist()
            for position, order_id in zip(positions.tolist(), ids, strict=True):
                order_ids[position] = order_id.decode()
            offered += int(arrays["offered"])
    samples = Samples(**times, kind=tape.kind, outcome=outcome, waited=waited)
    return samples, order_ids, remaining, offered


def _log(spec: Spec) -> Path:
    return Path(spec.output).with_suffix(".log")
