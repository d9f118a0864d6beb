"""``python -m bench pauses``: how long the garbage collector stops a case under load.

The same load once for each way of having the collector: as Python has it, with what was loaded
frozen, and as the cases have it. The service itself notes each pause.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from bench import bed
from bench.figures import percentile
from bench.load import WARMUP_S, Say, drive
from bench.service import Case
from bench.verdict import late_share

LAYOUT = "pauses-1"
FILE = "pauses.jsonl"
PROFILE = "average"
MODULE = "bench.paused_case"
# By their names in ``paused_case``, in this order.
COLLECTORS = {
    "python": "as Python has it",
    "frozen": "what was loaded is frozen",
    "served": "each object is looked at once, while it is young",
}


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for: ``scale`` in percent of B3."""

    cases: list[str]
    scale: float
    seconds: float
    seed: int
    pins: dict[str, int]


class Pauses(msgspec.Struct, frozen=True):
    """One case with one collector: the CPU time of each pause in ms, by the generation that was
    looked at, and the share of requests that were answered within 50 ms."""

    case: str
    collector: str
    scale: float
    seconds: float
    pauses_ms: dict[int, list[float]]
    in_time: float


class Row(msgspec.Struct, frozen=True):
    """What a table says of one ``Pauses``; milliseconds, None without a pause."""

    count: int
    p50: float | None
    p99: float | None
    max: float | None
    share: float


def run(options: Options, label: str, say: Say) -> list[Pauses]:
    """One case with each collector, on one database. Raises HarnessError."""
    say(f"{label}: starting a database and filling the books")
    found = []
    with (
        tempfile.TemporaryDirectory() as directory,
        bed.made(Case.of(label), PROFILE, options.seed, options.pins) as ready,
    ):
        for collector, words in COLLECTORS.items():
            say(f"{label}: {options.seconds:g} s at {options.scale:g} % of B3, {words}")
            diary = Path(directory) / collector
            watched = (
                ("PAUSED_CASE", ready.case.module),
                ("PAUSED_COLLECTOR", collector),
                ("PAUSED_FILE", str(diary)),
            )
            case = replace(ready.case, module=MODULE, environment=watched)
            found.append(_measured(options, replace(ready, case=case), collector, diary))
    return found


def _measured(options: Options, ready: bed.Bed, collector: str, diary: Path) -> Pauses:
    with ready.fresh() as place:
        spec = ready.spec(
            place,
            seed=options.seed,
            scale=options.scale,
            length_s=options.seconds,
            warmup_s=WARMUP_S,
        )
        tape = spec.tape()
        load = drive(spec, tape, place)
    ready.check_stored(place, tape, load)
    begin_s = load.started.origin_s + WARMUP_S
    return Pauses(
        case=ready.case.label,
        collector=collector,
        scale=options.scale,
        seconds=options.seconds,
        pauses_ms=pauses_ms(diary.read_text().splitlines(), begin_s, begin_s + options.seconds),
        in_time=1.0 - late_share(load.samples),
    )


# ---- figures, pure ----


def pauses_ms(lines: Sequence[str], begin_s: float, end_s: float) -> dict[int, list[float]]:
    """Those that ended between two instants, of a diary of ``paused_case``."""
    found: dict[int, list[float]] = {}
    for line in lines:
        at_s, generation, took_s = line.split()
        if begin_s <= float(at_s) < end_s:
            found.setdefault(int(generation), []).append(float(took_s) * 1e3)
    return found


def all_ms(one: Pauses) -> list[float]:
    """Of all generations, ascending."""
    return sorted(took for own in one.pauses_ms.values() for took in own)


def row(one: Pauses) -> Row:
    """``share`` is that of the time in which the service stood still."""
    took_ms = all_ms(one)
    share = sum(took_ms) / (one.seconds * 1e3)
    if not took_ms:
        return Row(0, None, None, None, share)
    p50, p99, most = (percentile(np.array(took_ms), part) for part in (0.5, 0.99, 1.0))
    return Row(len(took_ms), p50, p99, most, share)
