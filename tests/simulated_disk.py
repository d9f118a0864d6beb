"""A disk that keeps what it was told to keep, and after a crash a random part of the rest."""

import errno
from collections.abc import Callable
from random import Random
from uuid import UUID, uuid4

SECTOR_BYTES = 512


def no_crash(step: int) -> bool:
    return False


class SimulatedDisk:
    """What ``common/wal/disk.py`` asks of a disk.

    ``crashes(n)`` says whether the power fails in the n-th change. What was under way then is there
    in part: of a write any of its sectors, of a new segment or a removal all or nothing. From then
    on everything fails; ``after_crash`` is the disk as the next start finds it.
    """

    def __init__(
        self, chance: Random | None = None, crashes: Callable[[int], bool] = no_crash
    ) -> None:
        self.segments: dict[int, bytearray] = {}
        self.changes = 0
        self.failure: int | None = None
        # Why there is no room for one segment more, if there is none.
        self.full: int | None = None
        # Why there is no room for more than half of a write, if there is none.
        self.crowded: int | None = None
        # The segment that cannot be removed.
        self.locked: int | None = None
        self.writes: list[bytes] = []
        self.log_id = uuid4()
        self.next_id: UUID | None = None
        self._chance = chance or Random(1)
        self._crashes = crashes
        self._off = False

    def after_crash(self) -> "SimulatedDisk":
        found = SimulatedDisk(self._chance)
        found.segments = {number: bytearray(data) for number, data in self.segments.items()}
        found.log_id, found.next_id = self.log_id, self.next_id
        return found

    def numbers(self) -> list[int]:
        return sorted(self.segments)

    def read(self, number: int) -> bytes:
        return bytes(self.segments[number])

    def create(self, number: int, size: int) -> None:
        if self.full is not None:
            raise OSError(self.full, "no room")
        if self._change() or self._chance.random() < 0.5:
            self.segments[number] = bytearray(size)
        self._check()

    def open(self, number: int) -> "SimulatedFile":
        return SimulatedFile(self, number)

    def remove(self, number: int) -> None:
        if number == self.locked:
            raise OSError(errno.EACCES, "permission denied")
        if self._change() or self._chance.random() < 0.5:
            del self.segments[number]
        self._check()

    def announce(self) -> UUID:
        next_id = uuid4()
        if self._change() or self._chance.random() < 0.5:
            self.next_id = next_id
        self._check()
        return next_id

    def announced(self) -> UUID | None:
        return self.next_id

    def begin_again(self) -> None:
        assert self.next_id is not None
        if self._change() or self._chance.random() < 0.5:
            self.log_id, self.next_id = self.next_id, None
        self._check()

    def write(self, number: int, offset: int, data: bytes) -> None:
        whole = self._change()
        segment = self.segments.get(number, bytearray(offset + len(data)))
        assert offset + len(data) <= len(segment), "nothing is written behind the end"
        if self.crowded is not None:
            half = data[: len(data) // 2]
            segment[offset : offset + len(half)] = half
            raise OSError(self.crowded, "no room")
        start = offset
        while start < offset + len(data):
            end = min(start - start % SECTOR_BYTES + SECTOR_BYTES, offset + len(data))
            if whole or self._chance.random() < 0.5:
                segment[start:end] = data[start - offset : end - offset]
            start = end
        self._check()
        self.writes.append(data)

    def _change(self) -> bool:
        """Whether the next change is done as a whole."""
        if self._off:
            raise OSError(errno.EIO, "the disk is off")
        if self.failure is not None:
            raise OSError(self.failure, "the disk says no")
        self.changes += 1
        self._off = self._crashes(self.changes)
        return not self._off

    def _check(self) -> None:
        if self._off:
            raise OSError(errno.EIO, "the power has failed")


class CachedDisk(SimulatedDisk):
    """A disk behind the memory of a system, which keeps what a failed write has left there."""

    def __init__(self) -> None:
        super().__init__()
        self.on_disk: dict[int, bytearray] = {}

    def create(self, number: int, size: int) -> None:
        super().create(number, size)
        self.on_disk[number] = bytearray(size)

    def write(self, number: int, offset: int, data: bytes) -> None:
        self.segments[number][offset : offset + len(data)] = data
        super().write(number, offset, data)
        self.on_disk[number][offset : offset + len(data)] = data

    def after_power_failure(self) -> SimulatedDisk:
        self.segments = self.on_disk
        return self.after_crash()


class SimulatedFile:
    """A segment of a simulated disk."""

    def __init__(self, disk: SimulatedDisk, number: int) -> None:
        self._disk = disk
        self._number = number

    def write(self, offset: int, data: bytes) -> None:
        self._disk.write(self._number, offset, data)

    def close(self) -> None:
        pass
