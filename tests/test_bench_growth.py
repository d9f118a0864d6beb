"""The growing history: what is put into the tables fits together, and what is asked is answered."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from conftest import CASES
from test_lifecycle import assert_tables_agree

from bench import bed, growth, growth_report, records, service
from bench.exchange_client import HarnessError
from bench.growth import VERBS, Options, Point
from bench.profiles import PROFILES
from bench.service import Case

LABELS = [f"v{case[-1]}" for case in CASES]


def points(case: str, verb: str, *medians_ms: float) -> list[Point]:
    return [
        Point(case, 10**power, verb, 300, median, 2 * median, 1.0, 100.0)
        for power, median in enumerate(medians_ms, 4)
    ]


def asked(connection: psycopg.Connection[Any], query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def every(case: str, *medians_ms: float) -> list[Point]:
    return [point for verb in VERBS for point in points(case, verb, *medians_ms)]


@pytest.mark.parametrize("label", LABELS)
def test_a_history_fits_together_and_every_request_on_it_is_answered(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "ROUNDS", 4)
    monkeypatch.setattr(growth, "WARMUP_ROUNDS", 1)
    monkeypatch.setattr(growth, "_CHUNK", 700)
    # To fill the books of all symbols would take longer than the rest.
    monkeypatch.setitem(PROFILES, "few", replace(PROFILES["average"], symbols=20))
    pins = service.default_pins()
    with bed.made(Case.of(label), "few", 1, pins) as ready:
        assert ready.database
        for there, size in ((0, 1_000), (1_000, 3_000)):
            growth.grow(ready, there, size)
            with psycopg.connect(ready.database.url) as connection:
                [(closed,)] = connection.execute(
                    "SELECT count(*) FROM orders WHERE close_reason = 'filled'"
                ).fetchall()
                assert closed == size
                assert_tables_agree(partial(asked, connection))
            measured = growth.measured(ready, Case.of(label), size, pins)
            assert [point.verb for point in measured] == list(VERBS)
            assert {point.count for point in measured} == {4}
            assert all(0 < point.p50_ms <= point.p99_ms for point in measured)


def test_a_wrong_answer_is_no_measurement() -> None:
    with pytest.raises(HarnessError, match="a wrong answer: expected that it is"):
        growth._check(False, "it is")


def test_only_what_takes_longer_by_more_than_the_tolerance_is_called_slower() -> None:
    given = [*points("v1", "book", 1.0, 5.0, 1.29), *points("v1", "cancel", 1.0, 0.5, 1.4)]
    assert growth_report.slower(given) == [
        "v1: cancel takes 1.40 times as long with 1,000,000 closed orders as with 10,000"
    ]


def test_a_run_is_written_down_read_and_drawn(tmp_path: Path) -> None:
    given = [*every("v1", 1.0, 1.1), *every("v2", 0.5, 0.9)]
    for point in given:
        records.append_line(tmp_path, growth.FILE, point)
    options = Options(["v1", "v2"], [10_000, 100_000], 1, {})
    conditions = {"layout": growth.LAYOUT, "options": options, "partial": False, "void": False}
    records.write_json(tmp_path / "meta.json", records.meta("python -m bench growth", conditions))
    assert growth_report.read(tmp_path) == given
    lines = growth_report.write(tmp_path)
    assert lines[2].startswith("| book ")
    assert "1.10 |" in lines[2]
    assert sum(line.startswith("- v2: ") for line in lines) == len(VERBS)
    assert [file.suffix for file in growth_report.draw(tmp_path)] == [".svg", ".png"]
    assert msgspec.json.decode((tmp_path / "meta.json").read_bytes())["layout"] == growth.LAYOUT
