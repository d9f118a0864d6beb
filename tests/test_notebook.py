"""The notebook tells what the records say: it runs on any results, and decides nothing itself."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.display import Image, Markdown
from synthetic import capacity_run, sensitivity_run

from bench import agenda, capacity_report, notebook, notebook_cli, sensitivity, tables
from bench.exchange_client import HarnessError
from bench.service import ROOT

RESULTS = ROOT / "results"
CASES = ["v1", "v2", "v3"]
PUBLISHED = agenda.Options(CASES, "publish", "average", 1, {}, repeats=3)
QUICK = agenda.Options(CASES, "quick", "average", 1, {}, repeats=1)
# What a cell may consist of: calls and names, and one loop to show several things.
ALLOWED = (
    ast.Module,
    ast.Import,
    ast.ImportFrom,
    ast.alias,
    ast.Assign,
    ast.Expr,
    ast.Call,
    ast.keyword,
    ast.Attribute,
    ast.Subscript,
    ast.Name,
    ast.Constant,
    ast.For,
    ast.expr_context,
)


def code_cells(file: Path) -> list[Any]:
    cells = nbformat.read(file, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def logic(source: str) -> list[str]:
    """What a cell has besides calls, names and loops, and whatever it does in a loop but show."""
    tree = ast.parse(source)
    beyond = [node for node in ast.walk(tree) if not isinstance(node, ALLOWED)]
    in_loops = [
        node
        for loop in ast.walk(tree)
        if isinstance(loop, ast.For)
        for node in [*loop.body, *loop.orelse]
        if not isinstance(node, ast.Expr)
    ]
    return [ast.unparse(node) for node in [*beyond, *in_loops]]


@pytest.mark.parametrize(
    "source",
    [
        "x = 1 + 1",
        "def f():\n    return 1",
        "class A:\n    pass",
        "x = [a for a in b]",
        "if a:\n    b()",
        "f = lambda: 1",
        "for a in b:\n    c = d(a)",
        "while a:\n    b()",
    ],
)
def test_logic_is_seen_where_there_is_some(source: str) -> None:
    assert logic(source)


def test_the_notebook_holds_no_logic() -> None:
    for cell in code_cells(notebook_cli.NOTEBOOK):
        assert logic(cell.source) == [], cell.source


def test_the_notebook_is_kept_as_it_was_executed_and_names_no_place() -> None:
    cells = code_cells(notebook_cli.NOTEBOOK)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = notebook_cli.NOTEBOOK.read_text()
    for place in (str(ROOT), str(Path.home()) + "/", "/tmp/", "site-packages"):
        assert place not in text


def test_the_notebook_that_is_kept_shows_the_newest_runs() -> None:
    kept = "".join(
        output.data.get("text/markdown", "")
        for cell in code_cells(notebook_cli.NOTEBOOK)
        for output in cell.outputs
    )
    published = tables.published_with(notebook.run_to_show(RESULTS))
    now = capacity_report.capacity_table(capacity_report.read_pooled(published).every)
    for shown in (notebook.crashes_of, notebook.micro_of, notebook.sensitivity_of):
        first = shown(RESULTS)[0]
        assert isinstance(first, Markdown)
        now.append(first.data.splitlines()[0])
    assert [line for line in now if line not in kept] == []


def executed(place: Path) -> list[Any]:
    """The code cells of a copy of the notebook after it ran beside ``place / "results"``."""
    (place / "notebooks").mkdir()
    copy = shutil.copy(notebook_cli.NOTEBOOK, place / "notebooks")
    own = {
        name: str(place / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench", "notebook", str(copy)],
        cwd=ROOT,
        env=os.environ | own | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return code_cells(Path(copy))


def test_every_cell_runs_and_shows_charts_and_tables(tmp_path: Path) -> None:
    results = tmp_path / "results"
    capacity_run(results / "20260101T000000Z_a", PUBLISHED)
    # A newer run that is not published must not be taken instead.
    capacity_run(results / "20260102T000000Z_b", QUICK, trials_max=5)
    options = sensitivity.Options(CASES, ["average", "peak"], 1, {})
    sensitivity_run(results / "20260103T000000Z_c", options, {"average": {}, "peak": {}})
    # Nor one of markets that are not B3's.
    extremes = sensitivity.Options(CASES, ["hot-symbol"], 1, {})
    sensitivity_run(results / "20260104T000000Z_d", extremes, {"hot-symbol": {}})
    cells = executed(tmp_path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data"}
    pictures = [output for output in outputs if "image/png" in output.data]
    assert len(pictures) == len(capacity_charts()) + 1
    text = "\n".join(output.data.get("text/markdown", "") for output in outputs)
    assert "20260101T000000Z_a" in text
    assert notebook.NOT_PUBLISHED not in text
    for part in (
        "| capacity at p99 ≤ 50 ms |",
        "| p99.9 ms |",
        "is limited by",
        "v1 < v2 < v3 is kept in 2 of 2 profiles",
    ):
        assert part in text
    assert str(tmp_path) not in (tmp_path / "notebooks" / "capacity.ipynb").read_text()


def capacity_charts() -> dict[str, str]:
    """The charts of a capacity run, by name."""
    from bench.capacity_report import CHARTS

    return CHARTS


def test_a_cell_that_fails_is_one_line_and_leaves_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.ipynb"
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(made, file)
    before = file.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "bench", "notebook", str(file)],
        cwd=ROOT,
        env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"{file}: ZeroDivisionError: division by zero\n"
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"no notebook", b"{}", b"[]", b"null", b"\xff\xfe"])
def test_what_is_no_notebook_is_one_line(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notebook.ipynb"
    if content is not None:
        file.write_bytes(content)
    assert notebook_cli.main([str(file)]) == 1
    line = capsys.readouterr().err
    assert line.startswith("FILE: ")
    assert line.count("\n") == 1


def test_without_a_published_run_the_newest_one_is_shown_and_said_to_be_none(
    tmp_path: Path,
) -> None:
    for name in ("20260101T000000Z_a", "20260102T000000Z_b"):
        capacity_run(tmp_path / name, QUICK, trials_max=3)
    run = notebook.run_to_show(tmp_path)
    assert run == tmp_path / "20260102T000000Z_b"
    said = notebook.conditions(run).data
    assert notebook.NOT_PUBLISHED in said
    assert "Not complete" in said
    assert "make bench-sensitivity" in notebook.sensitivity_of(tmp_path)[0].data


@pytest.mark.parametrize(
    ("shown", "target"),
    [(notebook.crashes_of, "make bench-crash"), (notebook.micro_of, "make bench-micro")],
)
def test_what_has_been_measured_besides_is_shown_with_its_pictures(
    shown: Callable[[Path], list[Any]], target: str, tmp_path: Path
) -> None:
    [missing] = shown(tmp_path)
    assert target in missing.data
    parts = shown(RESULTS)
    assert any(isinstance(part, Image) for part in parts)
    assert any(isinstance(part, Markdown) and "| " in part.data for part in parts)


def test_without_any_run_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="make bench-quick"):
        notebook.run_to_show(tmp_path)
