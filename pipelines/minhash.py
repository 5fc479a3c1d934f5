"""Shingles of token tables and their MinHash signatures.

Signatures follow datasketch 2.0's `affine32` scheme to the bit: a shingle's 32-bit hash h goes through the
MurmurHash3 finaliser, permutation i maps it to a_i * h + b_i mod 2^32 (a_i odd), and the signature holds
the least value of each permutation (Broder 1997). The arithmetic is laid out for the cache: blocks of
permutations times blocks of shingles in one buffer that stays in L2, reduced by document.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.text_table import TextTable

EMPTY: Final = np.uint32(0xFFFFFFFF)
"""Every value in the signature of a document without shingles."""

_PERMUTATION_BLOCK: Final = 4
_SHINGLE_BLOCK: Final = 1 << 14
_CHUNK: Final = 1 << 15
_ORDER: Final = np.uint64(0x9E3779B97F4A7C15)
_FINISH: Final = np.uint64(0xD6E8FEB86659FD93)


def shingle_hashes(table: TextTable, k: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Hashes of every run of k consecutive tokens of a document, in order, repeats included.

    A document of 1 to k - 1 tokens has one shingle, all its tokens; a document without tokens has none.

    Returns:
        values: uint32 [S]. offsets: int64 [n + 1]; document i has values[offsets[i] : offsets[i + 1]].
    """
    tokens, token_offsets = table.token_hashes, table.token_offsets
    counts = np.diff(token_offsets)
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(np.where(counts >= k, counts - k + 1, np.minimum(counts, 1)), out=offsets[1:])
    values = np.empty(int(offsets[-1]), dtype=np.uint32)
    own = np.ones(len(values), dtype=np.bool_)
    for length in range(1, k):
        short = np.flatnonzero(counts == length)
        first = token_offsets[short]
        values[offsets[short]] = _finish(_combine([tokens[first + j] for j in range(length)]))
        own[offsets[short]] = False
    values[own] = _runs(tokens, k)[_within(token_offsets, k)]
    return values, offsets


def signatures(shingles: NDArray[np.uint32], offsets: NDArray[np.int64], permutations: int = 256) -> NDArray[np.uint32]:
    """uint32 [n, permutations]: MinHash signatures of n documents with shingles[offsets[i] : offsets[i + 1]].

    Equal to `datasketch.MinHash(num_perm=permutations)` (seed 1, affine32) fed with the same 32-bit hashes.
    """
    a, b = _permutations(permutations)
    full = np.flatnonzero(np.diff(offsets))
    starts = offsets[full]
    least = np.full((permutations, len(full)), EMPTY, dtype=np.uint32)
    buffer = np.empty(_PERMUTATION_BLOCK * _SHINGLE_BLOCK, dtype=np.uint32)
    for begin in range(0, len(shingles), _SHINGLE_BLOCK):
        mixed = _premix(shingles[begin : begin + _SHINGLE_BLOCK])
        end = begin + len(mixed)
        # The documents with a shingle in this block; the first may have begun before it.
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end))
        segments = np.maximum(starts[first:last] - begin, 0)
        for p in range(0, permutations, _PERMUTATION_BLOCK):
            a_p, b_p = a[p : p + _PERMUTATION_BLOCK], b[p : p + _PERMUTATION_BLOCK]
            block = buffer[: len(a_p) * len(mixed)].reshape(len(a_p), len(mixed))
            np.multiply(a_p, mixed, out=block)
            np.add(block, b_p, out=block)
            part = least[p : p + _PERMUTATION_BLOCK, first:last]
            np.minimum(part, np.minimum.reduceat(block, segments, axis=1), out=part)
    result = np.full((len(offsets) - 1, permutations), EMPTY, dtype=np.uint32)
    result[full] = least.T
    return result


def band_keys(signature: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """uint64 [n, bands]: hashes of (band number, the band's values) of signatures [n, permutations].

    Raises:
        ValueError: `bands` does not divide the number of permutations.
    """
    documents, permutations = signature.shape
    if permutations % bands:
        raise ValueError(f"{bands} bands do not divide {permutations} permutations")
    rows = signature.reshape(documents, bands, permutations // bands)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), (documents, bands)) * _FINISH
    for row in range(rows.shape[2]):
        keys ^= rows[:, :, row]
        keys *= _ORDER
        keys ^= keys >> np.uint64(32)
    keys *= _FINISH
    keys ^= keys >> np.uint64(29)
    return keys


def estimated_jaccard(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.float64]:
    """float64 [n]: share of equal values in each pair of rows of two signature arrays [n, permutations]."""
    return np.count_nonzero(a == b, axis=-1) / a.shape[-1]


def exact_jaccard(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> float:
    """|A ∩ B| / |A ∪ B| of two documents' shingle hashes as sets; 0 if both are empty."""
    a, b = np.unique(a), np.unique(b)
    common = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - common
    return common / union if union else 0.0


@cache
def _permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The factors and summands of datasketch's permutations, uint32 [count, 1] each."""
    from datasketch import MinHash  # noqa: PLC0415 - brings SciPy's solvers along, for which only signing should wait

    a, b = MinHash(num_perm=count, scheme="affine32").permutations
    return np.array(a, dtype=np.uint32)[:, None], np.array(b, dtype=np.uint32)[:, None]


def _premix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The MurmurHash3 32-bit finaliser (Appleby), as datasketch applies it before the permutations."""
    mixed = values ^ (values >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def _combine(tokens: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Horner's rule over token hashes in order, modulo 2^64."""
    total = tokens[0].copy()
    for following in tokens[1:]:
        total *= _ORDER
        total += following
    return total


def _finish(combined: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The high half after one more mixing step; `combined` is overwritten."""
    combined ^= combined >> np.uint64(32)
    combined *= _FINISH
    combined >>= np.uint64(32)
    return combined.astype(np.uint32)


def _runs(tokens: NDArray[np.uint64], k: int) -> NDArray[np.uint32]:
    """Hashes of all runs of k tokens of the batch, also those that cross into the next document."""
    count = max(len(tokens) - k + 1, 0)
    hashes = np.empty(count, dtype=np.uint32)
    for a in range(0, count, _CHUNK):
        b = min(a + _CHUNK, count)
        hashes[a:b] = _finish(_combine([tokens[a + j : b + j] for j in range(k)]))
    return hashes


def _within(token_offsets: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """For each run of k tokens of the batch, whether it lies in one document."""
    total = int(token_offsets[-1])
    within = np.ones(max(total - k + 1, 0), dtype=np.bool_)
    crossing = (token_offsets[1:-1, None] - np.arange(1, k)).ravel()
    within[crossing[(crossing >= 0) & (crossing < len(within))]] = False
    return within
