"""Changing a run's files and making its manifests agree with the change, as a careless or clever hand might."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loader.locate import locate
from loader.progress import Progress
from loader.verify import Findings, verify
from schemas.arrow import parquet_writer
from schemas.record import decode_example, encode_example, read_records, token_dtype, write_records

Rows = list[dict[str, Any]]


def check(path: Path) -> Findings:
    """Verify a place."""
    return verify(locate(str(path)), Progress())


def told(path: Path, *parts: str) -> bool:
    """Whether verification tells of a problem whose sentence holds all `parts`."""
    problems = check(path).problems
    if any(all(part in problem for part in parts) for problem in problems):
        return True
    raise AssertionError(f"not told: {parts}; told instead:\n" + "\n".join(problems))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1) + "\n")


def rehash(folder: Path) -> None:
    """Make a manifest agree with its files: sizes, hashes, rows."""

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if "sha256" in part and (folder / str(part["path"])).is_file():
                data = (folder / part["path"]).read_bytes()
                part["sha256"] = hashlib.sha256(data).hexdigest()
                if "bytes" in part:
                    part["bytes"] = len(data)
                if "ends" in part:
                    size = len(data) // max(part["records"], 1)
                    part["ends"] = (data[size - 4 : size] + data[-4:]).hex()
                if data.startswith(b"PAR1") and "records" in part:
                    with contextlib.suppress(pa.ArrowInvalid):
                        part["records"] = pq.ParquetFile(folder / part["path"]).metadata.num_rows
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    edit_json(folder / "manifest.json", walk)


def edit_table(path: Path, change: Callable[[Rows], Rows]) -> None:
    """Change the rows of a Parquet file and rehash its folder."""
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    with parquet_writer(str(path), table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    rehash(path.parent)


def read_matrix(shard: Path, vocab_size: int = 800) -> np.ndarray:
    """All records of a shard: [records, sequence_length + 1]."""
    with shard.open("rb") as file:
        return np.stack([decode_example(payload, token_dtype(vocab_size)) for payload in read_records(file)])


def write_matrix(shard: Path, tokens: np.ndarray) -> None:
    """Write a shard of these records, checksums right, and rehash its folder."""
    with shard.open("wb") as file:
        write_records(file, (encode_example(row) for row in tokens))
    rehash(shard.parent)


def provenance(shard: Path) -> Path:
    """The provenance file of a shard."""
    return shard.with_name(f"provenance-{shard.stem}.parquet")


def shift_count(*keys: str | int) -> Callable[[dict[str, Any]], None]:
    """A change that adds one to the number below `keys`."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] += 1

    return change
