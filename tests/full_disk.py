"""A case whose log has short segments, on a disk that is full while there is a file ``full``.

It stands here because a test cannot fill a disk. ``TEST_CASE=casev3 python -m tests.full_disk``
"""

import errno
import os
from functools import partial
from importlib import import_module

from common.server import main
from common.wal import opening
from common.wal.disk import Directory
from common.wal.log import WriteAheadLog

SEGMENT_BYTES = 4096
FULL = "full"

create = Directory.create


def create_if_there_is_room(self: Directory, number: int, size: int) -> None:
    if (self.path / FULL).exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    create(self, number, size)


if __name__ == "__main__":
    Directory.create = create_if_there_is_room  # type: ignore[method-assign]
    opening.WriteAheadLog = partial(  # type: ignore[attr-defined, assignment]
        WriteAheadLog, segment_bytes=SEGMENT_BYTES
    )
    app = import_module(f"{os.environ['TEST_CASE']}.app")
    main(app.open_exchange, stateless=app.STATELESS)
