"""The crash harness: what it counts, what it calls a fault, and a real run of it."""

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from bench_records import commanded

from bench import crash, crash_cli, crash_report
from bench.checking import Audit
from bench.crash import Course, Crash, predicted_lost, promises_all
from bench.exchange_client import HarnessError
from bench.service import Case
from bench.spec import Progress


def crashed(
    case: str, number: int = 1, lost: int = 0, cancels_lost: int = 0, doubled: int = 0
) -> Crash:
    return Crash(
        case=case,
        number=number,
        killed_after_s=1.5,
        acknowledged=1_000,
        offered_per_s=700.0,
        lost=lost,
        lost_traded=lost // 2,
        cancels_lost=cancels_lost,
        oldest_lost_ms=31.0 if lost else None,
        recovery_s=0.8,
        replayed=990,
        placed=lost * 3,
        doubled=doubled,
        acknowledged_traded=200,
    )


def test_each_case_is_crashed_in_each_of_its_modes_once() -> None:
    both = ["flush", "wal"]
    assert crash_cli.labels(["v1", "v2", "v3", "v1"], both) == [
        "v1",
        "v2",
        "v2-wal",
        "v3",
        "v3-wal",
    ]
    assert crash_cli.labels(["v1", "v3"], ["wal"]) == ["v1", "v3-wal"]


def test_a_label_says_what_is_started() -> None:
    assert Case.of("v3-wal") == Case("v3-wal", "casev3", 1, "wal")
    assert Case.of("v1x4") == Case("v1x4", "casev1", 4, None)


def test_a_log_of_the_case_that_has_none_is_refused() -> None:
    assert crash_cli.labels(["v1", "v2"], ["wal"]) == ["v1", "v2-wal"]
    with pytest.raises(HarnessError, match="--durability: casev1"):
        crash_cli.labels(["v1"], ["wal"])


@pytest.mark.parametrize(
    ("label", "all_kept", "most"),
    [("v1", True, 0), ("v2", False, 21), ("v3", False, 21), ("v2-wal", True, 0)],
)
def test_only_a_flush_may_lose_and_by_arithmetic_21_orders(
    label: str, all_kept: bool, most: float
) -> None:
    assert promises_all(label) is all_kept
    assert predicted_lost(label, 700.0) == pytest.approx(most)


@pytest.mark.parametrize("label", ["v1", "v3-wal"])
@pytest.mark.parametrize(("orders", "cancels"), [(1, 0), (0, 1)])
def test_a_loss_is_a_fault_where_none_is_promised(label: str, orders: int, cancels: int) -> None:
    course = Course(label, [crashed(label), crashed(label, 2, orders, cancels)])
    assert crash_cli.faults(course) == [f"{label}: lost {orders} orders and {cancels} cancels"]


def test_a_loss_within_a_flush_is_no_fault() -> None:
    assert crash_cli.faults(Course("v3", [crashed("v3", lost=20)])) == []


def test_a_loss_of_what_a_flush_must_have_saved_is_a_fault() -> None:
    old = msgspec.structs.replace(crashed("v3", lost=20), oldest_lost_ms=1450.0)
    [fault] = crash_cli.faults(Course("v3", [crashed("v3", lost=20), old]))
    assert fault.startswith("v3: lost what was flushed long before, in 1 crashes")
    assert "1,450 ms" in fault


def test_an_order_that_is_placed_twice_is_a_fault_of_any_case() -> None:
    course = Course("v3", [crashed("v3", lost=20), crashed("v3", 2, doubled=2)])
    assert crash_cli.faults(course) == ["v3: placed 2 orders twice"]


def test_a_failed_audit_is_a_fault_of_any_case() -> None:
    course = Course("v3", [crashed("v3")], Audit({"books uncrossed": ["PETR4 is crossed"]}))
    assert crash_cli.faults(course) == ["v3: books uncrossed: PETR4 is crossed (1 findings)"]


# ---- records ----


