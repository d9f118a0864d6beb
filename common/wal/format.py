"""The bytes of the log. Pure.

A segment begins with a header; batches follow, and zeros to its end. A batch is what one sync makes
durable, so it is valid as a whole or not at all: a checksum for each record would only save a part
of what nobody was told of. Each batch names the checksum before it and has one of its own, which
covers all of it. So a batch is known to be whole wherever it is found, and to belong where it
stands only if it continues the one before.

All integers are little-endian::

    header  magic 8 | exchange 16 | sequence before the first record 8 | chain 4 | checksum 4
    batch   magic 4 | length of the payload 4 | last sequence 8 | chain 4 | checksum 4 | payload

``chain`` is the checksum of the batch or header before, CRC-32 as in zlib. The payload is the
MessagePack array of the records.
"""

from collections.abc import Iterator, Sequence
from struct import Struct as Layout
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from common.ids import ID_BYTES
from common.model import NewOrder, Order, OrderType, Side

SEGMENT_MAGIC = b"MSELOG1\n"
BATCH_MAGIC = b"\x00BT\xff"
_HEADER = Layout("<8s16sQI")
_BATCH = Layout("<4sIQI")
_CHECKSUM = Layout("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
BATCH_HEAD_BYTES = _BATCH.size + _CHECKSUM.size
# No record is longer: texts have at most 32 characters of 4 bytes and an id of 64 bytes, and the
# rest is numbers.
RECORD_MAX_BYTES = 370


class Submission(Struct, frozen=True, array_like=True, tag="order", gc=False):
    """A new order was accepted."""

    sequence: int
    now_us: int
    order_id: bytes
    broker_id: bytes
    document_number: str
    side: Side
    order_type: OrderType
    symbol: str
    price: int | None
    quantity: int
    valid_until_us: int | None
    client_order_id: str | None = None

    def order(self) -> Order:
        """The order as it entered the engine."""
        asked = NewOrder(
            self.document_number,
            self.side,
            self.order_type,
            self.symbol,
            self.price,
            self.quantity,
            self.valid_until_us,
            self.client_order_id,
        )
        return asked.accepted(
            order_id=int.from_bytes(self.order_id),
            sequence=self.sequence,
            broker_id=int.from_bytes(self.broker_id),
            now_us=self.now_us,
        )


class Cancellation(Struct, frozen=True, array_like=True, tag="cancel", gc=False):
    """An open order was closed by its owner."""

    sequence: int
    now_us: int
    order_id: bytes


Record = Submission | Cancellation


class Header(NamedTuple):
    """The beginning of a segment. ``checksum`` begins the chain of its batches."""

    exchange: bytes
    after_sequence: int
    chain: int
    checksum: int


class Batch(NamedTuple):
    """What one sync made durable. ``end`` is the offset behind it."""

    last_sequence: int
    chain: int
    checksum: int
    payload: bytes
    end: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])


def submission(order: Order) -> Submission:
    """The record of an order that has just been accepted."""
    return Submission(
        order.sequence,
        order.created_at_us,
        order.id.to_bytes(ID_BYTES),
        order.broker_id.to_bytes(ID_BYTES),
        order.document_number,
        order.side,
        order.order_type,
        order.symbol,
        order.price,
        order.quantity,
        order.valid_until_us,
        order.client_order_id,
    )


def cancellation(sequence: int, now_us: int, order_id: int) -> Cancellation:
    """The record of a cancel."""
    return Cancellation(sequence, now_us, order_id.to_bytes(ID_BYTES))


def header(exchange: bytes, after_sequence: int, chain: int) -> tuple[bytes, int]:
    """The header of a segment, and the checksum with which its chain begins."""
    fields = _HEADER.pack(SEGMENT_MAGIC, exchange, after_sequence, chain)
    checksum = crc32(fields)
    return fields + _CHECKSUM.pack(checksum), checksum


def payload(records: Sequence[Record]) -> bytes:
    """The records as they stand in a batch."""
    return _encoder.encode(records)


def batch(payload: bytes, last_sequence: int, chain: int) -> tuple[bytes, int]:
    """A batch, and its checksum."""
    fields = _BATCH.pack(BATCH_MAGIC, len(payload), last_sequence, chain)
    checksum = crc32(payload, crc32(fields))
    return b"".join((fields, _CHECKSUM.pack(checksum), payload)), checksum


def read_header(segment: bytes) -> Header | None:
    """The header at the start of a segment, None when there is none that is whole."""
    if len(segment) < HEADER_BYTES:
        return None
    magic, exchange, after_sequence, chain = _HEADER.unpack_from(segment)
    [checksum] = _CHECKSUM.unpack_from(segment, _HEADER.size)
    if magic != SEGMENT_MAGIC or checksum != crc32(segment[: _HEADER.size]):
        return None
    return Header(exchange, after_sequence, chain, checksum)


def read_batch(segment: bytes, offset: int) -> Batch | None:
    """The batch at an offset, None when there is none that is whole."""
    start = offset + BATCH_HEAD_BYTES
    if len(segment) < start:
        return None
    magic, length, last_sequence, chain = _BATCH.unpack_from(segment, offset)
    [checksum] = _CHECKSUM.unpack_from(segment, offset + _BATCH.size)
    end = start + length
    if magic != BATCH_MAGIC or end > len(segment):
        return None
    payload = segment[start:end]
    if checksum != crc32(payload, crc32(segment[offset : offset + _BATCH.size])):
        return None
    return Batch(last_sequence, chain, checksum, payload, end)


def find_batch(segment: bytes, offset: int) -> int | None:
    """Where the next whole batch begins, at the offset or behind it; None when there is none."""
    while (offset := segment.find(BATCH_MAGIC, offset)) >= 0:
        if read_batch(segment, offset) is not None:
            return offset
        offset += 1
    return None


def records_of(found: Batch) -> list[Record]:
    """The records of a batch. Raises ValueError when it holds something else."""
    return _decoder.decode(found.payload)


def batches(segment: bytes, chain: int) -> Iterator[Batch]:
    """The batches behind the header, as far as each continues the one before."""
    offset = HEADER_BYTES
    while (found := read_batch(segment, offset)) is not None and found.chain == chain:
        yield found
        offset, chain = found.end, found.checksum
