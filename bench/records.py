"""The record of a run: a directory that is written once and never changed.

meta.json          under which conditions it was measured
summary.json       all figures, one entry per trial
samples/NAME.npz   the raw requests of each trial
report.md          the tables and the exact command
*.svg, *.png       charts, which ``python -m bench charts DIR`` draws again
"""

import fcntl
import importlib.metadata
import io
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from bench.exchange_client import HarnessError
from bench.figures import Samples
from bench.service import ROOT
from bench.trial import Summary

T = TypeVar("T")
DEFAULT_DIRECTORY = ROOT / "results"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
_PACKAGES = (
    "aiohttp",
    "matplotlib",
    "msgspec",
    "numpy",
    "psycopg",
    "pytest-benchmark",
    "sortedcontainers",
    "SQLAlchemy",
    "uvloop",
)

# What a run that goes on later must not forget.
OF_THE_START = ("git", "machine", "python", "packages")

LIMITS = (
    "Service, database and load generator share one machine; they take CPU from each other.",
    "All connections are local: no network, no TLS.",
    "Latency includes the time a reply waits in the generator's socket until it is read.",
    "The traffic is an estimate of an average day on B3, not a recording.",
)
ONE_RUN = "One run; run-to-run variation is not shown."

# Runs that this process measures into, with the open directory that says so to others.
_claimed: dict[Path, int] = {}


def check_writable(results: Path) -> None:
    """Raise HarnessError unless run directories can be made in ``results``."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=results):
            pass
    except OSError as error:
        raise HarnessError(
            f"--out: cannot write to {results} ({error.strerror}); give a writable directory"
        ) from error


def new_directory(results: Path) -> Path:
    """Make ``<utc>_<gitsha>_<machine>`` there, with a number behind it if that exists, for this
    process alone."""
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{git_revision()}_{machine_slug(machine())}"
    number = 1
    while True:
        directory = results / (stem if number == 1 else f"{stem}-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
        else:
            claim(directory)
            return directory


NO_COMMIT, DIRTY = "nogit", "-dirty"


def git_revision() -> str:
    """The short commit, ``-dirty`` if files differ from it, or ``nogit``."""
    commit = _git("rev-parse", "--short", "HEAD")
    if commit is None:
        return NO_COMMIT
    return commit + (DIRTY if _git("status", "--porcelain", "--untracked-files=no") else "")


def is_commit(revision: str) -> bool:
    """Whether a revision says exactly what ran."""
    return revision != NO_COMMIT and not revision.endswith(DIRTY)


def machine() -> dict[str, Any]:
    """What is measured on; no host name, no path."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gb": round(memory_bytes / 1e9, 1),
        "system": platform.system(),
        # The version, without what a distributor or a host has added to it.
        "kernel": platform.release().partition("-")[0],
        "architecture": platform.machine(),
    }


def machine_slug(facts: Mapping[str, Any]) -> str:
    """Such as ``amd-epyc-7763-2c``, of what ``machine`` says."""
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", facts["cpu"].lower())
    return f"{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}-{facts['cores']}c"


