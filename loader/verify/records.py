"""Reading a shard's records again, many at a time: frames, checksums, envelopes, number and length."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from loader.verify.findings import Findings
from schemas.errors import TokenmillError
from schemas.record import CorruptRecord, decode_example, frame_examples, read_records, record_size

Tokens = npt.NDArray[np.uint16 | np.int32]
_BLOCK_BYTES = 8 << 20
_FOOTER_BYTES = 4


class RecordFormat:
    """What all records of a view have in common.

    capacity: sequence_length + 1 tokens. size: framed bytes. head: the bytes before the tokens, alike in every record.
    """

    def __init__(self, sequence_length: int, token_dtype: str) -> None:
        self.capacity = sequence_length + 1
        self.dtype = np.dtype(token_dtype).newbyteorder("<")
        self.size = record_size(sequence_length, self.dtype)
        framed = frame_examples(np.zeros((1, self.capacity), self.dtype))
        self.head = framed[: self.size - _FOOTER_BYTES - self.capacity * self.dtype.itemsize]
        self._crc_from = 12  # the payload begins after the frame's header

    def read(self, findings: Findings, path: Path, records: int) -> Iterator[tuple[int, Tokens]]:
        """(index of the first record, tokens [n, capacity]) of each block of a shard.

        A file that is no series of `records` such records is reported, and Malformed ends the reading; a record whose
        checksum differs is reported and given as it stands.
        """
        if path.stat().st_size != records * self.size:
            self._explain(path, records)
        a_block = max(1, _BLOCK_BYTES // self.size)
        with open(path, "rb", buffering=0) as file:
            for first in range(0, records, a_block):
                count = min(a_block, records - first)
                block = np.fromfile(file, np.uint8, count * self.size).reshape(count, self.size)
                if not (block[:, : len(self.head)] == np.frombuffer(self.head, np.uint8)).all():
                    self._explain(path, records)
                findings.each(
                    path,
                    (f"record {record} is altered: its checksum differs" for record in first + self._altered(block)),
                )
                tokens = block[:, len(self.head) : -_FOOTER_BYTES]
                yield first, np.ascontiguousarray(tokens).view(self.dtype)
                findings.checked["records"] += count

    def _altered(self, block: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        value = google_crc32c.value
        crcs = np.array([value(row) for row in block[:, self._crc_from : -_FOOTER_BYTES]], np.uint32)
        masked = ((crcs >> np.uint32(15)) | (crcs << np.uint32(17))) + np.uint32(0xA282EAD8)  # TFRecord's mask
        stored = np.ascontiguousarray(block[:, -_FOOTER_BYTES:]).view("<u4")[:, 0]
        return np.flatnonzero(masked != stored)

    def _explain(self, path: Path, records: int) -> None:
        """Raise Malformed with what is wrong, reading record by record."""
        count = 0
        with io.FileIO(path) as file:
            try:
                for payload in read_records(file):
                    tokens = decode_example(payload, self.dtype)
                    if len(tokens) != self.capacity:
                        raise Malformed(f"record {count} holds {len(tokens)} tokens, not {self.capacity}")
                    count += 1
            except CorruptRecord as error:
                raise Malformed(str(error).removeprefix(f"{path}: ")) from None
        raise Malformed(f"holds {count:,} whole records, the manifest states {records:,}")


class Malformed(TokenmillError):
    """A shard that is no series of records of its view; the message does not name the file."""
