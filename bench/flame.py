"""``python -m bench flame``: where a case spends its time at 80 % of its capacity.

py-spy looks at the stacks of the service 250 times a second while the load of the average day runs,
from outside and without slowing it down much. Of each case it leaves a flame graph and the shares
of time by where the code comes from.
"""

import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench import bed, traffic
from bench.exchange_client import HarnessError
from bench.load import WARMUP_S, Say, drive
from bench.service import Case, Place
from bench.spec import Progress
from bench.verdict import late_share

LAYOUT = "flame-1"
FILE = "flames.jsonl"
PROFILE = "average"
RATE_HZ = 250
RECORD_S = 8.0
# Two recordings one after the other, and what starting py-spy takes.
DURATION_S = 2 * RECORD_S + 8.0
# Where code comes from, by how its file begins; the first that fits.
_ORIGINS = (
    ("case", "the case"),
    ("common/wal/", "write-ahead log"),
    ("common/writer.py", "flush"),
    ("common/changes.py", "flush"),
    ("common/channel.py", "database connection"),
    ("common/pool.py", "database connection"),
    ("common/database.py", "database connection"),
    ("common/engine.py", "matching and book"),
    ("common/book.py", "matching and book"),
    ("common/matching.py", "matching and book"),
    ("common/expiry.py", "matching and book"),
    ("sortedcontainers/", "matching and book"),
    ("common/connection.py", "sending, receiving"),
    ("asyncio/", "event loop and kernel"),
    ("aiohttp/", "aiohttp"),
    ("psycopg", "database connection"),
    ("common/", "the rest of common/"),
)
OTHER = "other"


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for: ``rates`` by case in percent of B3."""

    cases: list[str]
    rates: dict[str, float]
    seed: int
    pins: dict[str, int]


class Flame(msgspec.Struct, frozen=True):
    """One case: the shares of its busy time by where the innermost Python frame comes from, and
    the lines that take most. ``late`` is the share of requests that failed or took longer than
    50 ms (None before 2026-11-29)."""

    case: str
    rate: float
    looks: int
    origins: dict[str, float]
    lines: dict[str, float]
    late: float | None = None


def py_spy() -> str:
    """The program. Raises HarnessError when there is none."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise HarnessError("py-spy is not installed: pip install py-spy, then try again")
    return found


def run(options: Options, label: str, directory: Path, say: Say) -> Flame:
    """Load a case and look at it; the flame graph goes to the directory. Raises HarnessError, also
    when its audit fails."""
    program, rate = py_spy(), options.rates[label]
    say(f"{label}: starting a database and filling the books")
    with (
        tempfile.TemporaryDirectory() as workdir,
        bed.made(Case.of(label), PROFILE, options.seed, options.pins) as ready,
    ):
        with ready.fresh() as place:
            spec = ready.spec(
                place,
                seed=options.seed,
                scale=rate,
                length_s=DURATION_S,
                warmup_s=WARMUP_S,
            )
            looking = _Looking(program, place, directory / f"{label}.svg", Path(workdir) / "raw")
            per_s = traffic.PROFILES[PROFILE].requests_per_s * rate / 100.0
            say(f"{label}: looking at it at {rate:g} % of B3, {per_s:,.0f} requests/s")
            tape = spec.tape()
            load = drive(spec, tape, place, looking.at_progress, watch=False)
            stacks = looking.stacks()
        ready.check_stored(place, tape, load)
    return msgspec.structs.replace(flame_of(label, rate, stacks), late=late_share(load.samples))


class _Looking:
    """Records in a thread of its own, as soon as the warm-up is over."""

    def __init__(self, program: str, place: Place, picture: Path, raw: Path) -> None:
        assert place.service is not None, "a bed has a service of its own"
        self._pid = place.service.process.pid
        self._program = program
        self._picture = picture
        self._raw = raw
        self._thread: threading.Thread | None = None
        self._said = ""

    def at_progress(self, progress: Progress) -> None:
        """Called when the generator reports."""
        if self._thread is None and progress.elapsed_s > WARMUP_S:
            self._thread = threading.Thread(target=self._record, daemon=True)
            self._thread.start()

    def _record(self) -> None:
        for form, file in (("raw", self._raw), ("flamegraph", self._picture)):
            # py-spy writes its command line into the picture, which must name no path.
            command = ["py-spy", "record", "--pid", str(self._pid), "--format", form]
            command += ["--rate", str(RATE_HZ), "--duration", f"{RECORD_S:.0f}"]
            done = subprocess.run(
                [*command, "--output", file.name],
                executable=self._program,
                cwd=file.parent,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                self._said = done.stderr.strip().splitlines()[-1] if done.stderr else "no reason"
                return

    def stacks(self) -> dict[str, int]:
        """How often each stack was seen. Raises HarnessError when nothing was recorded."""
        if self._thread is None:
            raise HarnessError("the load was over before py-spy had looked")
        self._thread.join()
        if self._said:
            raise HarnessError(f"py-spy could not look at the service: {self._said}")
        found = {}
        for line in self._raw.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            found[stack] = int(count)
        return found


# ---- figures, pure ----


def flame_of(label: str, rate: float, stacks: dict[str, int]) -> Flame:
    """The shares of stacks such as ``outer (file.py:1);inner (other.py:2)``.

    Raises HarnessError when there are none.
    """
    looks = sum(stacks.values())
    if not looks:
        raise HarnessError(f"{label}: py-spy has not seen it at work at {rate:g} % of B3")
    origins, lines = Counter[str](), Counter[str]()
    for stack, count in stacks.items():
        innermost = stack.rpartition(";")[2]
        origins[origin_of(innermost)] += count
        lines[innermost] += count
    return Flame(
        label,
        rate,
        looks,
        {name: count / looks for name, count in origins.most_common()},
        {name: count / looks for name, count in lines.most_common(12)},
    )


def origin_of(frame: str) -> str:
    """Where a frame such as ``send (common/connection.py:12)`` comes from."""
    file = frame.rpartition("(")[2]
    return next((origin for start, origin in _ORIGINS if file.startswith(start)), OTHER)


def shares_table(flames: Sequence[Flame]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows: the origins of all cases, those with most first."""
    names = Counter[str]()
    for flame in flames:
        names.update(flame.origins)
    headers = ("time spent in", *(f"{flame.case} at {flame.rate:g} %" for flame in flames))
    rows = [
        (name, *(f"{flame.origins.get(name, 0.0):.1%}" for flame in flames))
        for name, _ in names.most_common()
    ]
    return headers, rows
