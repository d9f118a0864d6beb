"""CPU seconds and memory by process, from /proc: the service, and each role of PostgreSQL."""

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# What a PostgreSQL process calls itself after "postgres: ", and the name of its role here.
_ROLES = (
    ("checkpointer", "checkpointer"),
    ("background writer", "background writer"),
    ("walwriter", "WAL writer"),
    ("autovacuum", "autovacuum"),
    ("io worker", "I/O workers"),
    ("logical replication", "other"),
)
POSTGRES = "postgres "  # what the names of its roles begin with


class _Process(NamedTuple):
    parent: int
    own_ticks: int
    ended_ticks: int  # of its children that are gone
    resident_pages: int


def cpu_seconds(service_pid: int, postmaster_pid: int | None) -> dict[str, float]:
    """CPU used so far by name: ``service``, ``postgres backends``, … Empty without /proc.

    The service counts with its child processes, and what has ended counts with its parent; ended
    children of PostgreSQL were backends.
    """
    processes = _all_processes()
    used: Counter[str] = Counter()
    for pid in _family(processes, service_pid):
        used["service"] += processes[pid].own_ticks + processes[pid].ended_ticks
    for pid in _family(processes, postmaster_pid) if postmaster_pid else ():
        used[POSTGRES + _role(pid, postmaster_pid)] += processes[pid].own_ticks
        used[POSTGRES + "backends"] += processes[pid].ended_ticks
    return {name: ticks / os.sysconf("SC_CLK_TCK") for name, ticks in used.items()}


def resident_bytes(pid: int) -> int:
    """The memory that a process and its descendants hold; 0 without /proc."""
    processes = _all_processes()
    pages = sum(processes[each].resident_pages for each in _family(processes, pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def role_of(title: str) -> str:
    """The role of a PostgreSQL process by its title, ``postgres: walwriter`` for example."""
    words = title.removeprefix("postgres: ")
    return next((role for start, role in _ROLES if words.startswith(start)), "backends")


def _role(pid: int, postmaster_pid: int | None) -> str:
    if pid == postmaster_pid:
        return "postmaster"
    with contextlib.suppress(OSError):
        return role_of(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return "backends"


def _all_processes() -> dict[int, _Process]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of the program stands in parentheses and may contain anything.
            fields = path.read_text().rpartition(")")[2].split()
            ticks = [int(field) for field in fields[11:15]]
            found[int(path.parent.name)] = _Process(
                int(fields[1]), ticks[0] + ticks[1], ticks[2] + ticks[3], int(fields[21])
            )
    return found


def _family(processes: dict[int, _Process], root_pid: int) -> set[int]:
    """A process and its descendants, those that are alive."""
    family = {root_pid} & processes.keys()
    while grown := {pid for pid, each in processes.items() if each.parent in family} - family:
        family |= grown
    return family
