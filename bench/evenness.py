"""How evenly the machine runs while nothing else does: ``python -m bench.evenness CORE SECONDS``.

A shared machine takes a core away for milliseconds, or lets it run at half of its speed for some
tenths of a second, and need not report any of that as stolen. A service that is nearly busy falls
behind then, whatever it is made of. So each repeat of a search begins with a loop on each core that
only counts how often it comes round, and what that saw stands before the results.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import msgspec

from bench import records
from bench.exchange_client import HarnessError
from bench.service import beside

FILE = "machine.jsonl"
TENTH_S = 0.1
SLOW_BELOW_PERCENT = 85
_TURNS_A_ROUND = 50  # about a microsecond


class Rounds(msgspec.Struct, frozen=True):
    """How often the loop came round in each tenth of a second, and its longest round, seconds."""

    counts: list[int]
    longest_s: float


class Evenness(msgspec.Struct, frozen=True):
    """One core before one repeat. ``core`` is None where processes cannot be tied to one.

    Of so many ``tenths`` of a second ``slow`` ones had less than ``SLOW_BELOW_PERCENT`` of the
    median's rounds, and the slowest had ``slowest`` of them, 1.0 for as many.
    """

    repeat: int
    core: int | None
    tenths: int
    slow: int
    slowest: float
    longest_ms: float


def count(duration_s: float) -> Rounds:
    """Come round and round for so long, which is at least one tenth of a second."""
    counts = [0] * max(1, round(duration_s / TENTH_S))
    begin_s = last_s = now_s = time.monotonic()
    longest_s = 0.0
    while (tenth := int((now_s - begin_s) / TENTH_S)) < len(counts):
        counts[tenth] += 1
        for _ in range(_TURNS_A_ROUND):
            pass
        last_s, now_s = now_s, time.monotonic()
        longest_s = max(longest_s, now_s - last_s)
    return Rounds(counts, longest_s)


def evenness(repeat: int, core: int | None, rounds: Rounds) -> Evenness:
    """What the rounds say of a core."""
    median = statistics.median(rounds.counts)
    return Evenness(
        repeat,
        core,
        len(rounds.counts),
        sum(100 * each < SLOW_BELOW_PERCENT * median for each in rounds.counts),
        min(rounds.counts) / median if median else 0.0,
        rounds.longest_s * 1000,
    )


def measured(repeat: int, cores: Sequence[int | None], duration_s: float) -> list[Evenness]:
    """All of these cores at once. Raises HarnessError when a loop does not end as it should."""
    seen = zip(cores, _rounds(cores, duration_s), strict=True)
    return [evenness(repeat, core, rounds) for core, rounds in seen]


def _rounds(cores: Sequence[int | None], duration_s: float) -> list[Rounds]:
    with ExitStack() as stack:
        loops = [stack.enter_context(_loop(core, duration_s)) for core in cores]
        return [_counted(loop, core) for core, loop in zip(cores, loops, strict=True)]


def _loop(core: int | None, duration_s: float) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return beside(__name__, "any" if core is None else str(core), f"{duration_s}")


def _counted(loop: subprocess.Popen[bytes], core: int | None) -> Rounds:
    """What it says when it has ended."""
    assert loop.stdout
    try:
        return msgspec.json.decode(loop.stdout.read(), type=Rounds)
    except msgspec.MsgspecError as error:
        raise HarnessError(f"the loop on core {core} said nothing: {error}") from None


def read(directory: Path) -> list[Evenness]:
    """What was seen before the repeats of a run; nothing in runs from before 2026-11-27.

    Raises HarnessError when it cannot be read.
    """
    file = directory / FILE
    return records.lines_of(file, Evenness) if file.exists() else []


def write(directory: Path, seen: Sequence[Evenness]) -> None:
    """Add it to what was seen before the repeats before."""
    for each in seen:
        records.append_line(directory, FILE, each)


def sentence(seen: Sequence[Evenness]) -> str:
    """All that was seen, at least one core, as a condition of a run."""
    tenths, slow = sum(each.tenths for each in seen), sum(each.slow for each in seen)
    slowest = min(each.slowest for each in seen)
    longest_ms = max(each.longest_ms for each in seen)
    return (
        f"This machine by itself, before each repeat: {slow} of {tenths:,} tenths of a second on "
        f"its cores did less than {SLOW_BELOW_PERCENT}% of the median, the slowest did "
        f"{slowest:.0%}, and the longest standstill was {longest_ms:.1f} ms."
    )


def main(core: str, duration_s: str) -> None:
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    sys.stdout.buffer.write(msgspec.json.encode(count(float(duration_s))))


if __name__ == "__main__":
    main(*sys.argv[1:])
