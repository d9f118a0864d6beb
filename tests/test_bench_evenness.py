"""How evenly the machine runs by itself, as far as that can be told from a loop."""

import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import evenness
from bench.evenness import Evenness, Rounds
from bench.exchange_client import HarnessError

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]


def of(*counts: int) -> Evenness:
    return evenness.evenness(1, 0, Rounds(list(counts), 0.001))


def test_a_core_that_runs_evenly_has_no_slow_tenths() -> None:
    assert of(1000, 1000, 990, 1010) == Evenness(1, 0, 4, 0, 990 / 1000, 1.0)


def test_tenths_far_below_the_median_are_slow() -> None:
    seen = of(100, 100, 84, 86, 100, 55, 100)
    assert (seen.tenths, seen.slow) == (7, 2)
    assert seen.slowest == pytest.approx(0.55)


def test_a_core_that_was_gone_all_the_time_is_no_division_by_zero() -> None:
    assert of(0, 0, 5).slowest == 0.0


@given(st.lists(st.integers(1, 10**6), min_size=1), st.integers(1, 1000), st.randoms())
def test_neither_speed_nor_order_of_the_tenths_changes_what_is_said(
    counts: list[int], faster: int, chance: Random
) -> None:
    shuffled = [each * faster for each in counts]
    chance.shuffle(shuffled)
    seen, again = of(*counts), of(*shuffled)
    assert seen.slow == again.slow
    assert seen.slowest == pytest.approx(again.slowest)


def test_a_standstill_is_seen_with_the_tenths_that_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps_s = [0.0, *[0.02] * 10, 0.25, *[0.02] * 100]
    instants: Iterator[float] = accumulate(steps_s, initial=7.0)
    monkeypatch.setattr(evenness, "time", SimpleNamespace(monotonic=lambda: next(instants)))
    seen = evenness.count(0.8)
    assert seen.longest_s == pytest.approx(0.25)
    assert len(seen.counts) == 8
    assert seen.counts[3] == 0
    assert min(seen.counts[:2] + seen.counts[5:7]) >= 4


def test_every_core_is_looked_at_in_a_process_of_its_own() -> None:
    seen = evenness.measured(3, CORES, 0.3)
    assert [each.core for each in seen] == CORES
    assert {(each.repeat, each.tenths) for each in seen} == {(3, 3)}
    assert all(0.0 <= each.slowest <= 1.0 and each.longest_ms > 0.0 for each in seen)


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(HarnessError, match="core 99999"):
        evenness.measured(1, [99999], 0.1)


def test_what_was_seen_is_said_of_all_cores_and_repeats_together(tmp_path: Path) -> None:
    assert evenness.read(tmp_path) == []
    seen = [Evenness(1, 0, 300, 3, 0.66, 8.0), Evenness(2, 1, 300, 5, 0.55, 3.4)]
    for each in seen:
        evenness.write(tmp_path, [each])
    assert evenness.read(tmp_path) == seen
    said = evenness.sentence(seen)
    assert "8 of 600 tenths of a second" in said
    assert "less than 85% of the median" in said
    assert "the slowest did 55%" in said
    assert "8.0 ms" in said


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    evenness.write(tmp_path, [Evenness(1, 0, 300, 3, 0.66, 8.0)])
    file = tmp_path / evenness.FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(HarnessError, match=r"machine\.jsonl"):
        evenness.read(tmp_path)
