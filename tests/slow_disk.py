"""A case whose log is on a slow disk, so that a thread writes it.

``TEST_CASE=casev3 python -m tests.slow_disk``
"""

import os
import time
from importlib import import_module

from common.server import main
from common.wal.disk import SegmentFile
from common.wal.log import QUICK_MS

write = SegmentFile.write


def write_slowly(self: SegmentFile, offset: int, data: bytes) -> None:
    time.sleep(20 * QUICK_MS / 1000)
    write(self, offset, data)


if __name__ == "__main__":
    SegmentFile.write = write_slowly  # type: ignore[method-assign]
    app = import_module(f"{os.environ['TEST_CASE']}.app")
    main(app.open_exchange, stateless=app.STATELESS)