def package_versions() -> dict[str, str]:
    """Of the packages that matter here and are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def meta(command: str, conditions: dict[str, Any]) -> dict[str, Any]:
    """The conditions of a run, those of this process included; they may give ``limits``."""
    return {
        "command": command,
        "git": git_revision(),
        "machine": machine(),
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "limits": list(LIMITS),
        **conditions,
    }


def provenance(directory: Path, command: str) -> dict[str, Any]:
    """``meta`` of a run that may go on later: that of its start, and of each resume what differs.

    Ask once for each time that it is worked on.
    """
    now, begun = meta(command, {}), _begun(directory)
    if not begun:
        return now
    start = {name: begun[name] for name in OF_THE_START if name in begun}
    differs = {name: now[name] for name in OF_THE_START if now[name] != begun.get(name)}
    again = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **differs}
    return now | start | {"resumes": [*_resumes(begun), again]}


def check_same_machine(directory: Path) -> None:
    """Raise HarnessError unless a run was begun on a machine such as this one."""
    begun, here = _begun(directory).get("machine"), machine()
    if begun is not None and any(begun[fact] != here[fact] for fact in ("cpu", "cores")):
        raise HarnessError(
            f"{directory}: was begun on {begun['cores']} cores of {begun['cpu']}, here are "
            f"{here['cores']} of {here['cpu']}; go on there, or begin a new run"
        )


def check_same_code(directory: Path) -> None:
    """Raise HarnessError unless all of a run was measured at the commit that is checked out."""
    begun, now = _begun(directory), git_revision()
    commits = [each["git"] for each in (begun, *_resumes(begun)) if "git" in each]
    if any(each != now for each in commits):
        raise HarnessError(
            f"{directory}: was measured at {', '.join(commits)}, this is {now}; begin a new run"
        )


def is_mixed(meta: dict[str, Any]) -> bool:
    """Whether a part of a run was measured with other code, packages or Python than its start."""
    return any(name in each for each in _resumes(meta) for name in OF_THE_START)


def claim(directory: Path) -> None:
    """Keep every other process from measuring into a run, for as long as this one lives.

    Raises HarnessError when another one has it already.
    """
    place = directory.resolve()
    if place in _claimed:
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HarnessError(
            f"{directory}: another process measures into it; wait until it has ended, or stop it"
        ) from None
    _claimed[place] = descriptor


def resume_lines(meta: dict[str, Any]) -> list[str]:
    """When a run went on, and what was not as at its start; items of Markdown."""
    return [
        f"- Resumed: {'; '.join(_different(name, value) for name, value in each.items())}."
        for each in _resumes(meta)
    ]


def _different(name: str, value: Any) -> str:
    match value:
        case dict():
            return f"{name}: {', '.join(f'{key} {each}' for key, each in value.items())}"
        case _:
            return f"{name} {value}"


def _resumes(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Each time that a run went on; before 2026-11-28 only the commit of the last was kept."""
    older = [{"git": meta["resumed_at"]}] if "resumed_at" in meta else []
    return [*older, *meta.get("resumes", [])]


def doubts(meta: dict[str, Any]) -> list[str]:
    """What a report says of a run that is not all it should be; paragraphs of Markdown."""
    said = {"partial": "**Not complete.**", "void": "**VOID: an audit failed.**"}
    return [line for name, text in said.items() if meta.get(name) for line in ("", text)]


def write_report(directory: Path, title: str, lines: Sequence[str]) -> None:
    """report.md: command and limits before the figures, and what went wrong behind them."""
    meta = read_meta(directory)
    report = [f"# {title}", "", "```", meta["command"], "```", "", "Limits:", ""]
    report += [f"- {limit}" for limit in meta["limits"]]
    report += [*doubts(meta), "", *lines, ""]
    faults = meta.get("faults", [])
    if faults:
        report += ["**What must not be:**", "", *(f"- {fault}" for fault in faults), ""]
    (directory / "report.md").write_text("\n".join(report))


