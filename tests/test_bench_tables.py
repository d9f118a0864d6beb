"""What the READMEs say was measured is what the records say."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from bench import capacity_report, crash, pgbench, records
from bench.crash import Crash
from bench.service import ROOT
from bench.tables import READMES, measured, newest, newest_published, updated


@pytest.mark.parametrize("name", READMES)
def test_the_readmes_show_the_newest_published_runs(name: str) -> None:
    readme = ROOT / name
    assert readme.read_text() == updated(readme, READMES[name])


def test_what_the_published_run_says_follows_from_its_trials(tmp_path: Path) -> None:
    published = newest_published()
    assert published is not None
    again = tmp_path / published.name
    again.mkdir()
    for raw in ("meta.json", "trials.jsonl", "machine.jsonl"):
        shutil.copy(published / raw, again)
    capacity_report.write(again)
    for made in (capacity_report.SUMMARY, capacity_report.REPORT):
        assert (again / made).read_text() == (published / made).read_text()


def test_the_newest_whole_run_of_each_case_is_shown(tmp_path: Path) -> None:
    for name, version, partial in (
        ("20260101T000000Z_a", "v3", False),
        ("20260102T000000Z_b", "v3", False),
        ("20260103T000000Z_c", "v3", True),
        ("20260101T000000Z_d", "v1", False),
    ):
        (tmp_path / name).mkdir()
        conditions = {"version": version, "partial": partial, "spawned": True}
        (tmp_path / name / "meta.json").write_text(json.dumps(conditions))
    shown = {version: run.name for version, run in newest(tmp_path).items()}
    assert shown == {"v1": "20260101T000000Z_d", "v3": "20260102T000000Z_b"}


def test_casev1_is_shown_as_a_share_of_what_postgresql_does_alone(tmp_path: Path) -> None:
    published = newest_published()
    assert published is not None
    run = tmp_path / published.name
    run.mkdir()
    for name in ("meta.json", "trials.jsonl"):
        shutil.copy(published / name, run)
    assert "PostgreSQL alone" not in measured(["v1"], ROOT / "README.md", tmp_path)
    [found] = [each for each in capacity_report.read(published).cases if each.case == "v1"]
    assert found.capacity.median is not None
    alone = pgbench.Reached(8, 30, 1.0, 2 * found.capacity.median, {})
    records.write_json(run / pgbench.FILE, msgspec.to_builtins(alone))
    assert "casev1 carries 50% of that" in measured(["v1"], ROOT / "README.md", tmp_path)
    assert "PostgreSQL alone" not in measured(["v3"], ROOT / "README.md", tmp_path)


def killed(results: Path, name: str, lost: int, *faults: str, partial: bool = False) -> None:
    """A run in which casev3 was killed once, with and without a log."""
    (results / name).mkdir()
    meta = {
        "layout": crash.LAYOUT,
        "options": {"cases": ["v3", "v3-wal"], "scale": 100.0, "cycles": 1, "seed": 1, "pins": {}},
        "partial": partial,
        "void": bool(faults),
        "faults": list(faults),
    }
    records.write_json(results / name / "meta.json", meta)
    for case in ("v3", "v3-wal"):
        one = Crash(case, 1, 1.5, 1000, 700.0, lost, 0, 0, 20.0 if lost else None, 0.5)
        records.append_line(results / name, crash.FILE, one)


def test_a_loss_against_a_promise_is_shown_and_marked_until_a_newer_run_has_none(
    tmp_path: Path,
) -> None:
    published = newest_published()
    assert published is not None
    run = tmp_path / published.name
    run.mkdir()
    for name in ("meta.json", "trials.jsonl"):
        shutil.copy(published / name, run)

    def rows() -> dict[str, str]:
        shown = measured(["v3"], ROOT / "README.md", tmp_path).splitlines()
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in shown]
        return {row[0]: row[-1] for row in cells if row[0] in ("v3", "v3-wal") and len(row) == 6}

    killed(tmp_path, "20270101T000000Z_a", 0)
    killed(tmp_path, "20270102T000000Z_b", 3, "v3-wal: lost 3 orders and 0 cancels")
    losing = rows()
    assert (losing["v3"], losing["v3-wal"]) == ("3 (3)", "3 (3), FAILED")
    said = measured(["v3"], ROOT / "README.md", tmp_path)
    assert "- FAILED: v3-wal: lost 3 orders and 0 cancels" in said
    killed(tmp_path, "20270103T000000Z_c", 0, partial=True)
    assert rows() == losing
    killed(tmp_path, "20270104T000000Z_d", 0)
    assert (rows()["v3"], rows()["v3-wal"]) == ("0 (0)", "0 (0)")


def test_a_capacity_run_whose_audit_failed_is_not_the_published_one(tmp_path: Path) -> None:
    published = newest_published()
    assert published is not None
    run = tmp_path / published.name
    run.mkdir()
    shutil.copy(published / "meta.json", run)
    assert newest_published(tmp_path) == run
    conditions = json.loads((run / "meta.json").read_text()) | {"void": True}
    (run / "meta.json").write_text(json.dumps(conditions))
    assert newest_published(tmp_path) is None


def test_a_case_without_a_run_says_so(tmp_path: Path) -> None:
    assert "No run is published yet" in measured(["v2"], ROOT / "README.md", tmp_path)
