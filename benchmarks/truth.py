"""Exact Jaccard similarities of all pairs of documents, and how well a deduplication agrees with them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipelines.minhash import shingle_hashes
from pipelines.text_table import TextTable

FLOOR = 0.5  # pairs below are not listed
ALIKE = 0.85  # from here on a document should have been dropped
UNLIKE = 0.7  # below, dropping one for the other is a false drop
BINS = (0.8, 0.85, 0.9, 0.95, 1.0)
_BATCH = 500
_WORK = 50_000_000  # multiplications a block of the product
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+([.,]\d+)?")

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """All pairs at `FLOOR` or above, both ways: document `of` has the twin `twin` at `jaccard`; n documents."""

    n: int
    of: IntArray
    twin: IntArray
    jaccard: FloatArray

    def best(self, counts: BoolArray) -> FloatArray:
        """float64 [n]: each document's highest similarity over the pairs that count; 0 without one."""
        best = np.zeros(self.n)
        np.maximum.at(best, self.of[counts], self.jaccard[counts])
        return best

    def similarity(self, of: IntArray, twin: IntArray) -> FloatArray:
        """float64: similarities of given pairs; 0 for those below `FLOOR`."""
        known = self.of * self.n + self.twin  # ascending
        wanted = of * self.n + twin
        at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        return np.where(known[at] == wanted, self.jaccard[at], 0.0) if len(known) else np.zeros(len(wanted))


def all_pairs(texts: Sequence[str], k: int) -> Pairs:
    """Exact similarities of the sets of shingles of k tokens (32-bit hashes, as deduplication sees them).

    The numbers of common shingles are the product of the incidence matrix [documents, shingles] with its transpose,
    block by block; shingles of one document only are left out of it. A sample is checked with Python's own sets.
    """
    incidence, sizes = _incidence(texts, k)
    transposed = incidence.T.tocsr()
    spread = np.diff(transposed.indptr)  # documents a shingle
    work = np.add.reduceat(np.append(spread[incidence.indices], 0), incidence.indptr[:-1])
    work[np.diff(incidence.indptr) == 0] = 0
    cuts = np.flatnonzero(np.diff(np.cumsum(work) // _WORK)) + 1
    parts: list[tuple[IntArray, IntArray, FloatArray]] = []
    for rows in np.split(np.arange(len(texts)), cuts):
        common = (incidence[rows] @ transposed).tocoo()
        of, twin = rows[common.row], common.col.astype(np.int64)
        jaccard = common.data / (sizes[of] + sizes[twin] - common.data)
        keep = (jaccard >= FLOOR) & (of != twin)
        parts.append((of[keep], twin[keep], jaccard[keep]))
    of, twin, jaccard = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((twin, of))
    pairs = Pairs(len(texts), of[order], twin[order], jaccard[order])
    _check_sample(pairs, texts, k)
    return pairs


def simplified(text: str) -> str:
    """Much as datatrove sees a text: lower case, every number 0, underscores (like all punctuation) separate."""
    return _NUMBER.sub("0", text.lower()).replace("_", " ")


def _incidence(texts: Sequence[str], k: int) -> tuple[csr_array, IntArray]:
    """Which shingles a document has, without those that only it has; and the sizes of the whole sets."""
    sets: list[NDArray[np.uint32]] = []
    for start in range(0, len(texts), _BATCH):
        values, offsets = shingle_hashes(TextTable.from_texts(texts[start : start + _BATCH]), k)
        sets += [np.unique(part) for part in np.split(values, offsets[1:-1])]
    sizes = np.array([len(part) for part in sets], dtype=np.int64)
    distinct, column, count = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    shared = count[column] > 1
    row = np.repeat(np.arange(len(texts)), sizes)[shared]
    shape = (len(texts), len(distinct))
    return csr_array((np.ones(len(row), np.int32), (row, column[shared])), shape=shape), sizes


def _check_sample(pairs: Pairs, texts: Sequence[str], k: int) -> None:
    """Compare 200 listed and 200 random pairs of ASCII texts with sets of tuples of words.

    Raises:
        AssertionError: a similarity differs by more than the hashes' collisions can explain.
    """
    chance = random.Random(1)
    chosen = [(int(pairs.of[i]), int(pairs.twin[i])) for i in chance.choices(range(len(pairs.of)), k=200)]
    chosen += [(chance.randrange(pairs.n), chance.randrange(pairs.n)) for _ in range(200)]
    for a, b in chosen:
        if a == b or not (texts[a].isascii() and texts[b].isascii()):
            continue
        one, other = (_shingles(texts[i], k) for i in (a, b))
        expected = len(one & other) / max(len(one | other), 1)
        found = float(pairs.similarity(np.array([a]), np.array([b]))[0])
        if abs(found - expected) > 1e-3 and max(found, expected) > FLOOR + 1e-3:
            raise AssertionError(f"documents {a} and {b}: {found} from the product, {expected} from sets of words")


def _shingles(text: str, k: int) -> set[tuple[str, ...]]:
    words = _WORD.findall(text)
    return {tuple(words[i : i + k]) for i in range(max(len(words) - k + 1, min(len(words), 1)))}


@dataclass(frozen=True)
class Recall:
    """Of `documents` that have a twin of the similarity the label tells, `dropped` were dropped."""

    label: str
    documents: int
    dropped: int

    @property
    def share(self) -> float:
        """The recall; 1 where nothing was asked."""
        return self.dropped / self.documents if self.documents else 1.0


def recalls(best: FloatArray, dropped: BoolArray) -> list[Recall]:
    """Recall by bins of each document's most similar twin (`Pairs.best`), then of all from `ALIKE` on."""
    bins = [(f"{low:.2f} ≤ J < {high:.2f}", (best >= low) & (best < high)) for low, high in pairwise(BINS)]
    bins.append(("J = 1", best == 1.0))
    bins.append((f"J ≥ {ALIKE}", best >= ALIKE))
    return [Recall(label, int(among.sum()), int((among & dropped).sum())) for label, among in bins]
