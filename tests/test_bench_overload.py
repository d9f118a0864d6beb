"""The overload harness: its schedule, what it counts, and a real run of it."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bench_records import SMALL_MARKET, describe
from conftest import CASES

from bench import outcomes, overload, overload_cli, overload_report, recording, service
from bench.exchange_client import HarnessError
from bench.figures import Samples
from bench.http_client import Address
from bench.overload import AFTER, BEFORE, DURING, Flood, Options
from bench.spec import Spec, Stage
from bench.traffic import Kind

OPTIONS = Options(["v1"], {"v1": 200.0}, 3.0, 4.0, 1, {}, before_s=2.0, after_s=4.0)


def samples(rows: Sequence[tuple[float, float, float, int]]) -> Samples:
    """Balance reads: when each was due, how late it left, how long it took, how it ended."""
    due, late, took, outcome = (np.array(column) for column in zip(*rows, strict=True))
    return Samples(
        due.astype(float),
        due + late,
        due + late + took,
        np.full(len(due), int(Kind.BALANCE)),
        outcome.astype(np.int64),
        np.zeros(len(due), dtype=np.int64),
    )


def steady(from_s: float, until_s: float, took_s: float = 0.001, outcome: int = 200) -> Samples:
    """A hundred requests a second, all alike."""
    return samples([(at, 0.0, took_s, outcome) for at in np.arange(from_s, until_s, 0.01).tolist()])


def together(*given: Samples) -> Samples:
    names = ("intended_s", "sent_s", "done_s", "kind", "outcome", "waited")
    return Samples(*(np.concatenate([getattr(each, name) for each in given]) for name in names))


def test_the_schedule_offers_half_then_the_factor_then_half_of_the_capacity() -> None:
    factor = overload.factor_of(OPTIONS, "v1")
    spec = Spec(
        "x", Address("x", 1), "average", 1, 200.0 * factor, True, 0.0, 10.0, 0.0, [], 0, None, "",
        stages=overload.stages(OPTIONS, factor),
    )  # fmt: skip
    tape = spec.tape()
    capacity_per_s = 2.0 * 945 / 0.72
    for begin_s, end_s, share in ((0, 2, 0.5), (2, 6, 3.0), (6, 10, 0.5)):
        due = (tape.intended_s >= begin_s) & (tape.intended_s < end_s)
        assert due.sum() == pytest.approx(share * capacity_per_s * (end_s - begin_s), rel=0.1)
    assert (np.diff(tape.intended_s) >= 0).all()


def test_a_schedule_of_one_stage_is_the_plain_one() -> None:
    plain = Spec("x", Address("x", 1), "average", 1, 50.0, True, 1.0, 2.0, 0.0, [], 0, None, "")
    staged = msgspec.structs.replace(plain, stages=[Stage(3.0, 1.0)])
    assert staged.tape().intended_s == pytest.approx(plain.tape().intended_s)


def test_no_case_is_offered_more_than_the_generator_can_send() -> None:
    fast = msgspec.structs.replace(OPTIONS, capacity={"v1": 2000.0})
    assert overload.factor_of(OPTIONS, "v1") == 3.0
    assert overload.factor_of(fast, "v1") == pytest.approx(70_000 / 26_250)


def test_each_request_is_served_refused_failed_or_not_sent() -> None:
    seen = samples(
        [
            (0.0, 0.5, 0.010, 200),
            (0.1, 0.0, 0.030, 200),
            (0.2, 0.0, 0.002, 503),
            (0.3, 0.0, np.nan, outcomes.TIMEOUT),
            (0.4, np.nan, np.nan, outcomes.TARGET_FAILED),
            (1.5, 0.0, 0.001, 200),
        ]
    )
    part = overload.part(seen, [(0.2, 100.0), (0.7, 120.0), (1.2, 500.0)], 0.0, 1.0)
    assert (part.offered_per_s, part.served_per_s, part.refused_per_s) == (5.0, 2.0, 1.0)
    assert part.unsent_per_s == 1.0
    assert part.failed == {"timeout": 1}
    # From when they left the generator, not from when they were due.
    assert part.served_ms.max == pytest.approx(30.0)
    assert part.served_ms.p50 == pytest.approx(10.0)
    assert part.refused_ms.p99 == pytest.approx(2.0)
    assert part.resident_mb == 120.0


def test_a_stretch_without_requests_has_no_latency() -> None:
    part = overload.part(steady(0, 1), [], 5.0, 6.0)
    assert part.served_per_s == part.offered_per_s == 0.0
    assert part.served_ms.p50 is None
    assert part.resident_mb is None


@pytest.mark.parametrize(
    ("after", "normal_after_s"),
    [
        ([steady(6, 10)], 0.0),
        ([steady(6, 7, took_s=0.3), steady(7, 10)], 1.0),
        ([steady(6, 8, outcome=503), steady(8, 10)], 2.0),
        ([steady(6, 8), steady(8, 9, took_s=0.3), steady(9, 10)], 3.0),
        ([steady(6, 9), steady(9, 10, outcome=503)], None),
        # Their orders were refused, which says nothing of the time after.
        ([steady(6, 10), steady(6, 10, outcome=outcomes.TARGET_FAILED)], 0.0),
    ],
)
def test_normal_is_what_every_later_second_is_too(
    after: list[Samples], normal_after_s: float | None
) -> None:
    seen = together(steady(0, 2), steady(2, 6, outcome=503), *after)
    assert overload.normal_after_s(OPTIONS, seen) == normal_after_s


def test_a_capacity_is_that_which_was_given_or_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "newest_published", lambda: None)
    given = [("v1", 150.0), ("v3", 1.0)]
    assert recording.capacities(Namespace(version=["v1"], capacity=given)) == {"v1": 150.0}
    with pytest.raises(HarnessError, match="--capacity: none is published for v2; give one"):
        recording.capacities(Namespace(version=["v1", "v2"], capacity=given))


@pytest.mark.parametrize("wrong", ["v1", "v9=100", "v1=0", "v1=many"])
def test_a_wrong_capacity_is_refused_in_one_line(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        overload_cli.main(["--capacity", wrong])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--capacity" in said
    assert "allowed" in said


@pytest.mark.alone
def test_a_real_run_refuses_serves_loses_nothing_and_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "PROFILE", SMALL_MARKET)
    label = f"v{CASES[0][-1]}"
    options = Options(
        cases=[label],
        capacity={label: 600.0},
        factor=2.0,
        during_s=4.0,
        seed=1,
        pins=service.default_pins(),
        before_s=1.0,
        after_s=8.0,
    )
    said: list[str] = []
    flood = overload.run(options, label, said.append)
    assert flood.faults == []
    during, after = flood.parts[DURING], flood.parts[AFTER]
    assert during.served_per_s > 0
    assert during.refused_per_s > 0
    assert flood.parts[BEFORE].resident_mb
    assert after.served_per_s > 0
    (tmp_path / overload.FILE).write_bytes(msgspec.json.encode(flood) + b"\n")
    describe(tmp_path, overload_cli.KIND, options)
    assert overload_report.read(tmp_path) == [flood]
    assert overload_report.write(tmp_path)[2].startswith(f"| {label}")
    assert [file.suffix for file in overload_report.draw(tmp_path)] == [".svg", ".png"]


def test_a_row_says_when_normal_was_not_seen(tmp_path: Path) -> None:
    part = overload.part(steady(0, 1), [], 0.0, 1.0)
    parts = dict.fromkeys((BEFORE, DURING, AFTER), part)
    flood = Flood("v1", 200.0, 3.0, parts, [part], None, 0, 0.5, [])
    assert "not seen" in overload_report.lines_of([flood])[2]


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="another layout"):
        overload_report.read(tmp_path)
