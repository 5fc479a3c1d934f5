"""Reading Parquet files of a run with their schema checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import documents_schema
from schemas.errors import TokenmillError

_FIXED_COLUMNS = 10  # of documents; a column a quality rule follows


class Unreadable(TokenmillError):
    """A file whose hash is right and whose content is no such table; the message does not name the file."""


def row_groups(path: Path, schema: pa.Schema | Callable[[pa.Schema], bool], columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a file, `columns` of them. schema: what it must be, or a test of it.

    Raises:
        Unreadable: another schema, a null where there may be none, or broken pages.
    """
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow
            if not (schema(found) if callable(schema) else found.equals(schema)):
                raise Unreadable("has other columns than this format version: " + ", ".join(found.names))
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                table.validate(full=True)
                yield table.combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"cannot be read as Parquet: {str(error).strip().splitlines()[0]}") from None


def whole_table(path: Path, schema: pa.Schema, columns: list[str]) -> pa.Table:
    """All row groups of a small file, one chunk each. Raises Unreadable as `row_groups` does."""
    empty = pa.schema([schema.field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *row_groups(path, schema, columns)])


def is_documents(schema: pa.Schema) -> bool:
    """Whether a schema is that of documents, for some number of permutations and some quality rules."""
    names = schema.names
    if "signature" not in names or not pa.types.is_fixed_size_binary(schema.field("signature").type):
        return False
    permutations = schema.field("signature").type.byte_width // 4
    return bool(schema.equals(documents_schema(permutations, names[_FIXED_COLUMNS:])))
