"""How fast each core is while a trial runs on it.

A shared machine may run a core at 60 % of its speed for minutes, because a neighbour uses the other
half of it, and reports none of that as stolen. A look before the trial says little about it: over
43 trials it went with what a request then cost the service by a correlation of 0.36, this one by
0.66 (CHANGELOG.md). So ten times a second a short loop is timed on each core, beside whatever works
there, in CPU time: to wait for the core does not count, a core that works slowly does. Each look
runs the loop twice and times the second: a loop whose code and branches are not in the caches any
more is a sixth slower, and how much of them is left depends on what works beside it. It takes a
thousandth of the core.
"""

import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import msgspec
import numpy as np

from bench.exchange_client import HarnessError
from bench.service import beside

Core = int | None
"""None where processes cannot be tied to one, or are not to be."""
Look = tuple[float, float]
"""When, by the monotonic clock, and how many turns of the loop a microsecond of CPU time had."""

EVERY_S = 0.1
_TURNS = range(4000)  # some 0.05 ms
_BEST = 90  # percentile: the best pace that is no accident of a moment


class Pace(msgspec.Struct, frozen=True):
    """One core during one trial, in turns a microsecond: the mean, and the 90th percentile."""

    mean: float
    best: float


Paces = Mapping[str, Pace]
"""By core, ``any`` where none is chosen."""


@contextmanager
def watching(cores: Sequence[Core]) -> Iterator[dict[str, list[Look]]]:
    """Look at these cores until the block ends; what was seen is there after it.

    Raises HarnessError when a loop does not end as it should.
    """
    seen: dict[str, list[Look]] = {}
    with ExitStack() as stack:
        loops = {name: stack.enter_context(_loop(name)) for name in map(_name, cores)}
        yield seen
        for name, loop in loops.items():
            seen[name] = _seen_by(loop, name)


def alone(cores: Sequence[Core], seconds: float) -> dict[str, Pace]:
    """How fast these cores are now, with nothing else at work. Raises HarnessError."""
    begin_s = time.monotonic()
    with watching(cores) as seen:
        time.sleep(seconds)
    return paces(seen, begin_s, time.monotonic())


def paces(seen: Mapping[str, Sequence[Look]], begin_s: float, end_s: float) -> dict[str, Pace]:
    """The pace of each core between two instants, without those at which nobody looked then."""
    within = {
        name: [pace for at_s, pace in looks if begin_s <= at_s <= end_s]
        for name, looks in seen.items()
    }
    return {
        name: Pace(statistics.fmean(each), float(np.percentile(each, _BEST)))
        for name, each in within.items()
        if each
    }


def usual(trials: Sequence[Paces]) -> dict[str, Pace]:
    """The pace of each core in the trials of a run: of the means the median, of the bests too.

    A neighbour that is there all the time belongs to the machine that is measured, and is told
    apart by the best; one that comes for a while is what makes a trial slow.
    """
    names = sorted({name for each in trials for name in each})
    by_core = {name: [each[name] for each in trials if name in each] for name in names}
    return {
        name: Pace(
            statistics.median(each.mean for each in seen),
            statistics.median(each.best for each in seen),
        )
        for name, seen in by_core.items()
    }


def shares(trial: Paces, usual_: Paces) -> dict[str, float]:
    """How fast each core was in a trial, as a share of the usual."""
    return {name: each.mean / usual_[name].mean for name, each in trial.items()}


def slow(trial: Paces, usual_: Paces, least: float) -> str | None:
    """The cores of a trial, or of a look, if one of them had less than that share of the usual."""
    parts = shares(trial, usual_)
    if all(part >= least for part in parts.values()):
        return None
    return ", ".join(f"core {core} at {part:.0%}" for core, part in parts.items())


def _name(core: Core) -> str:
    return "any" if core is None else str(core)


def _loop(name: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """It ends when its input does."""
    return beside(__name__, name, stdin=subprocess.PIPE)


def _seen_by(loop: subprocess.Popen[bytes], name: str) -> list[Look]:
    said, _ = loop.communicate()
    try:
        return msgspec.json.decode(said, type=list[Look])
    except msgspec.MsgspecError as error:
        raise HarnessError(f"the loop beside core {name} said nothing: {error}") from None


def _timed() -> float:
    begin_ns = time.thread_time_ns()
    for _ in _TURNS:
        pass
    return len(_TURNS) * 1000 / (time.thread_time_ns() - begin_ns)


def _look() -> Look:
    _timed()  # what was displaced from the caches comes back
    return time.monotonic(), _timed()


def main(name: str) -> None:
    if name != "any":
        os.sched_setaffinity(0, {int(name)})
    looks = []
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        looks.append(_look())
    sys.stdout.buffer.write(msgspec.json.encode(looks))


if __name__ == "__main__":
    main(*sys.argv[1:])
