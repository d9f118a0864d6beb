"""Reading a log: what it holds, where it was torn, and whether it is damaged."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from common.wal import format
from common.wal.disk import Disk
from common.wal.format import HEADER_BYTES, Batch, Header, Record
from common.wal.log import End, Tail, Written


class Damaged(Exception):
    """The log is not as it was written, and not because a write was cut short."""


class Foreign(Damaged):
    """The log is of another exchange."""


class SegmentSummary(NamedTuple):
    """A segment as it was found.

    ``header`` is None for one that was prepared and never begun. Between ``used`` and ``torn`` lie
    the bytes of a last write that was cut short, unless it is ``damaged`` behind ``used``.
    """

    number: int
    size: int
    header: Header | None
    batches: int
    records: int
    last_sequence: int
    used: int
    torn: int
    damaged: bool = False


@dataclass
class Scan:
    """Goes through a log from its oldest segment on.

    ``chain``, ``last_sequence`` and ``tail`` are those of the end, once all has been read.
    """

    disk: Disk
    chain: int = 0
    last_sequence: int = 0
    exchange: bytes | None = None
    tail: Tail | None = None
    segments: list[SegmentSummary] = field(default_factory=list)

    def records(self) -> Iterator[Record]:
        """All records in order. Raises Damaged, OSError."""
        numbers = self.disk.numbers()
        if not numbers:
            return
        for number, expected in zip(numbers, range(numbers[0], numbers[-1] + 1), strict=False):
            if number != expected:
                raise Damaged(f"segment {expected} is missing")
            yield from self._segment(number)

    def _segment(self, number: int) -> Iterator[Record]:
        data = self.disk.read(number)
        header = format.read_header(data)
        found, records, end = list[Batch](), 0, 0
        try:
            if header is not None:
                self._check_continues(number, header)
                self.exchange, self.chain = header.exchange, header.checksum
                self.last_sequence = max(self.last_sequence, header.after_sequence)
                end = HEADER_BYTES
                for batch in format.batches(data, header.checksum):
                    for record in self._records_of(number, end, batch):
                        records += 1
                        self.last_sequence = record.sequence
                        yield record
                    found.append(batch)
                    self.chain, end = batch.checksum, batch.end
            # Without a header it was prepared and never begun, or its first write was cut short.
            self._check_nothing_follows(number, data, end)
        except Damaged:
            self._note(number, data, header, found, records, damaged=True)
            raise
        self._note(number, data, header, found, records)
        if header is not None:
            # The header was written with the first batch.
            start = found[-2].end if len(found) > 1 else 0
            self.tail = Tail(number, start, data[start:end])

    def _records_of(self, number: int, offset: int, batch: Batch) -> list[Record]:
        try:
            records = format.records_of(batch)
        except ValueError as error:
            raise Damaged(f"segment {number}, byte {offset}: {error}") from None
        sequences = [record.sequence for record in records]
        if sequences != list(range(self.last_sequence + 1, batch.last_sequence + 1)):
            raise Damaged(
                f"segment {number}, byte {offset}: its records are not those from "
                f"{self.last_sequence + 1} to {batch.last_sequence}"
            )
        return records

    def _check_continues(self, number: int, header: Header) -> None:
        if self.exchange is not None and header.exchange != self.exchange:
            raise Damaged(f"segment {number} is of another exchange than the one before")
        if self.segments and header.chain != self.chain:
            raise Damaged(
                f"segment {number} does not continue the one before, which has lost its end"
            )

    def _check_nothing_follows(self, number: int, data: bytes, offset: int) -> None:
        """A write was cut short only if nothing was written after it."""
        follows = format.find_batch(data, offset)
        if follows is not None:
            raise Damaged(
                f"segment {number}, byte {offset}: damaged, and valid again from byte {follows} on"
            )

    def _note(
        self,
        number: int,
        data: bytes,
        header: Header | None,
        found: list[Batch],
        records: int,
        *,
        damaged: bool = False,
    ) -> None:
        used = found[-1].end if found else HEADER_BYTES if header else 0
        self.segments.append(
            SegmentSummary(
                number=number,
                size=len(data),
                header=header,
                batches=len(found),
                records=records,
                last_sequence=self.last_sequence,
                used=used,
                torn=max(used, len(data.rstrip(b"\0"))),
                damaged=damaged,
            )
        )


def recover(disk: Disk, exchange: bytes, stored_sequence: int) -> tuple[list[Record], End]:
    """What the database, which reaches to ``stored_sequence``, lacks; and where to go on.

    Raises Damaged, also when the log is of another exchange or misses records, and OSError.
    """
    scan = Scan(disk)
    missing = [record for record in scan.records() if record.sequence > stored_sequence]
    if scan.exchange not in (None, exchange):
        raise Foreign("it was written for another database")
    first = missing[0].sequence if missing else scan.last_sequence + 1
    if scan.last_sequence > stored_sequence and first != stored_sequence + 1:
        raise Damaged(
            f"it begins with record {first}, but the database reaches to {stored_sequence} only"
        )
    for before, after in pairwise(missing):
        # It went on behind a database that was further then than it is now.
        if after.sequence != before.sequence + 1:
            raise Damaged(
                f"its record {before.sequence} is followed by {after.sequence}, but the database "
                f"reaches to {stored_sequence} only"
            )
    # Those at the end that were prepared and never begun are prepared anew, else each start would
    # leave one more.
    kept = list(scan.segments)
    while kept and kept[-1].header is None:
        kept.pop()
    written = [Written(each.number, each.last_sequence) for each in kept]
    number = scan.segments[0].number + len(kept) - 1 if scan.segments else 0
    last_sequence = max(scan.last_sequence, stored_sequence)
    return missing, End(scan.chain, last_sequence, written, number, scan.tail)


def finish_reset(disk: Disk, needed_id: UUID | None) -> bool:
    """Whether the database, which needs a log of this name, was emptied and the log was not; now it
    is. Raises OSError, ValueError."""
    if needed_id is None or disk.announced() != needed_id:
        return False
    # Processes of casev1 may do this at the same time.
    with suppress(FileNotFoundError):
        for number in disk.numbers():
            disk.remove(number)
        disk.begin_again()
    return disk.announced() is None or finish_reset(disk, needed_id)


def settle(disk: Disk, end: End) -> None:
    """Write the last write again. Raises OSError.

    Where it had failed, it may have been read from the system's memory, and the disk may not have
    it: after a power failure the log would have lost its end in the middle.
    """
    if end.tail is None:
        return
    file = disk.open(end.tail.number)
    try:
        file.write(end.tail.offset, end.tail.data)
    finally:
        file.close()
