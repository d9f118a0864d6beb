"""Pauses of the garbage collector: what is made of a diary, and a real case that keeps one."""

import gc
import time
from pathlib import Path

import msgspec
import pytest
from bench_records import SMALL_MARKET, describe
from msgspec.structs import replace

from bench import pauses, pauses_cli, pauses_report, service
from bench.exchange_client import HarnessError
from bench.paused_case import COLLECTORS as WAYS
from bench.paused_case import Diary
from bench.pauses import COLLECTORS, Options, Pauses, pauses_ms, row

DIARY = ["9.0 0 0.001", "10.0 0 0.002", "11.0 2 0.003", "12.0 1 0.004"]


def found(**took_ms: list[float]) -> Pauses:
    """Pauses of the generations ``young`` and ``old`` in ten seconds."""
    own = {0: took_ms.get("young", []), 2: took_ms.get("old", [])}
    return Pauses("v3", "served", 600.0, 10.0, own, 0.999)


def test_pauses_outside_of_the_measured_time_are_not_counted() -> None:
    assert pauses_ms(DIARY, 10.0, 12.0) == {0: [2.0], 2: [3.0]}


def test_a_row_counts_the_pauses_of_all_generations() -> None:
    own = row(found(young=[2.0, 1.0], old=[97.0]))
    assert (own.count, own.p50, own.p99, own.max) == (3, 2.0, 97.0, 97.0)
    assert own.share == pytest.approx(0.01)


def test_a_row_without_pauses_has_no_longest() -> None:
    own = row(found())
    assert (own.count, own.p50, own.max, own.share) == (0, None, None, 0.0)


def test_a_case_that_did_not_carry_its_load_is_named() -> None:
    fine = found(young=[1.0])
    assert not any("did not carry" in line for line in pauses_report.lines_of([fine]))
    over = replace(fine, case="v1", in_time=0.98)
    assert pauses_report.lines_of([fine, over])[-1].startswith("**v1 did not carry this load")


def test_every_way_of_having_the_collector_has_a_name_in_the_charts() -> None:
    assert list(COLLECTORS) == list(WAYS)


@pytest.mark.parametrize(("least_ms", "most_ms"), [(1.0, 1.0), (0.1, 10.0), (0.21, 3.3)])
def test_every_pause_is_in_a_bin(least_ms: float, most_ms: float) -> None:
    edges = pauses_report.bins(least_ms, most_ms)
    assert edges[0] <= least_ms * (1 + 1e-9)
    assert most_ms < edges[-1]


def test_a_diary_has_each_collection_with_its_generation(tmp_path: Path) -> None:
    diary = Diary()
    gc.callbacks.append(diary.note)
    begin_s = time.monotonic()
    try:
        gc.collect(2)
        gc.collect(0)
    finally:
        gc.callbacks.remove(diary.note)
    diary.write(tmp_path / "diary")
    seen = pauses_ms((tmp_path / "diary").read_text().splitlines(), begin_s, time.monotonic())
    assert len(seen[0]) >= 1
    assert len(seen[2]) == 1
    assert seen[2][0] > 0


@pytest.mark.alone
def test_a_real_case_leaves_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "PROFILE", SMALL_MARKET)
    monkeypatch.setattr(pauses, "WARMUP_S", 0.5)
    options = Options(["v3"], 600.0, 2.0, 1, service.default_pins())
    for one in pauses.run(options, "v3", lambda line: None):
        with (tmp_path / pauses.FILE).open("ab") as file:
            file.write(msgspec.json.encode(one) + b"\n")
    describe(tmp_path, pauses_cli.KIND, options)
    rows = [line for line in pauses_report.write(tmp_path) if line.startswith("|")]
    assert [line.split("|")[2].strip() for line in rows[2:]] == list(COLLECTORS.values())
    python, frozen, served = pauses_report.read(tmp_path)
    assert row(python).count > 0
    assert row(frozen).count > 0
    # What is served with looks at young objects only.
    assert list(served.pauses_ms) == [0]
    assert sorted(file.name for file in pauses_report.draw(tmp_path)) == [
        "pauses.png",
        "pauses.svg",
    ]


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="another layout"):
        pauses_report.read(tmp_path)
