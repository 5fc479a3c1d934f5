"""One unit's files, each against itself: documents, rejects, drops, tokens.

`number` is the unit's number among all units. Every function reads a row group at a time and raises Unreadable when the
file is no such table.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.verify.findings import Findings
from loader.verify.ids import IntArray, Units
from loader.verify.tables import is_documents, row_groups
from schemas.arrow import DROPS, HASH_BYTES, REJECTED, tokens_schema
from schemas.manifest import TokenizerInfo
from schemas.record import token_dtype

Counts = Counter[str]
_REJECTED_ID = r"document (?P<id>\S+)$"  # how the rejects of `tokens` end their detail


def check_documents(findings: Findings, path: Path, units: Units, number: int) -> tuple[int, Counts]:
    """Ids are consecutive, texts match their hashes and lengths. Returns (documents, counts of kept and characters)."""
    counts: Counts = Counter()
    rows, name = 0, units.name(number)
    for table in row_groups(path, is_documents, ["id", "hash", "text", "characters"]):
        ids, texts = table["id"].combine_chunks(), table["text"].combine_chunks()
        of, found = units.parse(ids)
        wrong = np.flatnonzero((of != number) | (found != rows + np.arange(len(ids))))
        findings.each(
            path,
            (f"row {rows + i} has the id {ids[i]}, not {name}/{rows + i}" for i in wrong.tolist()),
        )
        altered = rows + np.flatnonzero((_hashes(texts) != _fixed(table["hash"].combine_chunks())).any(axis=1))
        findings.each(path, (f"the text of {name}/{row} does not match its hash" for row in altered))
        lengths = pc.utf8_length(texts).cast(pa.int64()).to_numpy()
        wrong = rows + np.flatnonzero(lengths != table["characters"].to_numpy())
        findings.each(path, (f"the text of {name}/{row} is not as long as the column characters says" for row in wrong))
        counts.update(kept=len(ids), characters=int(lengths.sum()))
        rows += len(ids)
    findings.checked["documents"] += rows
    return rows, counts


def check_drops(findings: Findings, path: Path, units: Units, number: int, threshold: float) -> tuple[IntArray, Counts]:
    """Ids and reasons are right, the similarity is what the reason demands. Returns (rows, counts by reason)."""
    counts: Counts = Counter()
    parts = [np.empty(0, np.int64)]
    least = {"exact_duplicate": np.float32(1), "near_duplicate": np.float32(threshold)}
    for table in row_groups(path, DROPS, ["id", "row", "reason", "jaccard"]):
        of, rows = units.parse(table["id"].combine_chunks())
        ids, reasons, jaccard = (table[name].to_pylist() for name in ("id", "reason", "jaccard"))
        wrong = np.flatnonzero((of != number) | (rows != table["row"].to_numpy())).tolist()
        findings.each(path, (f"the drop of {ids[i]} is not of this unit, or has another row" for i in wrong))
        findings.each(
            path, (f"{reason!r} is no reason to drop a document" for reason in sorted(set(reasons) - set(least)))
        )
        low = [i for i, reason in enumerate(reasons) if not least.get(reason, np.float32(0)) <= jaccard[i] <= 1]
        findings.each(path, (f"{ids[i]} is dropped as {reasons[i]} at a similarity of {jaccard[i]:.4f}" for i in low))
        parts.append(rows[of == number])
        counts.update(f"dropped.{reason}" for reason in reasons)
    findings.checked["drops"] += counts.total()
    return np.concatenate(parts), counts


def check_survivors(path: Path, units: Units) -> list[tuple[str, str, int, int]]:
    """Of every drop (id, kept id, unit number and row of the kept one; -1 where that is the id of no unit)."""
    found: list[tuple[str, str, int, int]] = []
    for table in row_groups(path, DROPS, ["id", "kept_id"]):
        of, rows = units.parse(table["kept_id"].combine_chunks())
        found += zip(table["id"].to_pylist(), table["kept_id"].to_pylist(), of.tolist(), rows.tolist(), strict=True)
    return found


def count_rejects(findings: Findings, path: Path) -> Counts:
    """Rejects by reason, as `rejected.<reason>`."""
    counts: Counts = Counter()
    for table in row_groups(path, REJECTED, ["reason"]):
        counts.update(f"rejected.{reason}" for reason in table["reason"].to_pylist())
    findings.checked["rejects"] += counts.total()
    return counts


def rejected_rows(findings: Findings, path: Path, units: Units, number: int) -> IntArray:
    """The rows the token rules rejected, from the ids their details end with."""
    parts = [np.empty(0, np.int64)]
    for table in row_groups(path, REJECTED, ["detail"]):
        details = table["detail"].combine_chunks()
        of, rows = units.parse(pc.struct_field(pc.extract_regex(details, _REJECTED_ID), "id"))
        wrong = np.flatnonzero(of != number)
        findings.each(path, (f"reject {i} names no document of {units.name(number)}" for i in wrong))
        parts.append(rows[of == number])
    return np.concatenate(parts)


def check_tokens(
    findings: Findings, path: Path, units: Units, number: int, tokenizer: TokenizerInfo
) -> tuple[IntArray, int]:
    """Ids ascend, counts are the lists' lengths, each document goes from begin to end. Returns (rows kept, tokens)."""
    schema = tokens_schema(token_dtype(tokenizer.vocab_size).name)
    parts = [np.empty(0, np.int64)]
    total, last = 0, -1
    for table in row_groups(path, schema, ["id", "tokens", "count"]):
        ids, tokens = table["id"].combine_chunks(), table["tokens"].combine_chunks()
        of, rows = units.parse(ids)
        wrong = np.flatnonzero((of != number) | (np.diff(rows, prepend=last) <= 0)).tolist()
        findings.each(path, (f"the id {ids[i]} is not of this unit, or out of order" for i in wrong))
        lengths = tokens.value_lengths().to_numpy()
        wrong = np.flatnonzero(lengths != table["count"].to_numpy()).tolist()
        findings.each(path, (f"{ids[i]} has another number of tokens than its count says" for i in wrong))
        wrong = np.flatnonzero(~_well_formed(tokens.flatten().to_numpy(), lengths, tokenizer)).tolist()
        findings.each(
            path,
            (f"the tokens of {ids[i]} are not one document from begin to end within the vocabulary" for i in wrong),
        )
        parts.append(rows[of == number])
        total += int(lengths.sum())
        last = int(rows[-1]) if len(rows) else last
    findings.checked["tokens"] += total
    return np.concatenate(parts), total


