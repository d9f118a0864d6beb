"""A case that writes down the pauses of its garbage collector: ``python -m bench.paused_case``.

``PAUSED_CASE`` is its package, ``PAUSED_COLLECTOR`` one of ``COLLECTORS``, ``PAUSED_FILE`` gets a
line for each pause when the service has ended.
"""

import gc
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from common.garbage import Collector
from common.server import main as serve


def _as_it_is(_: Collector) -> None:
    pass


def _frozen(_: Collector) -> None:
    gc.collect()
    gc.freeze()


# What is done when a case has loaded its state.
COLLECTORS: dict[str, Callable[[Collector], None]] = {
    "python": _as_it_is,
    "frozen": _frozen,
    "served": Collector.spare,
}


class Diary:
    """The pauses so far: when each ended, in monotonic seconds, which generation was looked at, and
    how many seconds of CPU it took, so that a core that is taken away meanwhile is no pause."""

    def __init__(self) -> None:
        self.pauses: list[tuple[float, int, float]] = []
        self._began_s = 0.0

    def note(self, phase: str, info: dict[str, int]) -> None:
        """For ``gc.callbacks``."""
        if phase == "start":
            self._began_s = time.thread_time()
        else:
            took_s = time.thread_time() - self._began_s
            self.pauses.append((time.monotonic(), info["generation"], took_s))

    def write(self, file: Path) -> None:
        file.write_text("".join(f"{at} {looked} {took}\n" for at, looked, took in self.pauses))


def main() -> None:
    """Serve the case as it serves by itself."""
    diary = Diary()
    gc.callbacks.append(diary.note)
    Collector.spare = COLLECTORS[os.environ["PAUSED_COLLECTOR"]]  # type: ignore
    app = import_module(f"{os.environ['PAUSED_CASE']}.app")
    try:
        serve(app.open_exchange, stateless=app.STATELESS)
    finally:
        diary.write(Path(os.environ["PAUSED_FILE"]))


if __name__ == "__main__":
    main()
