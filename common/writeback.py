"""Have the kernel write bit by bit what it would write all at once.

What PostgreSQL adds to its files stays in the page cache for half a minute. Then the kernel writes
all of it together, tens of megabytes, and every commit and every record of a log waits behind them.
Root can have it done otherwise, for all of a machine, with ``vm.dirty_background_bytes``.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_S = 0.5


@contextmanager
def spread(directory: Path) -> Iterator[None]:
    """Write out the file system of a directory again and again until the block ends.

    Does nothing where the system has no call for that. Raises OSError for no directory.
    """
    write_out = getattr(ctypes.CDLL(None), "syncfs", None)
    if write_out is None:
        yield
        return
    file_system = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stop = threading.Event()

    def again_and_again() -> None:
        while not stop.wait(EVERY_S):
            write_out(file_system)

    thread = threading.Thread(target=again_and_again, name="writeback", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(file_system)
