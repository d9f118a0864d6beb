"""``python -m bench clients``: does a slow or broken client slow down the others?

A case answers the load of the average day at half of its capacity: alone, beside clients of each
bad kind, and beside all of them together. Each time is a new process on the same seeded state, and
is audited.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec

from bench import bad_clients, bed, figures
from bench.bad_clients import KINDS, Crowd, Kind
from bench.bed import Bed
from bench.figures import KindFigures
from bench.load import WARMUP_S, Say, drive
from bench.report import milliseconds
from bench.service import Case

LAYOUT = "clients-1"
FILE = "clients.jsonl"
PROFILE = "average"
ALONE, ALL = "alone", "all of these"
SHARE_OF_CAPACITY = 0.5


class Options(msgspec.Struct, frozen=True):
    """What a run was asked for: ``rates`` by case in percent of B3, and how many of each kind of
    bad client, by its label."""

    cases: list[str]
    rates: dict[str, float]
    duration_s: float
    counts: dict[str, int]
    seed: int
    pins: dict[str, int]


class Beside(msgspec.Struct, frozen=True):
    """One measurement: what the good requests saw beside ``clients`` bad ones of a kind.

    ``closed`` of their connections the service has closed meanwhile, ``present`` were there at the
    end; ``doubts`` say why the generator may have been the limit.
    """

    case: str
    rate: float
    kind: str
    clients: int
    present: int
    closed: int
    seen: KindFigures
    errors: dict[str, int]
    doubts: list[str]
    faults: list[str]


def crowds(counts: dict[str, int]) -> list[tuple[str, Sequence[Kind]]]:
    """Beside whom to measure, in this order: nobody, each kind that is named, all of these."""
    kinds = [kind._replace(number=counts[kind.label]) for kind in KINDS if kind.label in counts]
    alone = (ALONE, tuple[Kind, ...]())
    together = [(ALL, tuple(kinds))] if len(kinds) > 1 else []
    return [alone, *((kind.label, (kind,)) for kind in kinds), *together]


def run(options: Options, label: str, say: Say) -> Iterator[Beside]:
    """One case beside everybody. Raises HarnessError."""
    bad_clients.allow_files(crowds(options.counts)[-1][1])
    say(f"{label}: starting a database and filling the books")
    with bed.made(Case.of(label), PROFILE, options.seed, options.pins) as ready:
        for kind, crowd in crowds(options.counts):
            measured = _measured(options, ready, kind, crowd)
            say(line_of(measured))
            yield measured


def _measured(options: Options, ready: Bed, kind: str, kinds: Sequence[Kind]) -> Beside:
    label = ready.case.label
    with ready.fresh() as place, ExitStack() as around:
        crowd = Crowd()
        if kinds:
            crowd = around.enter_context(bad_clients.beside(place.target.address, kinds))
        spec = ready.spec(
            place,
            seed=options.seed,
            scale=options.rates[label],
            length_s=options.duration_s,
            warmup_s=WARMUP_S,
        )
        tape = spec.tape()
        load = drive(spec, tape, place)
        present = crowd.present
        audit = ready.read_back(place, tape, load, ready.sent(tape, load))
    audit.add_stop(place.stop_finding)
    measured = load.samples.measured
    health = figures.generator_health(measured, load.finished, options.duration_s)
    return Beside(
        case=label,
        rate=options.rates[label],
        kind=kind,
        clients=sum(each.number for each in kinds),
        present=present,
        closed=crowd.closed,
        seen=figures.kind_figures("all", measured),
        errors=figures.error_counts(measured),
        doubts=health.limits(),
        faults=audit.faults(),
    )


def line_of(one: Beside) -> str:
    """The line that is shown when a measurement is over."""
    seen = (one.seen.latency_ms_p50, one.seen.latency_ms_p99)
    latency = " / ".join(milliseconds(value) for value in seen)
    return f"{one.case}  {one.kind:<20}  {one.clients:>5,} clients  p50/p99 {latency:>13} ms"
