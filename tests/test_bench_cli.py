"""The command line: what it refuses, what a run leaves behind, and what Ctrl-C keeps."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor as Workers
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import pytest
from bench_records import commanded

from bench.load import DRAIN_S

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "perf_realistic.py"
FAKE = Path(__file__).with_name("test_bench_fake_exchange.py")


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


# What the service needs and bench/requirements.txt does not name.
ONLY_OF_THE_SERVICE = ("aiohttp", "prometheus_client", "sortedcontainers", "sqlalchemy")


def bench(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the harness, with modules from ``path`` first; its admin key is that of the fake."""
    environment = os.environ | {"EXCHANGE_ADMIN_API_KEY": "admin"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        command(*arguments),
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@contextmanager
def fake_exchange(*arguments: str) -> Iterator[str]:
    """The URL of a running fake."""
    process = subprocess.Popen(
        [sys.executable, str(FAKE), *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        with process:
            assert process.stdout
            yield f"http://localhost:{process.stdout.readline().strip()}"
            process.kill()
    finally:
        process.kill()


def only_run(results: Path) -> Path:
    (directory,) = results.iterdir()
    return directory


@pytest.mark.parametrize(
    ("arguments", "option", "allowed"),
    [
        (["--version", "v9"], "--version", "v1, v2, v3"),
        (["--version", "v3", "--scale", "0"], "--scale", "1 to 10000"),
        (["--version", "v3", "--scale", "nan"], "--scale", "1 to 10000"),
        (["--version", "v3", "--scale", "much"], "--scale", "1 to 10000"),
        (["--version", "v3", "--scale", "100", "100"], "--scale", "once"),
        (["--version", "v3", "--scale", "100", "300"], "--scale", "--spawn"),
        (["--version", "v3", "--profile", "x"], "--profile", "average"),
        (["--version", "v3", "--duration", "0"], "--duration", "1 to 3600"),
        (["--version", "v3", "--seed", "-1"], "--seed", "0 to"),
        (["--version", "v3", "--port", "0"], "--port", "1 to 65535"),
        (["--version", "v3", "--pins", "service=x"], "--pins", "service, generator, postgres"),
        ([], "--version", "required"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(
    arguments: list[str], option: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.cli import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1
    assert option in line
    assert allowed in line


def test_nothing_at_the_url_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    done = bench("--version", "v3", "--url", url, "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("--url: nothing answers at")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = bench("--version", "v3", "--spawn", "--port", port, "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--port" in done.stderr


def test_a_results_directory_that_cannot_be_written_is_known_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = bench("--version", "v3", "--out", file)
    assert done.returncode == 1
    assert done.stderr.startswith("--out: cannot write to")
    assert done.stderr.count("\n") == 1


def test_a_wrong_admin_key_is_one_line(tmp_path: Path) -> None:
    with fake_exchange() as url:
        done = bench("--version", "v3", "--url", url, "--admin-key", "no", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("--admin-key:")
    assert done.stderr.count("\n") == 1


def test_a_database_that_the_audit_could_not_read_is_known_before_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        database = f"postgresql://a:secret@127.0.0.1:{probe.getsockname()[1]}/x"
    monkeypatch.setenv("EXCHANGE_DATABASE_URL", database)
    with fake_exchange() as url:
        done = bench("--version", "v3", "--url", url, "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("EXCHANGE_DATABASE_URL: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


class Runs(NamedTuple):
    """Four runs; ``reused`` is a second one on the exchange of the first."""

    good: subprocess.CompletedProcess[str]
    reused: subprocess.CompletedProcess[str]
    lossy: subprocess.CompletedProcess[str]
    spawned: subprocess.CompletedProcess[str]
    results: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All at the same time, because each of them waits until its short orders have expired."""
    results = tmp_path_factory.mktemp("results")
    small = ("--version", "v3", "--scale", 5, "--duration", 1, "--url")
    spawn = ("--version", "v3", "--spawn", "--scale", 20, "--duration", 3)
    with fake_exchange() as url, fake_exchange("--lose") as lossy_url, Workers() as workers:
        few = without_the_packages_of_the_service(tmp_path_factory.mktemp("few"))
        good = workers.submit(bench, *small, url, "--seed", 7, "--out", results / "good", path=few)
        lossy = workers.submit(bench, *small, lossy_url, "--no-reads", "--out", results / "lossy")
        spawned = workers.submit(bench, *spawn, "--out", results / "spawned")
        good.result()
        reused = bench(*small, url, "--out", results / "reused")
        return Runs(good.result(), reused, lossy.result(), spawned.result(), results)


def without_the_packages_of_the_service(place: Path) -> Path:
    """A place to look for modules first so that these cannot be imported, by any process."""
    for package in ONLY_OF_THE_SERVICE:
        (place / f"{package}.py").write_text("raise ModuleNotFoundError(__name__)\n")
    return place


@pytest.mark.alone
def test_a_run_against_a_url_needs_few_packages_and_is_recorded(runs: Runs) -> None:
    done = runs.good
    assert "audit passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0 or "GENERATOR WAS THE LIMIT" in done.stdout
    assert "\033" not in done.stdout
    run = only_run(runs.results / "good")
    names = {path.name for path in run.iterdir()}
    assert {"meta.json", "summary.json", "report.md", "percentiles.svg", "samples"} <= names
    assert "--version says that it is casev3" in (run / "report.md").read_text()
    meta = json.loads((run / "meta.json").read_text())
    assert (meta["seed"], meta["scales"], meta["partial"]) == (7, [5.0], False)
    (summary,) = json.loads((run / "summary.json").read_text())
    assert summary["kinds"][-1]["errors"] == 0


@pytest.mark.alone
def test_charts_can_be_drawn_again_from_the_raw_data(runs: Runs) -> None:
    run = only_run(runs.results / "good")
    before = (run / "percentiles.svg").read_bytes()
    assert commanded("charts", run).returncode == 0
    assert (run / "percentiles.svg").read_bytes() == before


@pytest.mark.alone
def test_an_exchange_that_holds_orders_is_not_measured(runs: Runs) -> None:
    assert runs.reused.returncode == 1
    assert "--reset" in runs.reused.stderr
    assert runs.reused.stderr.count("\n") == 1


@pytest.mark.alone
def test_a_lost_order_fails_the_run(runs: Runs) -> None:
    assert runs.lossy.returncode == 1
    assert "AUDIT FAILED: every acknowledged order once" in runs.lossy.stdout


@pytest.mark.alone
def test_a_spawned_run_passes_its_audit(runs: Runs) -> None:
    done = runs.spawned
    assert "audit passed" in done.stdout, done.stdout + done.stderr
    assert "memory = database: trades" in done.stdout
    assert done.returncode == 0 or "GENERATOR WAS THE LIMIT" in done.stdout
    run = only_run(runs.results / "spawned")
    meta = json.loads((run / "meta.json").read_text())
    assert meta["postgres"]["settings"]["fsync"] == "on"
    (summary,) = json.loads((run / "summary.json").read_text())
    assert summary["cpu_us_per_request"].keys() >= {"generator"}


def interrupted(how: int, results: Path) -> None:
    """Stop a run in its measured part, and check what it leaves."""
    with fake_exchange() as url:
        arguments = ("--scale", 5, "--duration", 60, "--url", url, "--out", results)
        process = subprocess.Popen(
            command("--version", "v3", "--admin-key", "admin", *arguments),
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout
            for line in process.stdout:
                elapsed = re.search(r"(\d+) s of 60 s", line)
                if elapsed and int(elapsed[1]) > DRAIN_S:
                    break
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
            begin_s = time.monotonic()
            process.send_signal(how)
            rest = process.stdout.read()
            code = process.wait()
    assert code == 130
    assert time.monotonic() - begin_s < 10
    assert "PARTIAL" in rest
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    meta = json.loads((only_run(results) / "meta.json").read_text())
    assert meta["partial"]
    (summary,) = json.loads((only_run(results) / "summary.json").read_text())
    assert (summary["kinds"][-1]["errors"], summary["errors"]) == (0, {})


@pytest.mark.alone
def test_ctrl_c_keeps_what_there_is_and_leaves_no_process(tmp_path: Path) -> None:
    with Workers() as workers:
        list(
            workers.map(
                interrupted, [signal.SIGINT, signal.SIGTERM], [tmp_path / "1", tmp_path / "2"]
            )
        )


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties processes together on Linux")
def test_a_killed_harness_takes_service_and_database_along(tmp_path: Path) -> None:
    arguments = ("--version", "v3", "--spawn", "--scale", 5, "--duration", 60)
    before = data_directories()
    process = subprocess.Popen(
        command(*arguments, "--out", tmp_path), stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        for line in process.stdout:
            if "requests/s" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    # Only the data remains, which nobody was left to remove.
    for left in data_directories() - before:
        shutil.rmtree(left)
    assert not alive


def data_directories() -> set[Path]:
    """Where the harness keeps the databases of the services that it starts."""
    return set(Path(tempfile.gettempdir()).glob("mini-stock-exchange-bench-*"))
