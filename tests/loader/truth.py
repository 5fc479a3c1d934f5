"""A run read the plain way: every shard and every Parquet file whole, without order, offsets or any index."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.loader.forge import provenance, read_matrix

Piece = tuple[str, int, int, int]  # document, start, length, at


@dataclass
class Truth:
    """records: the tokens of each (shard file, row); pieces: what provenance says of it. The others go by document."""

    records: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    pieces: dict[tuple[str, int], list[Piece]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    drops: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)


def read_truth(run: Path, view: int) -> Truth:
    """Everything about one view of a run."""
    truth = Truth()
    for shard in sorted((run / f"shards/{view}").glob("*.tfrecord")):
        for row, tokens in enumerate(read_matrix(shard)):
            truth.records[shard.name, row] = tokens.astype(np.int64)
        at: dict[int, int] = defaultdict(int)
        for piece in pq.read_table(provenance(shard)).to_pylist():
            row = piece["row"]
            truth.pieces[shard.name, row].append((piece["document"], piece["start"], piece["length"], at[row]))
            at[row] += piece["length"]
    truth.documents = {row["id"]: row for row in _rows(run, "documents/*/documents-*", ["id", "source", "text"])}
    truth.tokens = {row["id"]: np.array(row["tokens"]) for row in _rows(run, "tokens/*/tokens-*", ["id", "tokens"])}
    truth.drops = {row["id"]: row for row in _rows(run, "dedup/*/drops-*", ["id", "reason", "kept_id"])}
    truth.rejected = _rows(run, "documents/*/rejected-*", ["source", "reason"])
    for row in _rows(run, "tokens/*/rejected-*", ["reason", "detail"]):
        truth.refused[row["detail"].rpartition("; document ")[2]] = row
    return truth


def _rows(run: Path, pattern: str, columns: list[str]) -> list[dict[str, Any]]:
    return [row for path in sorted(run.glob(pattern)) for row in pq.read_table(path, columns=columns).to_pylist()]
