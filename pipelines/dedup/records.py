"""The packed records that travel between the steps of deduplication, and how they are split and read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.jobs import Run
from schemas import storage

ROW_BITS = 32
_ROW_MASK = np.uint64((1 << ROW_BITS) - 1)

# Fields: doc, u, v, kept, cluster are document numbers; u < v. earlier: of an earlier run, so kept whatever comes.
RANK = [("earlier", "?"), ("source_priority", "<i4"), ("quality", "<f8"), ("length", "<i8")]
EXACT = np.dtype([("hash0", "<u8"), ("hash1", "<u8"), ("doc", "<u8"), *RANK])
BAND = np.dtype([("key", "<u8"), ("doc", "<u8"), ("sketch", "<u8")])
EDGE = np.dtype([("u", "<u8"), ("v", "<u8")])
COPY = np.dtype([("doc", "<u8"), ("kept", "<u8")])
LABEL = np.dtype([("doc", "<u8"), ("cluster", "<u8")])
SIZE = np.dtype([("cluster", "<u8"), ("size", "<i8")])
DROP = np.dtype([("doc", "<u8"), ("kept", "<u8"), ("jaccard", "<f4"), ("exact", "?"), ("cluster", "<u8")])

Records = npt.NDArray[np.void]


def member(permutations: int) -> np.dtype[np.void]:
    """A cluster's member with its signature."""
    return np.dtype([("cluster", "<u8"), ("doc", "<u8"), *RANK, ("signature", "<u4", (permutations,))])


def signed(permutations: int) -> np.dtype[np.void]:
    """A document number with its signature."""
    return np.dtype([("doc", "<u8"), ("signature", "<u4", (permutations,))])


def numbers(task: int, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Document numbers of rows of one unit."""
    return (np.uint64(task) << np.uint64(ROW_BITS)) | rows.astype(np.uint64)


def task_of(doc: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The unit (task number) of document numbers."""
    return (doc >> np.uint64(ROW_BITS)).astype(np.int64)


def row_of(doc: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The row of document numbers in their unit."""
    return (doc & _ROW_MASK).astype(np.int64)


def in_range(key: npt.NDArray[np.uint64], ranges: int) -> npt.NDArray[np.int64]:
    """Which of `ranges` equal parts of the 64-bit key space a key falls in."""
    return (((key >> np.uint64(32)) * np.uint64(ranges)) >> np.uint64(32)).astype(np.int64)


def spread(document: npt.NDArray[np.uint64], ranges: int) -> npt.NDArray[np.int64]:
    """Spread document numbers evenly over ranges by a multiplicative hash (Knuth, TAOCP 3, 6.4)."""
    return in_range(document * np.uint64(0x9E3779B97F4A7C15), ranges)


def split(records: Records, destination: npt.NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """Blocks of records by destination, ascending; order within a block is kept."""
    order = np.argsort(destination, kind="stable")
    sorted_destination = destination[order]
    present, starts = np.unique(sorted_destination, return_index=True)
    for number, part in zip(present, np.split(records[order], starts[1:]), strict=False):
        yield int(number), part.tobytes()


def join(blocks: Iterable[bytes], dtype: np.dtype[np.void]) -> Records:
    """Blocks laid end to end as records."""
    return np.frombuffer(b"".join(blocks), dtype)


def save(run: Run, path: str, records: Records) -> None:
    """Commit records as a .npy work file."""

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            np.save(file, records, allow_pickle=False)

    run.commit(path, write)


def count_records(run: Run, folder: str, dtype: np.dtype[np.void]) -> int:
    """Records in all .npy work files of a folder, told by their sizes: none is read.

    The head of a .npy file is as long for many records as for none.
    """
    head = io.BytesIO()
    np.save(head, np.empty(0, dtype), allow_pickle=False)
    sizes = storage.sizes_in(run.work(folder))
    held = [size - head.tell() for name, size in sizes.items() if name.endswith(".npy")]
    return sum(held) // dtype.itemsize


def load(path: str) -> Records:
    """Records of a .npy work file."""
    with storage.open_read(path) as file:
        records: Records = np.load(file, allow_pickle=False)
    return records


def fixed_binary(column: pa.ChunkedArray, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """A fixed-size binary column as an array [rows, width / itemsize]."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        for chunk in column.chunks
        if len(chunk)
    ]
    data = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    return data.view(dtype).reshape(len(column), width // np.dtype(dtype).itemsize)
