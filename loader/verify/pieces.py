"""The pieces of all records, brought to the units their documents are in.

A record's tokens lie in one file, the tokens they must equal in another, anywhere in the run. While the shards are
read in order, every piece (a document's span in a record) is appended to the spill file of its *bucket*: consecutive
units with at most `BUCKET_TOKENS` tokens together, or one unit. A bucket is then checked on its own, so memory is one
bucket's tokens and pieces, and the disk holds 48 bytes a piece, a few percent of the view (the Grace hash join:
Kitsuregawa, Tanaka & Moto-oka, 1983).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loader.verify.ids import IntArray

BUCKET_TOKENS = 1 << 25

# unit: its number; row: of the document in its unit; start, length: tokens of the document; shard: its number in the
# view; record: its row there; at: where in the record the piece begins; sequence: of the component, in its split.
PIECE = np.dtype(
    {
        "names": ["unit", "row", "start", "length", "shard", "record", "at", "repeat", "sequence"],
        "formats": ["<i4", "<i4", "<i8", "<i4", "<i4", "<i8", "<i4", "<i4", "<i8"],
    }
)
Pieces = npt.NDArray[np.void]


class Spill:
    """Pieces by bucket, in files of a folder. tokens: of each unit, int64 [units]."""

    def __init__(self, folder: Path, tokens: IntArray) -> None:
        self._folder = folder
        self._bucket = _buckets(tokens.tolist())

    @property
    def buckets(self) -> int:
        """How many there are."""
        return int(self._bucket[-1]) + 1 if len(self._bucket) else 0

    def units(self, bucket: int) -> range:
        """The units of a bucket."""
        first, end = np.searchsorted(self._bucket, [bucket, bucket + 1]).tolist()
        return range(first, end)

    def add(self, pieces: Pieces) -> None:
        """Append a shard's pieces to their buckets, in order."""
        bucket = self._bucket[pieces["unit"]]
        by_bucket = np.argsort(bucket, kind="stable")
        found, starts = np.unique(bucket[by_bucket], return_index=True)
        for number, part in zip(found.tolist(), np.split(pieces[by_bucket], starts[1:]), strict=False):
            with open(self._path(number), "ab") as file:
                file.write(part.tobytes())

    def read(self, bucket: int, at_once: int) -> Iterator[Pieces]:
        """A bucket's pieces, in the order of shards, records and places."""
        path = self._path(bucket)
        if not path.exists():
            return
        with open(path, "rb") as file:
            while len(pieces := np.fromfile(file, PIECE, at_once)):
                yield pieces

    def _path(self, bucket: int) -> Path:
        return self._folder / f"pieces-{bucket:06d}"


def _buckets(tokens: list[int]) -> IntArray:
    """The bucket of each unit."""
    bucket, room = -1, 0
    chosen = []
    for count in tokens:
        if bucket < 0 or count > room:
            bucket, room = bucket + 1, BUCKET_TOKENS
        room -= count
        chosen.append(bucket)
    return np.array(chosen, np.int64)
