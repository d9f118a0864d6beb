"""The trials of a search: one measured trial as figures, and the file that holds one on each line.

``trials.jsonl`` grows by a line whenever a trial has ended, so what was measured before an
interruption stays. Percent is that of B3's average rates.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench import figures, observe, records, verdict
from bench.checking import Audit
from bench.exchange_client import HarnessError
from bench.figures import GeneratorHealth, KindFigures, percentile
from bench.load import Load
from bench.pace import Pace
from bench.verdict import LIMIT_MS, TIGHT_LIMIT_MS, Stability, Verdict
from bench.wire import Health

FILE = "trials.jsonl"
SERIES_POINTS = 200


class Database(msgspec.Struct, frozen=True):
    """What PostgreSQL did for the trial; ``busy`` is how many clients were at what on average."""

    commits_per_s: float
    fsyncs_per_s: float
    wal_bytes_per_request: float
    busy: dict[str, float]


class Staleness(msgspec.Struct, frozen=True):
    """How late reads of one kind showed what was acknowledged, milliseconds."""

    p50: float
    max: float


class LogWrites(msgspec.Struct, frozen=True):
    """What the write-ahead log did for the trial: how many records a write had, how many writes it
    made, how long one took (median of the last thousand, milliseconds)."""

    records_per_write: float
    writes_per_s: float
    ms_p50: float


class Setting(msgspec.Struct, frozen=True):
    """Which trial it is, before anything is measured."""

    number: int
    case: str
    repeat: int
    purpose: str
    rate: float
    seed: int
    duration_s: float
    offered_per_s: float


class Record(Setting, frozen=True):
    """One trial. Percentiles are None where they are infinite or nothing was seen.

    ``staleness_ms`` is by kind of read (``book``, ``price``, ``order``), empty without a probe;
    ``flush_age_ms_max`` how long the oldest change has waited for the database. ``cpu_share`` is of
    one core, ``backlog`` the requests in flight at equal distances over the measured time.
    ``log`` is None without a write-ahead log, and in records from before 2026-11-26.
    ``paces`` says how fast each core was meanwhile; empty in records from before 2026-11-27T21.
    """

    verdict: Verdict
    verdict_tight: Verdict
    reasons: list[str]
    total: int
    over: int
    over_tight: int
    stability: Stability
    kinds: list[KindFigures]
    errors: dict[str, int]
    generator: GeneratorHealth
    cpu_us_per_request: dict[str, float]
    cpu_share: dict[str, float]
    loop_lag_ms_p50: float | None
    loop_lag_ms_p99: float | None
    staleness_ms: dict[str, Staleness]
    flush_age_ms_max: float | None
    changes_per_flush: float | None
    pool_wait_ms_per_request: float
    pool_waiting_max: int
    transaction_retries: int
    database: Database | None
    backlog: list[float]
    checks: list[str]
    faults: list[str]
    log: LogWrites | None = None
    paces: dict[str, Pace] = {}

    @property
    def name(self) -> str:
        """Of its samples."""
        return f"{self.number:03d}-{self.case}-{self.rate:g}"

    @property
    def everything(self) -> KindFigures:
        """The latencies of all requests together."""
        return self.kinds[-1]


def record(
    setting: Setting, load: Load, audit: Audit, trusted_per_s: float, steady: bool
) -> Record:
    """The figures and the verdict of a trial.

    ``trusted_per_s`` as in ``invalid_reasons``, ``steady`` as in ``Stability.reasons``.
    """
    samples, seen = load.samples, load.seen
    measured = samples.measured
    health = figures.generator_health(measured, load.finished, setting.duration_s)
    flush_age_ms = seen.flush_age_ms_max()
    stability = verdict.stability(
        samples,
        setting.offered_per_s,
        setting.duration_s,
        flush_age_ms,
        seen.flushed_after_s(),
    )
    invalid = verdict.invalid_reasons(health, setting.offered_per_s, trusted_per_s)
    # Without an answer nobody knows how far behind the database was.
    unseen = ["no answer to /health"] if flush_age_ms is None else []
    reasons = [*unseen, *stability.reasons(steady)]
    total = len(measured.kind)
    over, over_tight = (verdict.over_limit(samples, ms) for ms in (LIMIT_MS, TIGHT_LIMIT_MS))
    if invalid:
        at_limit = at_tight = Verdict.INVALID
    else:
        at_limit, at_tight = (verdict.judged(reasons, total, n) for n in (over, over_tight))
    series_s = (np.arange(SERIES_POINTS) + 0.5) * setting.duration_s / SERIES_POINTS
    return Record(
        **msgspec.structs.asdict(setting),
        verdict=at_limit,
        verdict_tight=at_tight,
        reasons=invalid or reasons,
        total=total,
        over=over,
        over_tight=over_tight,
        stability=stability,
        kinds=figures.all_kinds(measured),
        errors=figures.error_counts(measured),
        generator=health,
        cpu_us_per_request=load.cpu_us_per_request(),
        cpu_share=load.cpu_share,
        paces=load.paces,
        **_beside(seen, load.finished.sent),
        database=_database(seen, health.requests_per_s),
        flush_age_ms_max=flush_age_ms,
        backlog=[round(each, 1) for each in verdict.in_flight(samples, series_s).tolist()],
        checks=list(audit.findings),
        faults=audit.faults(),
    )


def _beside(seen: observe.Seen, sent: int) -> dict[str, Any]:
    """What was seen beside the load."""
    lag_p50, lag_p99 = _percentiles(seen, seen.loop_lag_ms, 0.5, 0.99)
    looks = [health for at, health in seen.health if at <= seen.end_s] or [Health("unknown")]
    first, last = looks[0], looks[-1]
    flushes = last.flushes - first.flushes
    return {
        "loop_lag_ms_p50": lag_p50,
        "loop_lag_ms_p99": lag_p99,
        "staleness_ms": staleness_ms(seen),
        "changes_per_flush": (last.sequence - first.sequence) / flushes if flushes else None,
        "pool_wait_ms_per_request": (last.pool_wait_ms_total - first.pool_wait_ms_total)
        / max(sent, 1),
        "pool_waiting_max": max(health.pool_waiting for health in looks),
        "transaction_retries": last.transaction_retries,
        "log": _log(seen),
    }


def staleness_ms(seen: observe.Seen) -> dict[str, Staleness]:
    """By kind of read, of what was acknowledged while it was measured."""
    found = {}
    for kind, values in seen.staleness_ms.items():
        p50, most = _percentiles(seen, values, 0.5, 1.0)
        if p50 is not None and most is not None:
            found[kind] = Staleness(p50, most)
    return found


def _percentiles(
    seen: observe.Seen, values: list[tuple[float, float]], *shares: float
) -> list[float | None]:
    ordered = np.sort([value for at, value in values if seen.begin_s <= at <= seen.end_s])
    return [percentile(ordered, share) for share in shares]


def _database(seen: observe.Seen, requests_per_s: float) -> Database | None:
    """Of the measured part: before and after it the database has nothing, or less, to do."""
    looks = [(at, each) for at, each in seen.counters if seen.begin_s <= at <= seen.end_s]
    if len(looks) < 2:
        return None
    (begun_s, first), (ended_s, last) = looks[0], looks[-1]
    length_s = ended_s - begun_s
    return Database(
        commits_per_s=(last.commits - first.commits) / length_s,
        fsyncs_per_s=(last.wal_fsyncs - first.wal_fsyncs) / length_s,
        wal_bytes_per_request=(last.wal_bytes - first.wal_bytes)
        / max(requests_per_s * length_s, 1.0),
        busy=observe.waits(seen),
    )


def _log(seen: observe.Seen) -> LogWrites | None:
    looks = [(at, health) for at, health in seen.health if seen.begin_s <= at <= seen.end_s]
    if len(looks) < 2:
        return None
    (begun_s, first), (ended_s, last) = looks[0], looks[-1]
    writes = last.wal_syncs - first.wal_syncs
    if not writes:
        return None
    return LogWrites(
        records_per_write=(last.wal_records - first.wal_records) / writes,
        writes_per_s=writes / (ended_s - begun_s),
        ms_p50=last.wal_sync_ms_p50,
    )


def append(directory: Path, one: Record) -> None:
    """Add a line; it is whole or the reader says that it is not."""
    records.append_line(directory, FILE, one)


def read(directory: Path) -> list[Record]:
    """All trials of a run. Raises HarnessError for what is not such a run, or not whole."""
    if not (directory / FILE).exists():
        what = "results directory from another layout" if directory.is_dir() else "no such run"
        raise HarnessError(f"{directory}: {what}; there is no {FILE}")
    return records.lines_of(directory / FILE, Record)