def _well_formed(flat: npt.NDArray[np.integer], lengths: IntArray, tokenizer: TokenizerInfo) -> npt.NDArray[np.bool_]:
    """Whether each document begins with begin, ends with end, has neither between, no padding and no foreign id."""
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    right = lengths >= 2
    right[right] = (flat[starts[right]] == tokenizer.begin) & (flat[ends[right] - 1] == tokenizer.end)
    special = (flat == tokenizer.begin) | (flat == tokenizer.end)
    foreign = (flat == tokenizer.pad) | (flat < 0) | (flat >= tokenizer.vocab_size)
    for places, allowed in ((np.flatnonzero(special), 2), (np.flatnonzero(foreign), 0)):
        document = np.searchsorted(ends, places, side="right")
        right &= np.bincount(document, minlength=len(lengths)) <= allowed
    return right


def _hashes(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """The content hash of each text: uint8 [n, HASH_BYTES]."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4).tolist()
    view = memoryview(data) if data is not None else memoryview(b"")
    sha256 = hashlib.sha256
    digests = [sha256(view[a:b]).digest()[:HASH_BYTES] for a, b in pairwise(ends)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, HASH_BYTES)


def _fixed(values: pa.Array) -> npt.NDArray[np.uint8]:
    """Fixed-size binaries as uint8 [n, width]."""
    width = values.type.byte_width
    return np.frombuffer(values.buffers()[1], np.uint8, len(values) * width, values.offset * width).reshape(-1, width)
