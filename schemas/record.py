"""The record: `sequence_length + 1` tokens as a tf.train.Example in a TFRecord frame, written and read by
hand.

The Example has one feature, `tokens`, with one bytes value: the tokens as little-endian uint16, or int32 when
the vocabulary needs it. For one length its protobuf envelope is constant, so records of a length have one
size and can be encoded in bulk. TFRecord frame: uint64 length, uint32 masked crc32c of the length, payload,
uint32 masked crc32c of the payload, all little-endian (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt

from schemas.errors import TokenmillError

FEATURE = b"tokens"

Tokens = npt.NDArray[np.uint16 | np.int32]

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# From the outside in: Example.features, Features.feature (a map entry, which begins with its key), the
# entry's value, Feature.bytes_list, BytesList.value. Each is followed by its length and reaches to the end.
_FIELDS = (b"\x0a", b"\x0a", b"\x0a" + bytes([len(FEATURE)]) + FEATURE + b"\x12", b"\x0a", b"\x0a")


class CorruptRecord(TokenmillError):
    """Bytes that are no whole record: truncated, altered, or not of this format."""


def token_dtype(vocab_size: int) -> np.dtype[np.uint16 | np.int32]:
    """The dtype ids 0…vocab_size-1 are stored in: little-endian uint16 if they fit, else int32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


def record_size(sequence_length: int, dtype: npt.DTypeLike) -> int:
    """Framed bytes of one record of sequence_length + 1 tokens."""
    size = (sequence_length + 1) * np.dtype(dtype).itemsize
    return _HEADER_BYTES + len(_envelope(size)) + size + _FOOTER_BYTES


def encode_example(tokens: Tokens) -> bytes:
    """The serialized tf.train.Example that holds `tokens`, a vector of uint16 or int32.

    The bytes are those of protobuf's own deterministic serialization. Raises ValueError for another dtype or
    shape.
    """
    value = _little_endian(tokens, dimensions=1).tobytes()
    return _envelope(len(value)) + value


def decode_example(data: bytes, dtype: npt.DTypeLike) -> Tokens:
    """The tokens of an Example that `encode_example` made, as a read-only view into `data`.

    dtype: uint16 or int32, as the manifest says. Raises CorruptRecord for any other bytes.
    """
    rest = memoryview(data)
    for field in _FIELDS:
        if rest[: len(field)] != field:
            raise CorruptRecord(
                f"not a record of tokens: byte {len(data) - len(rest)} of the Example must begin {field!r}"
            )
        length, used = _read_varint(rest[len(field) :])
        rest = rest[len(field) + used :]
        if length != len(rest):
            raise CorruptRecord(
                f"not a record of tokens: a field of {length} bytes must fill the {len(rest)} bytes left"
            )
    stored = np.dtype(dtype).newbyteorder("<")
    if len(rest) % stored.itemsize:
        raise CorruptRecord(f"a record of {len(rest)} token bytes holds no whole number of {stored} tokens")
    tokens: Tokens = np.frombuffer(rest, dtype=stored)
    return tokens


