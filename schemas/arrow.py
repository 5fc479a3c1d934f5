"""Arrow schemas of every Parquet file a run writes, and how those files are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HASH_BYTES = 16  # the content hash: the first 16 bytes of SHA-256 over the cleaned UTF-8 text

REJECTED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("sample", pa.string(), nullable=False),
    ]
)

DROPS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("kept_id", pa.string(), nullable=False),
        pa.field("jaccard", pa.float32(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
    ]
)

PROVENANCE = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)

UNITS = pa.schema(
    [
        pa.field("component", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("source", pa.int64(), nullable=False),
        pa.field("rejects", pa.list_(pa.struct(list(REJECTED))), nullable=False),
        pa.field(
            "slices",
            pa.list_(
                pa.struct([("path", pa.string()), ("size", pa.int64()), ("start", pa.int64()), ("stop", pa.int64())])
            ),
            nullable=False,
        ),
    ]
)

PACKED_UNITS = pa.schema(
    [
        pa.field("component", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("train_sequences", pa.int64(), nullable=False),
        pa.field("validation_sequences", pa.int64(), nullable=False),
        pa.field("train_tokens", pa.int64(), nullable=False),
        pa.field("validation_tokens", pa.int64(), nullable=False),
    ]
)


def documents_schema(permutations: int, rules: Iterable[str]) -> pa.Schema:
    """Documents of one component: a fixed part, then one float64 column a quality rule (null: not applicable)."""
    fixed = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("hash", pa.binary(HASH_BYTES), nullable=False),
        pa.field("signature", pa.binary(4 * permutations), nullable=False),
        pa.field("metadata", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("characters", pa.int64(), nullable=False),
        pa.field("words", pa.int64(), nullable=False),
        pa.field("quality", pa.float64()),
    ]
    return pa.schema(fixed + [pa.field(name, pa.float64()) for name in rules])


def tokens_schema(token_dtype: str) -> pa.Schema:
    """Tokens of one component; `key` orders documents for packing and splitting, `count` is len(tokens)."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("tokens", pa.list_(pa.from_numpy_dtype(token_dtype)), nullable=False),
            pa.field("key", pa.uint64(), nullable=False),
            pa.field("count", pa.int64(), nullable=False),
        ]
    )


def parquet_writer(path: str, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with the settings all files share: zstd, no dictionaries where values do not repeat.

    Signatures and hashes are uniformly random: compressing them costs time and gains nothing.
    """
    random_columns = {"hash", "signature"}
    repeated = {"language", "reason", "shard", "component", "kept_id", "cluster", "document"}
    compressed = [leaf for field in schema if field.name not in random_columns for leaf in _leaves(field)]
    options: dict[str, Any] = {
        "compression": dict.fromkeys(compressed, "ZSTD") | dict.fromkeys(random_columns, "NONE"),
        "compression_level": dict.fromkeys(compressed, 1),
        "use_dictionary": [field.name for field in schema if field.name in repeated],
        "write_statistics": False,
    }
    return pq.ParquetWriter(path, schema, **options)


def _leaves(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """The Parquet leaf paths of a column; nested types have several."""
    path = prefix + field.name
    if pa.types.is_map(field.type):
        yield from (f"{path}.key_value.key", f"{path}.key_value.value")
    elif pa.types.is_list(field.type):
        yield from _leaves(field.type.value_field.with_name("element"), f"{path}.list.")
    elif pa.types.is_struct(field.type):
        for child in field.type:
            yield from _leaves(child, f"{path}.")
    else:
        yield path
