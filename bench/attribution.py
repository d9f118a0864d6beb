"""What limits a case, from the figures of its trials at the knee: a pure rule, no opinion.

Each resource has a utilisation between 0 and 1. The most used one is the limit; if none is used by
70 %, nothing that is measured explains it, and the sentence says that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import fmean

from bench.cpu import POSTGRES

EXHAUSTED_MIN = 0.70
LEAST_SHARE = 0.001  # of a core that PostgreSQL may use, so that there is something to divide by

PYTHON, LOCKS, FLUSHES, READS, WRITES = (
    "Python CPU",
    "database locks",
    "database log flushes",
    "database reads",
    "database writes",
)
PREDICTED = {"v1": LOCKS, "v2": READS, "v3": PYTHON}


@dataclass(frozen=True)
class Knee:
    """Means over the trials at a case's capacity.

    ``cpu_share`` is of one core by process. ``busy`` is how many database clients were at what on
    average, such as ``read CPU`` or ``write Lock:advisory``. PostgreSQL has one core;
    ``shares_generator`` says that the generator works there too.
    """

    rate: float
    cpu_share: Mapping[str, float]
    service_cores: float
    shares_generator: bool
    busy: Mapping[str, float]
    loop_lag_ms_p99: float | None
    pool_wait_ms_per_request: float


@dataclass(frozen=True)
class Bottleneck:
    """The limit in one word and one sentence; ``as_predicted`` is None where nobody predicted."""

    resource: str
    utilisation: float
    exhausted: bool
    sentence: str
    as_predicted: bool | None


def mean_of(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over several trials; trials without any figures are left out."""
    known = [each for each in figures if each]
    names = dict.fromkeys(name for each in known for name in each)
    return {name: fmean(each.get(name, 0.0) for each in known) for name in names}


def utilisations(knee: Knee) -> dict[str, float]:
    """Of each resource, between 0 and 1.

    Of Python the service's CPU by what it may use; of database CPU what PostgreSQL used of what a
    generator on its cores left it, put down to reads or writes by what its clients were at; of
    locks and log flushes the share of clients that waited for them while at least one was busy all
    the time.
    """
    postgres = fsum(share for name, share in knee.cpu_share.items() if name.startswith(POSTGRES))
    beside = knee.cpu_share.get("generator", 0.0) if knee.shares_generator else 0.0
    database = postgres / max(1.0 - beside, postgres, LEAST_SHARE)
    # A client whose transaction waits for the service is not at the database.
    at_work = {name: n for name, n in knee.busy.items() if not name.endswith("Client:ClientRead")}
    clients = max(1.0, fsum(at_work.values()))
    locks = fsum(n for name, n in at_work.items() if " Lock:" in name or "LockManager" in name)
    flushes = fsum(n for name, n in at_work.items() if "WalSync" in name or "WALWrite" in name)
    reading = fsum(n for name, n in at_work.items() if name.startswith("read "))
    writing = fsum(n for name, n in at_work.items() if name.startswith("write "))
    return {
        PYTHON: min(1.0, knee.cpu_share.get("service", 0.0) / knee.service_cores),
        LOCKS: locks / clients,
        FLUSHES: flushes / clients,
        READS: database if reading >= writing else 0.0,
        WRITES: database if reading < writing else 0.0,
    }


def bottleneck(case: str, knee: Knee) -> Bottleneck:
    """Name the limit of a case, with the figures that say so."""
    used = utilisations(knee)
    resource = max(used, key=lambda name: used[name])
    exhausted = used[resource] >= EXHAUSTED_MIN
    predicted = PREDICTED.get(case)
    as_predicted = None if predicted is None else exhausted and resource == predicted
    verb = "is limited by" if exhausted else "exhausts nothing that is measured; closest is"
    ending = ""
    if predicted is not None:
        ending = f" Predicted was {predicted}: {'right' if as_predicted else 'wrong'}."
    return Bottleneck(
        resource,
        used[resource],
        exhausted,
        f"{case} {verb} {resource} at {knee.rate:g} %: {_evidence(knee, used)}.{ending}",
        as_predicted,
    )


def _evidence(knee: Knee, used: Mapping[str, float]) -> str:
    database = max(used[READS], used[WRITES])
    beside = " of what the generator left it" if knee.shares_generator else " of its CPU"
    clients = fsum(knee.busy.values())
    said = [f"the service used {used[PYTHON]:.0%} of its CPU"]
    if any(name.startswith(POSTGRES) for name in knee.cpu_share):
        work = "reads" if used[READS] else "writes"
        said += [
            f"PostgreSQL {database:.0%}{beside}, mostly for {work}",
            f"of {clients:.1f} busy clients {_waiting(knee.busy, 'Client:ClientRead'):.1f} waited "
            f"for the service, {used[LOCKS]:.0%} of the others for locks and "
            f"{used[FLUSHES]:.0%} for log flushes",
            f"a request waited {knee.pool_wait_ms_per_request:.1f} ms for a connection",
        ]
    if knee.loop_lag_ms_p99 is not None:
        said.append(f"event-loop lag p99 was {knee.loop_lag_ms_p99:.0f} ms")
    return "; ".join(said)


def _waiting(busy: Mapping[str, float], what: str) -> float:
    return fsum(n for name, n in busy.items() if name.endswith(what))
