"""A run that goes on keeps what is known of its start, and adds what was different later."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_records import begun, commanded
from synthetic import capacity_run, sensitivity_run

from bench import capacity_cli, check_command, records, sensitivity, sensitivity_cli
from bench.agenda import Options
from bench.exchange_client import HarnessError
from bench.service import ROOT

START = {
    "command": "python -m bench as it was begun",
    "git": "0000000",
    "python": "3.0.0",
    "packages": {"numpy": "0.1"},
}
WHOLE = Options(["v1"], "quick", "average", 1, {}, 1)
Resume = Callable[[Path], int]


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("capacity_charts", "sensitivity_charts"):
        monkeypatch.setattr(f"bench.{module}.draw", lambda directory: [])


def meta_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "meta.json").read_text())
    return found


def changed(directory: Path, changes: dict[str, Any]) -> None:
    records.write_json(directory / "meta.json", meta_of(directory) | changes)


def a_capacity_run(directory: Path) -> Resume:
    capacity_run(directory, WHOLE)
    return lambda run: capacity_cli.main(["--resume", str(run)])


def a_sensitivity_run(directory: Path) -> Resume:
    options = sensitivity.Options(["v1", "v2"], ["average"], 1, {})
    sensitivity_run(directory, options, {"average": {}})
    return lambda run: sensitivity_cli.main(["--resume", str(run)])


def a_check(directory: Path) -> Resume:
    ran = directory.parent / "ran"
    capacity_run(ran, Options(["v1", "v2", "v3"], "default", "average", 1, {}, 1))
    file = directory.parent / "baseline.json"
    check_command.renew(ran, file)
    capacity_run(directory, check_command.options_for(check_command.read(file), {}))
    return lambda run: check_command.main(["--baseline", str(file), "--resume", str(run)])


KINDS = pytest.mark.parametrize("made", [a_capacity_run, a_sensitivity_run, a_check])


def test_a_check_does_not_go_on_with_other_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = a_check(tmp_path / "run")
    changed(tmp_path / "run", {"git": "1234567"})
    assert resume(tmp_path / "run") == 3
    assert "was measured at 1234567" in capsys.readouterr().err


@pytest.mark.parametrize("made", [a_capacity_run, a_sensitivity_run])
def test_a_resumed_run_names_its_start_and_each_resume(
    made: Callable[[Path], Resume], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    resume = made(directory)
    changed(directory, START)
    assert resume(directory) in (0, 1, 2)
    assert resume(directory) in (0, 1, 2)
    meta = meta_of(directory)
    assert {name: meta[name] for name in START} == START
    first, second = meta["resumes"]
    assert first["git"] == second["git"] == records.git_revision()
    assert set(first) == {"at", "git", "python", "packages"}
    report = (directory / "report.md").read_text()
    assert f"- Resumed: at {first['at']}; git {first['git']}; python" in report


@KINDS
@pytest.mark.parametrize("fact", [{"cpu": "abacus"}, {"cores": 96}])
def test_a_run_does_not_go_on_on_another_machine(
    made: Callable[[Path], Resume],
    fact: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    resume = made(directory)
    changed(directory, {"machine": records.machine() | fact})
    before = meta_of(directory)
    assert resume(directory) in (1, 3)
    said = capsys.readouterr().err
    assert "was begun on" in said
    assert said.count("\n") == 1
    assert meta_of(directory) == before


@pytest.mark.parametrize(
    ("command", "made"), [("capacity", a_capacity_run), ("sensitivity", a_sensitivity_run)]
)
def test_one_process_at_a_time_measures_into_a_run(
    command: str, made: Callable[[Path], Resume], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    made(directory)
    records.claim(directory)
    before = meta_of(directory)
    done = commanded(command, "--resume", directory)
    assert done.returncode == 1
    assert "another process measures into it" in done.stderr
    assert done.stderr.count("\n") == 1
    assert meta_of(directory) == before


def test_a_run_is_free_again_when_the_process_that_had_it_is_gone(tmp_path: Path) -> None:
    claim = (
        "import sys, pathlib; from bench import records; records.claim(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", claim, str(tmp_path)], cwd=ROOT, check=True)
    records.claim(tmp_path)


def test_what_is_as_at_the_start_is_not_said_again(tmp_path: Path) -> None:
    begun(tmp_path, {"v3": [100.0]})
    [resume] = records.provenance(tmp_path, "any")["resumes"]
    assert set(resume) == {"at"}


def test_a_run_from_before_resumes_were_listed_keeps_its_last_one(tmp_path: Path) -> None:
    begun(tmp_path, {"v3": [100.0]})
    changed(tmp_path, {"resumed_at": "1111111"})
    assert records.resume_lines(meta_of(tmp_path)) == ["- Resumed: git 1111111."]
    older, newer = records.provenance(tmp_path, "any")["resumes"]
    assert older == {"git": "1111111"}
    assert "at" in newer


def test_a_run_that_names_no_machine_may_go_on(tmp_path: Path) -> None:
    records.check_same_machine(tmp_path)
    begun(tmp_path, {"v3": [100.0]})
    records.check_same_machine(tmp_path)
    changed(tmp_path, {"machine": records.machine() | {"cores": 0}})
    with pytest.raises(HarnessError, match="begun on 0 cores"):
        records.check_same_machine(tmp_path)
