"""Reading the rows explain asks for, one row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import TokenmillError
from schemas.manifest import Stage

Mask = Callable[[pa.ChunkedArray], pa.ChunkedArray]


def rows_where(path: str, key: str, wanted: Mask, columns: Iterable[str], stage: Stage) -> pa.Table:
    """The rows of a Parquet file whose `key` column passes `wanted`: `key` and `columns`, in file order.

    The other columns are read only of row groups that have such a row.

    Raises:
        TokenmillError: the file is missing or damaged; names the stage to make again.
    """
    try:
        with storage.open_read(path) as file:
            parquet = pq.ParquetFile(file)
            names = [key, *columns]
            parts = [pa.schema([parquet.schema_arrow.field(name) for name in names]).empty_table()]
            for group in range(parquet.num_row_groups):
                # Arrow's threads may still hold the file when the interpreter ends, which aborts the process.
                mask = wanted(parquet.read_row_group(group, [key], use_threads=False)[key])
                if pc.any(mask).as_py():
                    found = parquet.read_row_group(group, names, use_threads=False)
                    parts.append(found.select(names).filter(mask))
            return pa.concat_tables(parts)
    except (OSError, pa.ArrowException, KeyError) as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TokenmillError(
            f"{path}: cannot be read, although its stage is finished ({problem}); "
            f"make it again with --replace-from {stage}"
        ) from None


def one_of(values: Iterable[str]) -> Mask:
    """Whether a string is one of `values`."""
    chosen = pa.array(sorted(values), pa.string())
    return lambda column: pc.is_in(column, value_set=chosen)