def frame(payload: bytes) -> bytes:
    """`payload` in a TFRecord frame."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _masked_crc(length), payload, _masked_crc(payload)))


def frame_examples(tokens: Tokens) -> bytes:
    """The framed records of a matrix of tokens, one a row, end to end: frame(encode_example(row)) for every
    row.

    tokens: uint16 or int32 [n, sequence_length + 1]. Returns n · record_size bytes, without a copy per
    record.
    """
    values = _little_endian(tokens, dimensions=2)
    count, size = values.shape[0], values.shape[1] * values.itemsize
    envelope = _envelope(size)
    length = struct.pack("<Q", len(envelope) + size)
    head = np.frombuffer(length + _masked_crc(length) + envelope, dtype=np.uint8)
    records = np.empty((count, head.size + size + _FOOTER_BYTES), dtype=np.uint8)
    records[:, : head.size] = head
    records[:, head.size : head.size + size] = values.view(np.uint8)
    envelope_crc = google_crc32c.value(envelope)
    crcs = [google_crc32c.extend(envelope_crc, row) for row in values.view(np.uint8)]
    records[:, head.size + size :] = _mask(np.array(crcs, dtype=np.uint32))[:, None].view(np.uint8)
    return records.tobytes()


def write_records(file: BinaryIO, payloads: Iterable[bytes]) -> int:
    """Write each payload in a TFRecord frame; returns the number of records."""
    count = 0
    for payload in payloads:
        file.write(frame(payload))
        count += 1
    return count


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """The payloads of a TFRecord file, from where it stands to its end, both checksums checked.

    Raises CorruptRecord, naming the file, the record's index and its byte offset, where a record is cut short
    or its checksum differs. A file cut between two records cannot be told from a whole one: compare counts
    with the manifest.
    """
    name = getattr(file, "name", "a stream")
    index = offset = 0
    while header := _read_fully(file, _HEADER_BYTES):
        where = f"{name}: record {index} at byte {offset}"
        if len(header) < _HEADER_BYTES:
            raise CorruptRecord(f"{where} is cut short: its header has {len(header)} of {_HEADER_BYTES} bytes")
        if _masked_crc(header[:8]) != header[8:]:
            raise CorruptRecord(f"{where} has an altered header: the checksum of its length differs")
        (length,) = struct.unpack("<Q", header[:8])
        body = _read_fully(file, length + _FOOTER_BYTES)
        if len(body) < length + _FOOTER_BYTES:
            raise CorruptRecord(
                f"{where} is cut short: {len(body)} of {length + _FOOTER_BYTES} bytes follow its header"
            )
        payload = body[:length]
        if _masked_crc(payload) != body[length:]:
            raise CorruptRecord(f"{where} is altered: the checksum of its {length} bytes differs")
        yield payload
        index += 1
        offset += _HEADER_BYTES + len(body)


def end_checksums(file: BinaryIO, size: int, records: int) -> str:
    """The stored checksums of the first and of the last record of a shard of `records` records of `size` framed
    bytes: 16 hex digits, of 8 bytes read.

    Shards of a view are alike in size, and their frames are sound wherever they lie; this tells them apart.
    """
    stored = b""
    for end in (size, records * size):
        file.seek(end - _FOOTER_BYTES)
        stored += _read_fully(file, _FOOTER_BYTES)
    return stored.hex()


@lru_cache(maxsize=64)
def _envelope(size: int) -> bytes:
    """The bytes of an Example before its value of `size` bytes, built from the inside out."""
    envelope = b""
    for field in reversed(_FIELDS):
        envelope = field + varint(len(envelope) + size) + envelope
    return envelope


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, lowest first, the high bit set on all but the
    last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview) -> tuple[int, int]:
    """(value, bytes used) of the varint `data` begins with; (-1, 0) if it is no shortest varint of at most 5
    bytes."""
    value = 0
    for used, byte in enumerate(data[:5], start=1):
        value |= (byte & 0x7F) << 7 * (used - 1)
        if byte < 0x80:
            return (value, used) if byte or used == 1 else (-1, 0)
    return -1, 0


def _mask(crc: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """TFRecord's mask: a crc that is stored in data which is itself summed is rotated by 15 bits and
    shifted."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _little_endian(tokens: Tokens, dimensions: int) -> Tokens:
    if tokens.dtype.newbyteorder("=") not in (np.uint16, np.int32) or tokens.ndim != dimensions:
        raise ValueError(
            f"tokens must be uint16 or int32 [{dimensions} dimension(s)], not {tokens.dtype} {tokens.shape}"
        )
    return np.ascontiguousarray(tokens, dtype=tokens.dtype.newbyteorder("<"))


def _read_fully(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file: one read of an unbuffered file may return less."""
    data = file.read(size)
    while 0 < len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data
