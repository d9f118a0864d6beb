"""The compressed day: what it compares, and a real, small one."""

from pathlib import Path

import msgspec
import pytest
from bench_records import describe

from bench import day, day_cli, day_report, records, service
from bench.day import TENTHS, Day, Options, Tenth
from bench.exchange_client import HarnessError
from bench.overload import Latency
from bench.usage import Look, Used


def tenth(p50_ms: float = 1.0, service_us: float = 40.0, held: int = 1_000) -> Tenth:
    latency_ms, resident_mb = Latency(p50_ms, 4 * p50_ms, 9.0), 50.0 + held / 1_000
    return Tenth(100, 0, latency_ms, service_us, 10.0, resident_mb, held // 2, held)


def a_day(last: Tenth) -> Day:
    tenths = [*[tenth() for _ in range(TENTHS - 1)], last]
    return Day("v3", 900.0, 2_000, tenths, 3_000, 40.0, 1.5, 60.0, [])


def test_the_last_tenth_is_compared_with_the_first() -> None:
    said = day_report.changes(a_day(tenth(p50_ms=1.15, service_us=60.0, held=3_000)))
    assert said == [
        "p50: the last tenth has 1.15 of the first, the same",
        "p99: the last tenth has 1.15 of the first, the same",
        "service CPU per request: the last tenth has 1.50 of the first, NOT the same",
        "PostgreSQL CPU per request: the last tenth has 1.00 of the first, the same",
        "memory grows by 1.00 KB for each order more in memory",
    ]


def test_cpu_is_that_between_the_looks_nearest_to_both_instants() -> None:
    used = Used(
        [
            Look(at_s, 1.0, {"service": 2 * at_s, "postgres backends": at_s, "postgres other": 1.0})
            for at_s in (10.0, 11.0, 12.0, 13.0)
        ]
    )
    assert used.cpu_s(10.9, 13.4) == {"service": 4.0, "postgres": 2.0}
    assert used.resident_mb(10.0)[1] == (1.0, 1.0)
    assert Used().cpu_s(0.0, 1.0) == {}


@pytest.mark.alone
def test_a_real_small_day_is_kept_whole_started_again_and_drawn(tmp_path: Path) -> None:
    options = Options("v3", 3_000, 150.0, 1, service.default_pins())
    found = day.run(options, lambda line: None)
    assert found.faults == []
    assert found.orders == pytest.approx(3_000, rel=0.1)
    assert len(found.tenths) == TENTHS
    assert [each.failed for each in found.tenths] == [0] * TENTHS
    # What rests at the end rests after the new start, less what has expired since then.
    last, held = found.tenths[-1].resting, found.tenths[-1].held
    assert last is not None
    assert held is not None
    assert held > last
    assert found.resting == pytest.approx(last, rel=0.05)
    assert found.restart_s > 0
    records.write_json(tmp_path / day.FILE, found)
    describe(tmp_path, day_cli.KIND, options)
    assert day_report.read(tmp_path) == found
    assert day_report.write(tmp_path)[0].startswith("| tenth")
    assert [file.suffix for file in day_report.draw(tmp_path)] == [".svg", ".png"]


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="another layout"):
        day_report.read(tmp_path)


def test_a_day_can_be_written_and_read_again() -> None:
    found = a_day(tenth())
    assert msgspec.json.decode(msgspec.json.encode(found), type=Day) == found