def write_json(path: Path, content: Any) -> None:
    """Indented, so that people and ``diff`` can read it."""
    _write_whole(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def write_run(results: Path, file: str, content: Any, meta: dict[str, Any]) -> Path:
    """A run of one file, in a directory of its own; the directory."""
    directory = new_directory(results)
    write_json(directory / file, content)
    write_json(directory / "meta.json", meta)
    return directory


def layout_of(directory: Path) -> str | None:
    """The layout that a run directory names; None when it names none or is no run."""
    return _said(directory, "layout")


def command_of(directory: Path) -> str | None:
    """The command with which a run was begun; None when nothing is written of it yet."""
    return _said(directory, "command")


def _said(directory: Path, name: str) -> str | None:
    return _begun(directory).get(name)


def _begun(directory: Path) -> dict[str, Any]:
    """What meta.json says; nothing when there is none that can be read."""
    try:
        return read_meta(directory)
    except HarnessError:
        return {}


def read_lines(
    directory: Path, layout: str, options: type[Any], file: str, kind: type[T]
) -> list[T]:
    """The records of a run, one in a line. Raises HarnessError when it is none, or not whole."""
    read_options(directory, layout, options)
    return lines_of(directory / file, kind)


def lines_of(file: Path, kind: type[T]) -> list[T]:
    """The records of a file, one in a line. Raises HarnessError, with the line that is none."""
    found: list[T] = []
    try:
        for line in file.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                raise HarnessError(
                    f"{file}: line {len(found) + 1} is cut off; remove it to go on with the "
                    f"{len(found)} before it"
                )
            found.append(msgspec.json.decode(line, type=kind))
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read: {error}") from None
    except msgspec.MsgspecError as error:
        raise HarnessError(f"{file}: line {len(found) + 1} cannot be read: {error}") from None
    return found


def read_meta(directory: Path) -> dict[str, Any]:
    """The conditions of a run. Raises HarnessError when they cannot be read."""
    return read_json(directory / "meta.json", dict[str, Any])


def read_json(file: Path, kind: type[T]) -> T:
    """What ``write_json`` wrote. Raises HarnessError when that cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise HarnessError(f"{file}: cannot be read: {error}") from error


def append_line(directory: Path, file: str, record: Any) -> None:
    """One record more, behind those that are there."""
    with (directory / file).open("ab") as lines:
        lines.write(msgspec.json.encode(record) + b"\n")


def read_options(directory: Path, layout: str, kind: type[T]) -> T:
    """What a run was asked for. Raises HarnessError when it is none of this layout."""

    class Meta(msgspec.Struct):
        layout: str
        options: msgspec.Raw

    if not directory.is_dir():
        raise HarnessError(f"{directory}: no such run")
    try:
        meta = msgspec.json.decode((directory / "meta.json").read_bytes(), type=Meta)
        if meta.layout == layout:
            return msgspec.json.decode(meta.options, type=kind)
        other = f" ({meta.layout})"
    except (OSError, msgspec.MsgspecError):
        other = ""
    raise HarnessError(f"{directory}: results directory from another layout{other}")


def write_samples(directory: Path, name: str, samples: Samples) -> None:
    """Milliseconds and seconds in single precision: 0.1 ms is exact enough for any run."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        intended_s=samples.intended_s.astype(np.float32),
        latency_ms=samples.latency_ms.astype(np.float32),
        lag_ms=samples.lag_ms.astype(np.float32),
        kind=samples.kind.astype(np.uint8),
        outcome=samples.outcome.astype(np.int16),
        waited=samples.waited.astype(np.uint8),
    )
    (directory / "samples").mkdir(exist_ok=True)
    _write_whole(_samples_file(directory, name), content.getvalue())


def has_samples(directory: Path, name: str) -> bool:
    """Whether the raw requests of a trial are kept; those of a long run are only in part."""
    return _samples_file(directory, name).exists()


def read_samples(directory: Path, name: str) -> Samples:
    """The inverse of ``write_samples``. Raises HarnessError when they cannot be read."""
    file = _samples_file(directory, name)
    try:
        # Opened here, because numpy leaves a file open that is no archive.
        with file.open("rb") as content, np.load(content) as arrays:
            intended_s = arrays["intended_s"].astype(np.float64)
            return Samples(
                intended_s,
                intended_s + arrays["lag_ms"].astype(np.float64) / 1e3,
                intended_s + arrays["latency_ms"].astype(np.float64) / 1e3,
                arrays["kind"].astype(np.int64),
                arrays["outcome"].astype(np.int64),
                arrays["waited"].astype(np.int64),
            )
    except _UNREADABLE as error:
        raise HarnessError(f"{file}: these samples cannot be read: {error}") from error


def read_summaries(directory: Path) -> list[Summary]:
    """The figures of a run. Raises HarnessError when there are none."""
    if not directory.is_dir():
        raise HarnessError(f"{directory}: no such run")
    try:
        content = (directory / "summary.json").read_bytes()
        return msgspec.json.decode(content, type=list[Summary])
    except (OSError, msgspec.MsgspecError) as error:
        raise HarnessError(f"{directory} holds no results: {error}") from error


def _samples_file(directory: Path, name: str) -> Path:
    return directory / "samples" / f"{name}.npz"


def _write_whole(path: Path, content: bytes) -> None:
    """All or nothing, also for whoever kills this process."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    beside.replace(path)


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    """From /proc/cpuinfo on Linux, sysctl on macOS, else what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return platform.processor() or platform.machine()
        if done.returncode == 0:
            return done.stdout.strip()
    return platform.processor() or platform.machine()
