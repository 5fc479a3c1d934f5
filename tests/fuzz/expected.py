"""Slow, plain readings of the formats, with other means than the readers use: what they are compared with."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.columns import document
from pipelines.sources.jsonl import MAX_NESTING
from schemas.config import Source

Found = list[tuple[int, str | bytes]]
"""(offset, text) of each document."""


def unpacked(data: bytes, packing: str) -> bytes | None:
    """The content of a whole, undamaged file; None where this reading cannot tell."""
    if not packing:
        return data
    if packing == "gz" and data:
        try:
            return gzip.decompress(data)
        except (OSError, EOFError, ValueError):
            return None
        except Exception as error:  # zlib.error is no subclass of any of these
            if type(error).__module__ == "zlib":
                return None
            raise
    return None


def jsonl(source: Source, content: bytes) -> Found:
    """The documents of lines."""
    found: Found = []
    at = 0
    for held in content.split(b"\n"):
        line = held if at else held.removeprefix(b"\xef\xbb\xbf")
        start, at = at, at + len(held) + 1
        try:
            if nesting(line) > MAX_NESTING:
                continue
            row = json.loads(line.decode("utf-8"))
            row["text"].encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(row, dict) and isinstance(row["text"], str):
            found.append((start, row["text"]))
    return found


def nesting(line: bytes) -> int:
    """The most objects and lists open at once."""
    most = depth = 0
    in_string = escaped = False
    for byte in line:
        if in_string:
            in_string = escaped or byte != ord('"')
            escaped = not escaped and byte == ord("\\")
        elif byte == ord('"'):
            in_string = True
        else:
            depth += (byte in b"[{") - (byte in b"]}")
            most = max(most, depth)
    return most


def tar(content: bytes, limit: int) -> tuple[list[tuple[str, bytes]], bool]:
    """(name, data) of the regular members up to the first damage, and whether any of them is sparse."""
    found: list[tuple[str, bytes]] = []
    sparse = False
    try:
        archive = tarfile.TarFile(fileobj=io.BytesIO(content), encoding="utf-8", errors="surrogateescape")
        while (info := archive.next()) is not None:
            if info.isreg() and info.size <= limit:
                sparse |= info.issparse()
                file = archive.extractfile(info)
                assert file is not None
                data = file.read()
                if len(data) != info.size:
                    break
                found.append((info.name, data))
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, OSError):
        pass
    return found, sparse


def parquet(source: Source, data: bytes) -> Found | None:
    """The documents of a file that can be read whole; None if it cannot."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        columns = [name for name in ("text", "m", "n", "q") if name in file.schema_arrow.names]
        table = file.read(columns=columns, use_threads=False)
        table.validate(full=True)
        groups = range(file.metadata.num_row_groups)
        if table.num_rows != sum(file.metadata.row_group(group).num_rows for group in groups):
            return None  # the footer contradicts itself
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError):
        return None
    made = ((index, document(source, "", index, row, b"")) for index, row in enumerate(rows))
    return [(index, item.data) for index, item in made if hasattr(item, "data")]
