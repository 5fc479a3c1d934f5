"""Reading Parquet through an open file.

Arrow's own threads are kept out: one that still holds a Python file object when the interpreter ends aborts the
process. The workers are what runs side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file, or some of its columns."""
    with storage.open_read(path) as file:
        return pq.read_table(file, columns=columns, use_threads=False)


def read_row_group(path: str, group: int) -> pa.Table:
    """One row group of a file."""
    with storage.open_read(path) as file:
        return pq.ParquetFile(file).read_row_group(group, use_threads=False)


def row_groups(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of a file, a row group at a time."""
    with storage.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=columns, use_threads=False)
