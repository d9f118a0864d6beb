"""A case whose log is on a slow disk, so that a thread writes it.

``TEST_CASE=casev3 python -m tests.slow_disk``; a write takes ``TEST_DISK_S`` seconds.
"""

import os
import time
from importlib import import_module

from common.server import main
from common.wal.disk import SegmentFile
from common.wal.log import QUICK_MS

DISK_S = float(os.environ.get("TEST_DISK_S", 20 * QUICK_MS / 1000))

write = SegmentFile.write


def write_slowly(self: SegmentFile, offset: int, data: bytes) -> None:
    time.sleep(DISK_S)
    write(self, offset, data)


if __name__ == "__main__":
    SegmentFile.write = write_slowly  # type: ignore[method-assign]
    app = import_module(f"{os.environ['TEST_CASE']}.app")
    main(app.open_exchange, stateless=app.STATELESS)
