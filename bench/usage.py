"""What a service uses while something runs: memory and CPU, a few times a second."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import cpu
from bench.cpu import POSTGRES
from bench.service import Place, Service

LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class Look:
    """One look: memory of the service, and CPU seconds used so far, as ``bench/cpu.py`` says."""

    at_s: float
    resident_mb: float
    cpu_s: dict[str, float]


@dataclass
class Used:
    """All looks; instants are monotonic seconds."""

    looks: list[Look] = field(default_factory=list)

    def resident_mb(self, origin_s: float) -> list[tuple[float, float]]:
        """Megabytes by seconds after the origin."""
        return [(look.at_s - origin_s, look.resident_mb) for look in self.looks]

    def cpu_s(self, from_s: float, until_s: float) -> dict[str, float]:
        """CPU seconds of the service and of PostgreSQL between two instants; the looks nearest to
        them decide. Empty with less than two looks."""
        if len(self.looks) < 2:
            return {}
        first, last = (
            min(self.looks, key=lambda look: abs(look.at_s - instant))
            for instant in (from_s, until_s)
        )
        spent = {name: seconds - first.cpu_s.get(name, 0.0) for name, seconds in last.cpu_s.items()}
        postgres = sum(seconds for name, seconds in spent.items() if name.startswith(POSTGRES))
        return {"service": spent.get("service", 0.0), "postgres": postgres}


@contextmanager
def watching(place: Place) -> Iterator[Used]:
    """Look until the block ends. Nothing is seen of a service that is not ours."""
    used, stop = Used(), threading.Event()

    def watch(service: Service) -> None:
        while not stop.wait(LOOK_EVERY_S):
            resident = cpu.resident_bytes(service.process.pid)
            if resident:
                look = Look(time.monotonic(), resident / 1e6, service.cpu_seconds())
                used.looks.append(look)

    if place.service is None:
        yield used
        return
    thread = threading.Thread(target=watch, args=(place.service,), daemon=True)
    thread.start()
    try:
        yield used
    finally:
        stop.set()
        thread.join()