def recorded(directory: Path, crashes: Sequence[Crash], *faults: str) -> Path:
    meta = {
        "layout": crash.LAYOUT,
        "options": {"cases": ["v3"], "scale": 100.0, "cycles": 2, "seed": 1, "pins": {}},
        "command": "python -m bench crash",
        "limits": list(crash_cli.KIND.limits),
        "partial": False,
        "void": bool(faults),
        "faults": list(faults),
    }
    (directory / "meta.json").write_bytes(msgspec.json.encode(meta))
    lines = b"".join(msgspec.json.encode(each) + b"\n" for each in crashes)
    (directory / crash.FILE).write_bytes(lines)
    return directory


def test_the_table_has_a_row_for_each_case_with_median_and_most(tmp_path: Path) -> None:
    crashes = [crashed("v3", number, lost) for number, lost in enumerate((0, 12, 25), 1)]
    recorded(tmp_path, [*crashes, crashed("v3-wal")], "v3: something")
    _, _, flush, wal = crash_report.write(tmp_path)
    assert [cell.strip() for cell in flush.strip("|").split("|")] == [
        "v3", "matched in memory", "3", "3,000", "12 (25)", "21", "2", "6 (12)", "4.2", "0", "31",
        "2,970", "111", "0", "0.80 (0.80)",
    ]  # fmt: skip
    assert "| 0 (0) |" in " ".join(wal.split())
    report = (tmp_path / "report.md").read_text()
    assert "- v3: something" in report
    assert flush in report


def test_what_an_older_record_does_not_say_is_left_open(tmp_path: Path) -> None:
    older = msgspec.structs.replace(crashed("v3", lost=2), acknowledged_traded=None)
    recorded(tmp_path, [crashed("v3"), older])
    assert "| 0.5 (1) | – |" in " ".join(crash_report.write(tmp_path)[2].split())


def test_the_chart_is_drawn_again_from_the_records(tmp_path: Path) -> None:
    recorded(tmp_path, [crashed("v3", lost=5), crashed("v3-wal")])
    first = [path.read_bytes() for path in crash_report.draw(tmp_path)]
    assert [path.read_bytes() for path in crash_report.draw(tmp_path)] == first
    done = commanded("charts", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lost.svg" in done.stdout


def test_a_cut_record_is_one_line(tmp_path: Path) -> None:
    recorded(tmp_path, [crashed("v3")])
    path = tmp_path / crash.FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(HarnessError, match="line 1 is cut off"):
        crash_report.read(tmp_path)


# ---- the command ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "v4"], "'v4' is not possible; allowed: v1, v2, v3"),
        (["--durability", "maybe"], "'maybe' is not possible; allowed: flush, wal"),
        (["--cycles", "0"], "'0' is not possible; allowed: 1 to 10000"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        crash_cli.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.alone
def test_a_real_run_counts_what_each_mode_loses(tmp_path: Path) -> None:
    done = commanded("crash", "--version", "v3", "--scale", 60, "--cycles", 2, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    [directory] = tmp_path.iterdir()
    crashes = crash_report.read(directory)
    assert [(each.case, each.number) for each in crashes] == [
        ("v3", 1), ("v3", 2), ("v3-wal", 1), ("v3-wal", 2)
    ]  # fmt: skip
    assert all(each.acknowledged > 500 for each in crashes)
    assert all(1.0 <= each.killed_after_s < 3.0 for each in crashes)
    assert all(not each.lost and not each.cancels_lost for each in crashes[2:])
    # The log keeps all that was acknowledged, and each crash cuts some replies off.
    assert all(each.replayed >= each.acknowledged - each.too_late for each in crashes[2:])
    assert all(each.placed >= each.lost - each.too_late for each in crashes)
    assert not any(each.doubled for each in crashes)
    names = {path.name for path in directory.iterdir()}
    assert names == {crash.FILE, "meta.json", "report.md", "lost.svg", "lost.png"}


@pytest.mark.parametrize("ended_with", [None, 3])
def test_who_ends_by_himself_is_not_taken_for_killed(ended_with: int | None) -> None:
    victim = Mock()
    victim.service.process.poll.return_value = ended_with
    victim.kill.return_value = 7.0
    killing = crash._Killing(victim, 0.0)
    killing.at_progress(Progress(0.0, 0, 0, 0, None, None))
    if ended_with is None:
        assert killing.killed_s() == 7.0
    else:
        with pytest.raises(HarnessError, match="ended by itself, with 3"):
            killing.killed_s()
