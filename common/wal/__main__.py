"""``python -m common.wal inspect|verify DIR``: a log for people.

``inspect`` lists the segments and the last records, ``verify`` says in one line whether the log is
whole. Both only read, also while an exchange writes. Exit code 0, 1 when the log is damaged, 2 for
wrong arguments, such as a directory without a log.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from common.ids import format_id
from common.model import to_datetime
from common.wal.disk import SUFFIX, Directory
from common.wal.format import Cancellation, Record
from common.wal.recovery import Damaged, Scan, SegmentSummary

LAST_RECORDS = 10
TRIES, AGAIN_S = 3, 0.05
_COLUMNS = "{:>8}  {:>10}  {:>12}  {:>12}  {:>8}  {:>8}  {:>10}  {}"


def main(given: Sequence[str]) -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m common.wal", description=__doc__)
    parser.add_argument("action", choices=("inspect", "verify"))
    parser.add_argument("directory", type=Path, metavar="DIR", help="EXCHANGE_WAL_DIR")
    asked = parser.parse_args(given)
    if not asked.directory.is_dir():
        parser.error(f"DIR: {asked.directory} is no directory")
    directory = Directory(asked.directory)
    if not directory.numbers():
        parser.error(f"DIR: {asked.directory} holds no log; there is no *{SUFFIX}")
    scan, last, damage = scanned(directory)
    if asked.action == "inspect":
        for line in inspected(scan.segments, last):
            print(line)
    print(damage or whole(scan))
    return int(damage is not None)


def scanned(directory: Directory) -> tuple[Scan, Sequence[Record], str | None]:
    """What was read, the last records, and what is wrong.

    A segment may be written, or go, while it is read; what is damaged stays so.
    """
    for _ in range(TRIES):
        scan, last = Scan(directory), deque[Record](maxlen=LAST_RECORDS)
        try:
            last.extend(scan.records())
        except Damaged as error:
            damage = f"damaged: {error}"
        except OSError as error:
            damage = f"cannot be read: {error}"
        else:
            return scan, last, None
        time.sleep(AGAIN_S)
    return scan, last, damage


def whole(scan: Scan) -> str:
    """That nothing is wrong, and what was cut short."""
    records = sum(segment.records for segment in scan.segments)
    torn = sum(segment.torn - segment.used for segment in scan.segments)
    cut = f"; {torn:,} bytes of a write that was cut short" if torn else ""
    return (
        f"whole: {records:,} records in {len(scan.segments)} segments, "
        f"up to sequence {scan.last_sequence:,}{cut}"
    )


def inspected(segments: Sequence[SegmentSummary], last: Sequence[Record]) -> list[str]:
    """A line for each segment, then one for each of the last records."""
    heads = ("segment", "bytes", "after", "to", "batches", "records", "used", "state")
    lines = [_COLUMNS.format(*heads)]
    for each in segments:
        after = f"{each.header.after_sequence:,}" if each.header else "-"
        cut = each.torn - each.used
        state = f"cut short: {cut:,} bytes" if cut else "whole" if each.header else "not begun"
        if each.damaged:
            state = f"damaged after byte {each.used:,}"
        figures = (each.size, after, each.last_sequence, each.batches, each.records, each.used)
        texts = [one if isinstance(one, str) else f"{one:,}" for one in figures]
        lines.append(_COLUMNS.format(each.number, *texts, state))
    lines += ["", f"last {len(last)} records:", *(described(record) for record in last), ""]
    return lines


def described(record: Record) -> str:
    """One record in a line."""
    at = to_datetime(record.now_us).isoformat(timespec="microseconds")
    order = format_id(int.from_bytes(record.order_id))
    if isinstance(record, Cancellation):
        return f"{record.sequence:>12,}  {at}  cancel {order}"
    price = "at any price" if record.price is None else f"at {record.price:,} cents"
    return (
        f"{record.sequence:>12,}  {at}  order  {order}  {record.side} {record.quantity:,} "
        f"{record.symbol} {price}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
