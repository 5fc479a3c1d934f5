"""Flat arrays on disk: one zarr3 array for each dtype of a process, encoded and decoded by TensorStore.

All pieces of a dtype lie one after another in one array, so that a process writes few files whatever the model is.
A file (a zarr3 shard) holds up to 32 MiB in chunks of 1 MiB: bitshuffle and LZ4 (blosc), then a crc32c of each chunk.
Bitshuffle puts the slow bits of neighbouring exponents together, which is what can be compressed of trained numbers.

The metadata is ours to the last byte, in reading as in writing: TensorStore is never given what a checkpoint says.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore as ts

from trainer.checkpoint import files
from trainer.checkpoint.records import FileSum

FILE_BYTES, CHUNK_BYTES = 32 << 20, 1 << 20
LARGEST_FILE = FILE_BYTES + (1 << 16)  # where nothing can be compressed: headers, sums, and the index of the chunks
METADATA = "zarr.json"
WRITERS = 4  # files under way at a time: while one waits for the disk the others are encoded
UPLOADS = 16  # the same where they are put on gs://, and wait longer

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("bfloat16", "float16", "float32", "float64"),
    )
}
"""What can be saved, by the name zarr3 has for it."""


@dataclass(frozen=True, slots=True)
class Grid:
    """How a flat array of `elements` > 0 is cut: elements of a chunk, elements of a file, number of files."""

    dtype: str
    elements: int

    @property
    def chunk(self) -> int:
        """Elements of a chunk."""
        return min(CHUNK_BYTES // DTYPES[self.dtype].itemsize, self.elements)

    @property
    def file(self) -> int:
        """Elements of a file, a multiple of the chunk's."""
        return self.chunk * min(FILE_BYTES // CHUNK_BYTES, math.ceil(self.elements / self.chunk))

    @property
    def files(self) -> int:
        """Number of data files."""
        return math.ceil(self.elements / self.file)

    @property
    def names(self) -> list[str]:
        """Paths of all files below the process's folder."""
        return [f"{self.dtype}/{METADATA}", *self.names_of(0, self.elements)]

    def names_of(self, begin: int, end: int) -> list[str]:
        """Paths of the data files that hold elements [begin, end), of which there is one at least."""
        return [f"{self.dtype}/c/{i}" for i in range(begin // self.file, math.ceil(end / self.file))]

    @property
    def metadata(self) -> dict[str, Any]:
        """The array's zarr3 metadata."""
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        blosc = {
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "bitshuffle",
            "typesize": DTYPES[self.dtype].itemsize,
            "blocksize": 0,
        }
        sharding = {
            "chunk_shape": [self.chunk],
            "codecs": [little, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.elements],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.file]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": False if self.dtype == "bool" else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }

    @property
    def metadata_bytes(self) -> bytes:
        """The text of zarr.json, the only one that is accepted when it is read."""
        return json.dumps(self.metadata, indent=1).encode()

    def store(self, kvstore: dict[str, str]) -> Any:
        """The array as a TensorStore. `assume_metadata`: nothing is read to open it."""
        spec = {
            "driver": "zarr3",
            "kvstore": kvstore,
            "metadata": self.metadata,
            "store_data_equal_to_fill_value": True,
        }
        return ts.open(spec, open=True, assume_metadata=True, context=ts.Context()).result()


def write(folder: str, buffers: Mapping[str, np.ndarray]) -> dict[str, FileSum]:
    """Write flat arrays by dtype to `folder`/<dtype>, to stay; returns the sums of their files.

    An empty array has no files.

    Raises:
        OSError, TokenmillError: the disk is full, or the filesystem or the service refuses.
    """

    def put(name: str, data: bytes) -> FileSum:
        files.write_synced(os.path.join(folder, name), data)
        return FileSum(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def encode(grid: Grid, store: Any, index: int) -> FileSum:
        begin, end = index * grid.file, min(grid.elements, (index + 1) * grid.file)
        part = buffers[grid.dtype][begin:end]
        store[begin:end].write(part, can_reference_source_data_indefinitely=True).result()
        key = f"c/{index}"
        data = store.kvstore.read(key).result().value
        store.kvstore.delete_range(ts.KvStore.KeyRange(key, key + "\0")).result()
        return put(f"{grid.dtype}/{key}", data)

    grids = [Grid(dtype, buffer.size) for dtype, buffer in buffers.items() if buffer.size]
    with ThreadPoolExecutor(UPLOADS if files.is_remote(folder) else WRITERS, "checkpoint") as pool:
        running: dict[str, Future[FileSum]] = {}
        for grid in grids:
            files.make_folder(os.path.join(folder, grid.dtype, "c"))
            store = grid.store({"driver": "memory"})
            metadata, *data_files = grid.names
            running[metadata] = pool.submit(put, metadata, grid.metadata_bytes)
            for index, name in enumerate(data_files):
                running[name] = pool.submit(encode, grid, store, index)
        try:
            return {name: future.result() for name, future in running.items()}
        finally:
            for future in running.values():
                future.cancel()  # after a failure nothing more is begun


def read(folder: str, grid: Grid, begin: int, end: int) -> np.ndarray:
    """Elements [begin, end) of a process's flat array in a local folder: an array of its own.

    Raises:
        ValueError: a chunk's crc32c is wrong or it cannot be decoded.
    """
    if begin == end:
        return np.empty(0, DTYPES[grid.dtype])
    path = os.path.join(os.path.abspath(folder), grid.dtype) + "/"
    store = grid.store({"driver": "file", "path": path})
    return np.asarray(store[begin:end].read().result())
