"""The rules that make the comparison a comparison: one idea a diff, nothing else."""

import ast
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CASES = ("casev1", "casev2", "casev3")
DOCUMENTS = sorted(
    path for pattern in ("*.md", "[!.]*/README.md", "docs/*.md") for path in ROOT.glob(pattern)
)
PYTHON_FILES = ("__init__.py", "__main__.py", "app.py", "exchange.py")
HEADINGS = [
    "Idea",
    "Path of an order",
    "What it promises",
    "What it costs",
    "Measured",
    "Read in this order",
    "The diff",
]


def sources(*directories: str) -> list[Path]:
    return [path for name in directories for path in sorted((ROOT / name).rglob("*.py"))]


def label(path: Path) -> str:
    """The name of a parametrised test."""
    return f"{path.parent.name}/{path.name}"


def imports(path: Path) -> list[str]:
    """The absolute modules that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(node.module or "")
    return [name.partition(".")[0] for name in found]


def exchange_class(case: str) -> ast.ClassDef:
    tree = ast.parse((ROOT / case / "exchange.py").read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return found


def verbs(body: ast.ClassDef) -> list[str]:
    """The public methods of a class, each as its signature."""
    methods = (node for node in body.body if isinstance(node, ast.AsyncFunctionDef))
    return [
        f"{method.name}({ast.unparse(method.args)}) -> {ast.unparse(method.returns)}"
        for method in methods
        if not method.name.startswith("_") and method.returns
    ]


def numstat(one: str, other: str) -> list[tuple[str, int, int]]:
    """File, lines added and lines removed between two cases, as git counts them."""
    command = ["git", "diff", "--no-index", "--numstat", "--no-renames", one, other]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    rows = [line.split("\t") for line in output.splitlines() if "__pycache__" not in line]
    return [
        (Path(re.sub(r"{\w+ => (\w+)}", r"\1", name)).name, int(added), int(removed))
        for added, removed, name in rows
    ]


def test_the_cases_consist_of_the_same_files(case: str) -> None:
    names = {path.name for path in (ROOT / case).iterdir() if path.name != "__pycache__"}
    assert names == {*PYTHON_FILES, "README.md", "docker-compose.yml"}


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_starts_a_case_is_the_same_in_all(name: str) -> None:
    assert len({(ROOT / case / name).read_text() for case in CASES}) == 1


def test_the_exchanges_have_the_verbs_of_the_protocol_in_its_order() -> None:
    tree = ast.parse((ROOT / "common" / "exchange.py").read_text())
    [protocol] = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Exchange"
    ]
    for case in CASES:
        assert exchange_class(case).name == "Exchange"
        assert verbs(exchange_class(case)) == verbs(protocol)


@pytest.mark.parametrize("path", sources(*CASES), ids=label)
def test_a_case_imports_no_case_by_name_and_does_not_name_itself(path: Path) -> None:
    assert not set(imports(path)) & set(CASES)
    assert not re.search(r"case_?v?\d", path.read_text())


@pytest.mark.parametrize("path", sources("common"), ids=label)
def test_what_is_common_imports_no_case_and_no_harness(path: Path) -> None:
    assert not set(imports(path)) & {*CASES, "bench", "tests"}


@pytest.mark.parametrize("path", sources("bench"), ids=label)
def test_the_harness_speaks_to_the_cases_over_http_only(path: Path) -> None:
    assert not set(imports(path)) & {*CASES, "tests"}


@pytest.mark.parametrize("name", ["matching", "book", "expiry", "engine", "ledger", "model"])
def test_the_core_is_pure(name: str) -> None:
    path = ROOT / "common" / f"{name}.py"
    assert not set(imports(path)) & {
        "asyncio",
        "time",
        "os",
        "socket",
        "psycopg",
        "aiohttp",
        "random",
    }
    tree = ast.parse(path.read_text())
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]


def test_only_the_settings_read_the_environment() -> None:
    readers = [path.name for path in sources("common", *CASES) if "os.environ" in path.read_text()]
    # The supervisor passes its environment on; the embedded server asks where data belongs.
    assert sorted(readers) == ["postgres.py", "server.py", "settings.py"]


def test_only_what_speaks_http_knows_statuses() -> None:
    users = {path.name for path in sources("common", *CASES) if "HTTPStatus" in path.read_text()}
    assert users == {"api.py", "handlers.py", "reply.py"}


def test_the_readmes_teach_under_the_same_headings(case: str) -> None:
    text = (ROOT / case / "README.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert "```mermaid" in text


@pytest.mark.parametrize(("one", "other"), list(pairwise(CASES)))
def test_the_readmes_print_the_size_of_the_diff_that_there_is(one: str, other: str) -> None:
    sizes = {name: (added, removed) for name, added, removed in numstat(one, other)}
    for name in ("app.py", "exchange.py"):
        added, removed = sizes[name]
        row = f"| `{name}` | {added} | {removed} |"
        assert row in (ROOT / other / "README.md").read_text(), row
    assert set(sizes) <= {"app.py", "exchange.py", "README.md", "docker-compose.yml"}


def leads_somewhere(document: Path, link: str) -> bool:
    """Whether the file is there, and the heading in it. What is elsewhere is not looked at."""
    if "://" in link:
        return True
    name, _, heading = link.partition("#")
    target = document.parent / name if name else document
    return target.exists() and (not heading or heading in anchors(target))


def anchors(document: Path) -> set[str]:
    """The names by which the headings of a document can be linked to."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    assert [link for link in links if not leads_somewhere(document, link)] == []


def test_a_link_to_what_is_not_there_leads_nowhere() -> None:
    readme = ROOT / "README.md"
    assert leads_somewhere(readme, "docs/performance.md#the-engine")
    assert not leads_somewhere(readme, "docs/performance.md#the-motor")
    assert not leads_somewhere(readme, "docs/nothing.md")


def test_every_tracked_line_of_code_fits_beside_another_file() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources("common", "bench", "tests", *CASES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert too_long == []
