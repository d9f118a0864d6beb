"""A case whose log has short segments, and which breaks while there is a file in its directory:
``full`` leaves no room for segments, ``crowded`` none for names and for more than half of a record;
with ``broken`` no write succeeds, with ``bug`` no flush does; a stop that has answered everybody
makes ``answered``, and goes no further while there is ``slow``.

It stands here because a test cannot do this to a disk. ``TEST_CASE=casev3 python -m tests.faulty``
"""

import asyncio
import errno
import os
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from pathlib import Path

from common.api import Api
from common.server import main
from common.wal import opening
from common.wal.disk import Directory, SegmentFile
from common.wal.log import WriteAheadLog
from common.writer import Writer

SEGMENT_BYTES = 4096
FULL, CROWDED, BROKEN, BUG = "full", "crowded", "broken", "bug"
SLOW, ANSWERED = "slow", "answered"

create, put, write = Directory.create, Directory._put, SegmentFile.write
make_ready, drained = Writer._make_ready, Api.drained


def place_of(fault: str) -> Path:
    return Path(os.environ["EXCHANGE_WAL_DIR"]) / fault


def there_is(fault: str) -> bool:
    return place_of(fault).exists()


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def create_if_there_is_room(self: Directory, number: int, size: int) -> None:
    if there_is(FULL):
        raise failure(errno.ENOSPC)
    create(self, number, size)


def put_if_there_is_room(self: Directory, path: Path, pieces: Iterable[bytes]) -> None:
    if there_is(CROWDED):
        raise failure(errno.ENOSPC)
    put(self, path, pieces)


def write_if_it_works(self: SegmentFile, offset: int, data: bytes) -> None:
    if there_is(BROKEN):
        raise failure(errno.EIO)
    if there_is(CROWDED):
        write(self, offset, data[: len(data) // 2])
        raise failure(errno.ENOSPC)
    write(self, offset, data)


def make_ready_or_not(self: Writer) -> None:
    if there_is(BUG):
        raise KeyError("a bug")
    make_ready(self)


async def drained_slowly(self: Api, patience_s: float) -> None:
    await drained(self, patience_s)
    place_of(ANSWERED).touch()
    while there_is(SLOW):  # noqa: ASYNC110 - a file tells nobody that it has gone
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    Directory.create = create_if_there_is_room  # type: ignore[method-assign]
    Directory._put = put_if_there_is_room  # type: ignore[method-assign]
    SegmentFile.write = write_if_it_works  # type: ignore[method-assign]
    Writer._make_ready = make_ready_or_not  # type: ignore[method-assign]
    Api.drained = drained_slowly  # type: ignore[method-assign]
    opening.WriteAheadLog = partial(  # type: ignore[attr-defined, assignment]
        WriteAheadLog, segment_bytes=SEGMENT_BYTES
    )
    app = import_module(f"{os.environ['TEST_CASE']}.app")
    main(app.open_exchange, stateless=app.STATELESS)
