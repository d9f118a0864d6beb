"""The directory of a log, and all that the log asks of a disk."""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

from common.errors import StartError

SUFFIX = ".wal"
_DIGITS = 12
_NAME, _NEXT_NAME = "id", "next-id"
_CHUNK = bytes(1 << 20)


class File(Protocol):
    """A segment that is being written."""

    def write(self, offset: int, data: bytes) -> None:
        """Write, and return when it is durable. Raises OSError; nothing is known about it then."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """Segments by number. Methods may be called from any thread, and raise OSError."""

    def numbers(self) -> list[int]:
        """Of all segments that are complete, ascending."""
        ...

    def read(self, number: int) -> bytes: ...

    def create(self, number: int, size: int) -> None:
        """A segment of so many zeros, there as a whole and durable, or as it was before."""
        ...

    def open(self, number: int) -> File: ...

    def remove(self, number: int) -> None: ...

    def announce(self) -> UUID:
        """The name that the log will have when it begins again."""
        ...

    def announced(self) -> UUID | None:
        """That name, until the log has begun again."""
        ...

    def begin_again(self) -> None:
        """What was removed is gone for good, and the name that was announced is that of the log."""
        ...


class SegmentFile:
    """A segment of a directory."""

    def __init__(self, path: Path) -> None:
        # What was allocated and written before needs no change of the file's own data, so that
        # one write to it is one write to the disk.
        self._file = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written

    def close(self) -> None:
        os.close(self._file)


class Directory:
    """The disk as it is: one file a segment, for the owner's eyes only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log_id(self) -> UUID | None:
        """By which a database knows the log in here, None if none was ever. Raises OSError,
        ValueError."""
        return self._name_in(_NAME)

    def rename(self) -> UUID:
        """Give the log in here a new name, so that no copy has the same. Raises OSError."""
        return self._new_name_in(_NAME)

    def announce(self) -> UUID:
        return self._new_name_in(_NEXT_NAME)

    def announced(self) -> UUID | None:
        return self._name_in(_NEXT_NAME)

    def begin_again(self) -> None:
        self._sync_names()
        (self.path / _NEXT_NAME).rename(self.path / _NAME)
        self._sync_names()

    def numbers(self) -> list[int]:
        names = (path.name.removesuffix(SUFFIX) for path in self.path.glob(f"*{SUFFIX}"))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def read(self, number: int) -> bytes:
        return self.path_of(number).read_bytes()

    def create(self, number: int, size: int) -> None:
        path = self.path_of(number)
        if path.exists() and path.read_bytes() == bytes(size):
            # Prepared in an earlier life and never begun: a full disk may have no room for another.
            self._sync_names()
            return
        # Zeros and not a hole: the first write to a hole would have to find room for it.
        self._put(path, (_CHUNK[: size - start] for start in range(0, size, len(_CHUNK))))

    def open(self, number: int) -> SegmentFile:
        return SegmentFile(self.path_of(number))

    def remove(self, number: int) -> None:
        self.path_of(number).unlink()

    def path_of(self, number: int) -> Path:
        return self.path / f"{number:0{_DIGITS}d}{SUFFIX}"

    def _name_in(self, name: str) -> UUID | None:
        try:
            return UUID((self.path / name).read_text().strip())
        except FileNotFoundError:
            return None  # processes of casev1 may rename it at the same time
        except ValueError:
            raise ValueError(f"its file {name} holds none") from None

    def _new_name_in(self, name: str) -> UUID:
        log_id = uuid4()
        self._put(self.path / name, [f"{log_id}\n".encode()])
        return log_id

    def _put(self, path: Path, pieces: Iterable[bytes]) -> None:
        """A file of these, there as a whole and durable, or as it was before. Raises OSError."""
        draft = path.with_suffix(".new")
        try:
            with open(draft, "wb", opener=_private) as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()  # gives the room back that is missing
            raise
        self._sync_names()

    def _sync_names(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[Directory]:
    """The directory, made if it is not there, for this process alone, or ``shared`` with others
    that add nothing to it. Raises StartError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"EXCHANGE_WAL_DIR: {path} cannot be used: {error.strerror or error}"
        ) from None
    try:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            raise StartError(
                f"EXCHANGE_WAL_DIR: {path} is in use by another exchange: stop it, or name another"
            ) from None
        if not shared:
            for draft in path.glob("*.new"):  # what a crash has left half made
                draft.unlink()
        yield Directory(path)
    finally:
        os.close(lock)
