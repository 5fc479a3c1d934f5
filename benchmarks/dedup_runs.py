"""Deduplicates documents with tokenmill and with datatrove, each as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from benchmarks.planted import Document

ROOT = Path(__file__).resolve().parents[1]
INPUTS = 2  # files, so that two workers have something to do


@dataclass(frozen=True)
class Ours:
    """What tokenmill did with n documents, in the order they were given.

    dropped: bool [n]; kept_for: int64 [n], the document it was dropped for, -1 for kept ones; similarity: float [n],
    as the drops tell it; rank: int64 [n], place in priority order; signatures: uint32 [n, permutations];
    seconds: of each stage; peak_bytes: the most one process held.
    """

    dropped: NDArray[np.bool_]
    kept_for: NDArray[np.int64]
    similarity: NDArray[np.float64]
    rank: NDArray[np.int64]
    signatures: NDArray[np.uint32]
    seconds: dict[str, float]
    peak_bytes: int


def write_inputs(documents: Sequence[Document], folder: Path) -> Path:
    """The documents as JSON Lines, in order, over `INPUTS` files; returns the folder."""
    folder.mkdir(parents=True)
    for number in range(INPUTS):
        part = documents[len(documents) * number // INPUTS : len(documents) * (number + 1) // INPUTS]
        lines = "".join(json.dumps({"id": document.name, "text": document.text}) + "\n" for document in part)
        (folder / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def run_tokenmill(documents: Sequence[Document], inputs: Path, work: Path, **dedup: Any) -> Ours:
    """`python -m pipelines run --stages ingest,dedup` without quality rules; `dedup` are settings of that stage.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    work.mkdir(parents=True)
    source = {"path": f"{inputs}/*.jsonl", "format": "jsonl", "metadata": ["id"]}
    config = {
        "components": {"documents": {"kind": "code", "weight": 1, "sources": [source]}},
        "quality": {"rules": False},
        "dedup": dedup,
    }
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pipelines", "run", str(work / "config.yaml"), "--output", str(work / "run")]
    subprocess.run([*command, "--stages", "ingest,dedup"], cwd=ROOT, check=True, stderr=subprocess.PIPE)
    return _read(documents, work / "run")


def _read(documents: Sequence[Document], run: Path) -> Ours:
    number = {document.name: i for i, document in enumerate(documents)}
    place: dict[str, int] = {}
    characters, signatures = [], []
    for path in sorted((run / "documents/documents").glob("documents-*.parquet")):
        table = pq.read_table(path, columns=["id", "metadata", "characters", "signature"])
        for name, metadata in zip(table["id"].to_pylist(), table["metadata"].to_pylist(), strict=True):
            place[name] = number[dict(metadata)["id"]]
        characters.append(table["characters"].to_numpy())
        width = table["signature"].type.byte_width
        buffer = b"".join(table["signature"].cast(pa.binary(width)).to_pylist())
        signatures.append(np.frombuffer(buffer, dtype="<u4").reshape(len(table), width // 4))
    if len(place) != len(documents):
        raise AssertionError(f"{len(place)} of {len(documents)} documents were ingested")
    at = np.fromiter(place.values(), dtype=np.int64)  # in the order of units and rows
    rank = np.empty(len(at), dtype=np.int64)
    rank[at[np.argsort(-np.concatenate(characters), kind="stable")]] = np.arange(len(at))
    signature = np.empty_like(np.concatenate(signatures))
    signature[at] = np.concatenate(signatures)
    kept_for = np.full(len(at), -1, dtype=np.int64)
    similarity = np.zeros(len(at))
    for path in sorted((run / "dedup/documents").glob("drops-*.parquet")):
        for row in pq.read_table(path, columns=["id", "kept_id", "jaccard"]).to_pylist():
            kept_for[place[row["id"]]] = place[row["kept_id"]]
            similarity[place[row["id"]]] = row["jaccard"]
    facts = json.loads((run / "run.json").read_text())
    peak = max(facts["peak_worker_bytes"], facts["peak_driver_bytes"])
    return Ours(kept_for >= 0, kept_for, similarity, rank, signature, facts["stages"], peak)


def run_datatrove(documents: Sequence[Document], inputs: Path, work: Path, python: str) -> NDArray[np.bool_]:
    """Which documents datatrove drops, bool [n].

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    script = str(Path(__file__).with_name("datatrove_steps.py"))
    command = [python, script, str(inputs), str(work), str(INPUTS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept: set[str] = set()
    for path in sorted((work / "kept").glob("*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            kept.update(json.loads(line)["id"] for line in lines)
    return np.array([document.name not in kept for document in documents])
