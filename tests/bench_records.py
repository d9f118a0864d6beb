"""Records of trials that nobody has measured, for tests of what is made of them; and for tests that
do measure, a market and the command line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from msgspec import structs

from bench import records
from bench.agenda import Options
from bench.capacity import Run, conditions
from bench.figures import GeneratorHealth, KindFigures
from bench.recording import Kind
from bench.service import ROOT
from bench.trials import Record, Staleness
from bench.verdict import Stability, Verdict

# Of one symbol, for runs whose figures nobody looks at: to fill the books of all 450 takes longer
# than the runs.
SMALL_MARKET = "hot-symbol"
HEALTHY = GeneratorHealth(
    scheduled=10_000,
    sent=10_000,
    not_sent=0,
    target_failed=0,
    requests_per_s=1000.0,
    send_lag_ms_p50=0.1,
    send_lag_ms_p99=0.5,
    send_lag_ms_max=3.0,
    waited_for_target=0,
    waited_for_connection=0,
    connections=256,
    cpu_s=4.0,
    cpu_share=0.4,
    queued_share=0.0,
    steal=0.0,
    nice=-10,
)

CALM = Stability(1312.5, 0.0, 10, 5.0, 5.0, 40.0, 0.1)
PASSED = Record(
    number=1,
    case="v3",
    repeat=1,
    purpose="bracket",
    rate=100.0,
    seed=1,
    duration_s=4.0,
    offered_per_s=1312.5,
    verdict=Verdict.PASS,
    verdict_tight=Verdict.PASS,
    reasons=[],
    total=5250,
    over=0,
    over_tight=0,
    stability=CALM,
    kinds=[KindFigures("all", 5250, 0.5, 2.0, 5.0, 9.0, 12.0, 0)],
    errors={},
    generator=HEALTHY,
    cpu_us_per_request={"service": 200.0, "postgres backends": 50.0, "generator": 60.0},
    cpu_share={"service": 0.3, "postgres backends": 0.1, "generator": 0.1},
    loop_lag_ms_p50=0.2,
    loop_lag_ms_p99=1.0,
    staleness_ms={"book": Staleness(20.0, 40.0), "price": Staleness(25.0, 45.0)},
    flush_age_ms_max=40.0,
    changes_per_flush=30.0,
    pool_wait_ms_per_request=0.0,
    pool_waiting_max=0,
    transaction_retries=0,
    database=None,
    backlog=[1.0] * 200,
    checks=["every acknowledged order once"],
    faults=[],
)


def commanded(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``python -m bench`` in a process of its own, when it has ended."""
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def a_trial(**changes: Any) -> Record:
    """A trial that has passed, with some fields changed."""
    return structs.replace(PASSED, **changes)


def describe(directory: Path, kind: Kind, options: Any) -> None:
    """Write meta.json of a whole run of a kind."""
    conditions = {"layout": kind.layout, "options": options, "limits": kind.limits}
    content = records.meta(f"python -m bench {kind.command}", conditions)
    records.write_json(directory / "meta.json", content)


def begun(
    directory: Path,
    points: dict[str, list[float]],
    generators: int = 1,
    profile: str = "average",
) -> Options:
    """What a run has written before its first trial; it is to measure these points only."""
    cases = [case for case in points if case != "null"]
    options = Options(
        cases, "quick", profile, 1, {}, 1, generators, search=False, points=points, trial_s=1.0
    )
    run = Run(directory, options, print, print)
    content = records.meta("begun by a test", conditions(options, run, partial=True))
    records.write_json(directory / "meta.json", content)
    return options
