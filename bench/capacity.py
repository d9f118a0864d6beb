"""A capacity run: search after search, each trial recorded as it ends.

``bench/agenda.py`` says what comes next.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import bed, checking, evenness, pace, records, traffic, trials
from bench.agenda import (
    MODES,
    Options,
    Task,
    duration_of,
    highest_rate,
    mode_of,
    next_task,
    search_s,
    searches,
    slowed,
    trial_s,
    trusted_per_s,
    usual_paces,
)
from bench.bed import Bed
from bench.checking import Audit
from bench.exchange_client import HarnessError
from bench.figures import Samples
from bench.load import DRAIN_S, WARMUP_S, Say, drive
from bench.service import NULL, Case
from bench.spec import Progress
from bench.trials import Record, Setting
from bench.verdict import LIMIT_MS, TIGHT_LIMIT_MS, Verdict

LAYOUT = "capacity-2"
# The mixed traffic costs about as much as the orders that fill the books at full speed, but one
# client that sends the next order after a reply finds the service busier than it is: half is safe.
START_SHARE_OF_SEEDING = 0.5
NULL_START = 500.0
# How long the machine may be too slow for a trial that counts, before the run is broken off.
CALM_PATIENCE_S = 3600.0
CALM_LOOK_S = 5.0


class Run:
    """A results directory that grows by one trial after the other.

    ``modules`` are run instead of the cases' own, by label. ``after_s`` is how long other runs will
    take after it, for the time that is left.
    """

    def __init__(
        self,
        directory: Path,
        options: Options,
        say: Say,
        show: Say,
        *,
        modules: dict[str, str] | None = None,
        after_s: float = 0.0,
    ) -> None:
        self.directory = directory
        self.options = options
        self.done = trials.read(directory) if (directory / trials.FILE).exists() else []
        self._say = say
        self._show = show
        self._modules = modules or {}
        self._after_s = after_s
        self._bed: Bed | None = None
        self._bed_of = ("", 0)
        self._made = ExitStack()

    def complete(self) -> None:
        """Measure whatever is missing.

        Raises HarnessError, also when an audit fails, and when the machine is slow for long.
        """
        counted_s = time.monotonic()
        with self._made:
            while (task := self._next()) is not None:
                self._look_at_the_machine(task.repeat)
                one = self._trial(self._ready(task.case, task.repeat), task)
                slow = slowed(self.options, self.done).get(one.number)
                self._say(line_of(one, self._left_s(task), slow))
                if one.faults:
                    raise HarnessError(
                        f"AUDIT FAILED, the run is void: {one.case} at {one.rate:g} %: "
                        + "; ".join(one.faults)
                    )
                if slow is None:
                    counted_s = time.monotonic()
                else:
                    self._wait_until_calm(slow, counted_s)

    def _wait_until_calm(self, slow: str, since_s: float) -> None:
        """Begin no trial while a core is slower than a trial that counts may find it.

        Raises HarnessError when none has counted for too long, ``since_s`` by the monotonic clock,
        also where only the trials are ``slow`` and the machine without them seems calm.
        """
        least = MODES[self.options.mode].pace_min
        usual = usual_paces(self.done)[self.done[-1].repeat]
        while (waited_s := time.monotonic() - since_s) <= CALM_PATIENCE_S:
            seen = pace.alone(self._cores(), CALM_LOOK_S)
            seen_slow = pace.slow(seen, usual, least)
            if seen_slow is None:
                return
            slow = seen_slow
            self._show(f"waiting until the machine is calm: {slow} of its usual pace")
        raise HarnessError(
            f"the machine has been too slow for {waited_s / 60:.0f} minutes ({slow} of its usual "
            "pace): no trial counts; go on when it is calm, with --resume "
            f"{os.path.relpath(self.directory)}"
        )

    def _look_at_the_machine(self, repeat: int) -> None:
        """See once, before a repeat, how evenly it runs by itself."""
        if any(each.repeat == repeat for each in evenness.read(self.directory)):
            return
        self._made.close()  # nothing else may be at work
        self._bed = None
        self._show("the machine by itself")
        seen = evenness.measured(repeat, self._cores(), mode_of(self.options).duration_s)
        evenness.write(self.directory, seen)
        self._say(evenness.sentence(seen))

    def _cores(self) -> list[int | None]:
        return [*sorted(set(self.options.pins.values()))] or [None]

    def _next(self) -> Task | None:
        return next_task(self.options, self.done, self._start)

    def _start(self, case: str) -> float:
        """The first rate of a search: from the last result, or from how fast the seeding went."""
        before = [one for one in self.done if one.case == case and one.verdict is Verdict.PASS]
        if before:
            return max(one.rate for one in before)
        highest = highest_rate(self.options)
        if case == NULL.label:
            return NULL_START / highest
        seeded_per_s = self._ready(case, 1).seeded_per_s or 0.0
        at_100_per_s = traffic.PROFILES[self.options.profile].requests_per_s * highest
        return max(5.0, START_SHARE_OF_SEEDING * 100.0 * seeded_per_s / at_100_per_s)

    def _ready(self, case: str, repeat: int) -> Bed:
        """The bed of a search; the one before goes, so that only one database runs at a time."""
        if self._bed is None or self._bed_of != (case, repeat):
            self._made.close()
            if case != NULL.label:
                self._say(f"{case}: starting a database and filling the books")
            started = NULL if case == NULL.label else self._case(case)
            options = self.options
            self._bed = self._made.enter_context(
                bed.made(started, options.profile, self._seed(repeat), options.pins)
            )
            self._bed_of = (case, repeat)
        return self._bed

    def _case(self, label: str) -> Case:
        case = Case.of(label)
        return replace(case, module=self._modules.get(label, case.module))

    def _seed(self, repeat: int) -> int:
        return self.options.seed + repeat - 1

    def _trial(self, ready: Bed, task: Task) -> Record:
        """Measure, audit, record."""
        mode, profile = mode_of(self.options, task.case), traffic.PROFILES[self.options.profile]
        setting = Setting(
            number=len(self.done) + 1,
            case=task.case,
            repeat=task.repeat,
            purpose=task.purpose,
            rate=task.rate,
            seed=self._seed(task.repeat),
            duration_s=duration_of(mode, task.purpose),
            offered_per_s=profile.requests_per_s * task.rate / 100.0,
        )
        one, samples = self._measured(ready, setting)
        # In this order, so that a trial in the list is there as a whole.
        records.write_samples(self.directory, one.name, samples)
        trials.append(self.directory, one)
        self.done.append(one)
        return one

    def _measured(self, ready: Bed, setting: Setting) -> tuple[Record, Samples]:
        prober = ready.brokers[-1] if ready.database else None
        with ready.fresh() as place:
            spec = ready.spec(
                place,
                seed=setting.seed,
                scale=setting.rate,
                length_s=setting.duration_s,
                warmup_s=WARMUP_S,
            )
            tape = spec.tape()
            load = drive(
                spec,
                tape,
                place,
                lambda seen: self._show(_live(setting, seen)),
                prober=prober,
                generators=self.options.generators,
                cores=self._cores(),
            )
            audit, asked = Audit(), ready.sent(tape, load)
            if ready.database and self._is_first_confirmation(setting):
                self._show(f"{setting.case}  audit through the API")
                audit = ready.read_back(place, tape, load, asked)
        if place.database_url is not None and audit.not_done is None:
            stored = checking.in_database(place.database_url, ready.brokers, asked)
            named = {f"database: {check}": found for check, found in stored.findings.items()}
            audit.findings |= named
            audit.not_done = stored.not_done
        audit.add_stop(place.stop_finding)
        steady = traffic.PROFILES[self.options.profile].steady
        one = trials.record(setting, load, audit, trusted_per_s(self.done), steady)
        return one, load.samples.measured

    def _is_first_confirmation(self, setting: Setting) -> bool:
        """Reading everything back takes longest, so it is done once a search, near its result."""
        of_search = (setting.case, setting.repeat, "confirm")
        return (setting.case, setting.repeat, setting.purpose) == of_search and not any(
            (one.case, one.repeat, one.purpose) == of_search for one in self.done
        )

    def _left_s(self, task: Task) -> float:
        """About how long the rest takes, that of the runs after this one included.

        What an earlier search has lost is left out.
        """
        options, begun = self.options, {(one.case, one.repeat) for one in self.done}
        ahead = [each for each in searches(options) if each not in begun]
        return (
            task.left * trial_s(mode_of(options, task.case), task.purpose)
            + sum(search_s(options, case, repeat) for case, repeat in ahead)
            + self._after_s
        )


def line_of(one: Record, left_s: float, slow: str | None = None) -> str:
    """One lasting line for a trial; ``slow`` as in ``slowed``."""
    everything, verdict = one.everything, one.verdict.upper()
    latency = " / ".join(
        "∞" if value is None else f"{value:.1f}"
        for value in (everything.latency_ms_p50, everything.latency_ms_p99)
    )
    late = f": {one.over / max(one.total, 1):.1%} above 50 ms" if verdict == "FAIL" else ""
    why = f": {one.reasons[0]}" if one.reasons else late
    why += f", does not count: {slow}" if slow else ""
    left = f"{left_s // 60:.0f}:{left_s % 60:02.0f} left" if left_s else ""
    return (
        f"{one.number:3d}  {one.case:4}  {one.rate:7,.1f} %  {one.offered_per_s:7,.0f}/s  "
        f"{one.purpose:7}  p50/p99 {latency:>13} ms  {verdict}{why}  {left}"
    )


def _live(setting: Setting, seen: Progress) -> str:
    elapsed_s = max(0.0, seen.elapsed_s)
    return (
        f"{setting.number:3d}  {setting.case:4}  {setting.rate:7,.1f} %  {setting.purpose}  "
        f"{elapsed_s:.0f} of {WARMUP_S + setting.duration_s:.0f} s, "
        f"{seen.sent - seen.done:,} in flight"
    )


def conditions(options: Options, run: Run, partial: bool) -> dict[str, Any]:
    """What meta.json says besides the machine."""
    from common.postgres import SETTINGS  # noqa: PLC0415 - only a run needs the service's packages

    return {
        "layout": LAYOUT,
        "options": options,
        "mode": mode_of(options),
        "null_mode": mode_of(options, NULL.label),
        "profile_label": traffic.PROFILES[options.profile].label,
        "warmup_s": WARMUP_S,
        "drain_s": DRAIN_S,
        "limit_ms": LIMIT_MS,
        "tight_limit_ms": TIGHT_LIMIT_MS,
        "postgres": {"settings": SETTINGS},
        "seeds": [options.seed + repeat for repeat in range(options.repeats)],
        "partial": partial,
        "void": any(one.faults for one in run.done),
    }


@contextlib.contextmanager
def beside_the_generator(pins: dict[str, int]) -> Iterator[None]:
    """Keep this process off the service's core for as long as the block runs."""
    if "generator" not in pins:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {pins["generator"]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
