"""Reading Parquet through an open file.

Arrow's own threads are kept out: one that still holds a Python file object when the interpreter ends aborts the
process. The workers are what runs side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file, or some of its columns."""
    with storage.open_read(path) as file:
        return pq.read_table(file, columns=columns, use_threads=False)


def read_row_group(path: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a file, or some of its columns."""
    with storage.open_read(path) as file:
        return pq.ParquetFile(file).read_row_group(group, columns=columns, use_threads=False)


def row_group_starts(path: str) -> npt.NDArray[np.int64]:
    """The first row of each row group of a file: int64 [row groups]."""
    with storage.open_read(path) as file:
        about = pq.ParquetFile(file).metadata
    rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    return np.cumsum([0, *rows], dtype=np.int64)[:-1]


def row_groups(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of a file, a row group at a time."""
    with storage.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=columns, use_threads=False)
