"""What the READMEs say was measured is what the records say."""

import json
from pathlib import Path

import pytest

from bench.service import ROOT
from bench.tables import READMES, measured, newest, updated


@pytest.mark.parametrize("name", READMES)
def test_the_readmes_show_the_newest_published_runs(name: str) -> None:
    readme = ROOT / name
    assert readme.read_text() == updated(readme, READMES[name])


@pytest.mark.parametrize("name", READMES)
def test_every_link_into_the_results_leads_somewhere(name: str) -> None:
    readme = ROOT / name
    links = [part.split(")")[0] for part in readme.read_text().split("](")[1:]]
    assert [link for link in links if "results/" in link and not missing(readme, link)] == [
        link for link in links if "results/" in link
    ]


def missing(readme: Path, link: str) -> bool:
    return not (readme.parent / link).exists()


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


def test_a_case_without_a_run_says_so(tmp_path: Path) -> None:
    assert "No run is published yet" in measured(["v2"], ROOT / "README.md", tmp_path)
