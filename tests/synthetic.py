"""Runs that nobody has measured: real searches against cases whose limits are given.

They have all files that a run leaves, so what reads records can be tested without an hour of load.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from bench_records import a_trial

from bench import agenda, capacity, capacity_report, figures, records, sensitivity, trials, verdict
from bench.agenda import Options, Task, next_task
from bench.capacity import Run
from bench.figures import Samples
from bench.traffic import Kind
from bench.trials import Record
from bench.verdict import Verdict

REQUESTS = 400
LIMITS = {"null": 900.0, "v1": 150.0, "v2": 400.0, "v3": 550.0}
_SERVICE_US = {"null": 80.0, "v1": 250.0, "v2": 140.0, "v3": 130.0}


def capacity_run(
    directory: Path, options: Options, limits: Mapping[str, float] = LIMITS, trials_max: int = 10**6
) -> None:
    """A capacity run; ``limits`` are the largest stable rates by case."""
    directory.mkdir(parents=True)
    run = Run(directory, options, lambda line: None, lambda line: None)
    while len(run.done) < trials_max:
        task = next_task(options, run.done, lambda case: 0.9 * limits[case])
        if task is None:
            break
        one, samples = _trial(options, task, len(run.done) + 1, limits[task.case])
        trials.append(directory, one)
        records.write_samples(directory, one.name, samples)
        run.done.append(one)
    partial = len(run.done) == trials_max
    meta = records.meta("python -m bench capacity", capacity.conditions(options, run, partial))
    records.write_json(directory / "meta.json", meta)
    capacity_report.write(directory)


def sensitivity_run(
    directory: Path, options: sensitivity.Options, limits: Mapping[str, Mapping[str, float]]
) -> None:
    """A sensitivity run; ``limits`` by profile and case."""
    for profile in options.profiles:
        capacity_run(
            directory / profile, options.of_profile(profile), {**LIMITS, **limits[profile]}
        )
    meta = {"layout": sensitivity.LAYOUT, "options": options, "partial": False, "void": False}
    records.write_json(directory / "meta.json", records.meta("python -m bench sensitivity", meta))


def _trial(options: Options, task: Task, number: int, limit: float) -> tuple[Record, Samples]:
    duration_s = agenda.mode_of(options, task.case).duration_s
    load = task.rate / limit
    samples = _samples(number, duration_s, 2e-3 if load <= 1.0 else 80e-3)
    per_s, over = REQUESTS / duration_s, verdict.over_limit(samples, verdict.LIMIT_MS)
    share = {"service": 0.8 * min(load, 1.0), "generator": 0.3}
    cpu_us = {"service": _SERVICE_US[task.case], "generator": 50.0}
    one = a_trial(
        number=number,
        case=task.case,
        repeat=task.repeat,
        purpose=task.purpose,
        rate=task.rate,
        seed=options.seed,
        duration_s=duration_s,
        offered_per_s=per_s,
        verdict=Verdict.PASS if load <= 1.0 else Verdict.FAIL,
        verdict_tight=Verdict.PASS if load <= 0.9 else Verdict.FAIL,
        total=REQUESTS,
        over=over,
        over_tight=over,
        stability=verdict.stability(samples, per_s, duration_s),
        kinds=figures.all_kinds(samples),
        cpu_us_per_request=cpu_us,
        cpu_share=share,
        backlog=[10.0 * load] * trials.SERIES_POINTS,
    )
    return one, samples


def _samples(seed: int, duration_s: float, mean_s: float) -> Samples:
    rng = np.random.default_rng(seed)
    intended_s = np.sort(rng.random(REQUESTS)) * duration_s
    nothing = np.zeros(REQUESTS, dtype=np.int64)
    return Samples(
        intended_s=intended_s,
        sent_s=intended_s,
        done_s=intended_s + rng.exponential(mean_s, REQUESTS),
        kind=nothing + Kind.BOOK,
        outcome=nothing + 200,
        waited=nothing,
    )
