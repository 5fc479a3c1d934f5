"""Repetition within documents from hashes: elements seen before, and characters in repeated word sequences.

Equal hashes are found with a scratch table addressed by hash bits: every element writes its number, the
first of those that share a slot wins, and elements whose winner has another hash try again with other bits.
No sorting, no dictionaries, and what is found in a document never depends on the documents beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_GROUP: Final = 1 << 16  # elements looked at together: their table stays in the L2 cache
_ORDER: Final = np.uint64(0x9E3779B97F4A7C15)
_SPREAD: Final = np.uint64(0xD6E8FEB86659FD93)


def seen_before(hashes: NDArray[np.uint64], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [m]: elements whose hash occurs earlier in the same document.

    Args:
        hashes: uint64 [m], well mixed.
        offsets: int64 [n + 1], the documents' elements.
    """
    seen = np.empty(len(hashes), dtype=np.bool_)
    for a, b in _groups(offsets):
        part = slice(int(offsets[a]), int(offsets[b]))
        first = first_occurrences(hashes[part], _documents(offsets[a : b + 1]))
        seen[part] = first != np.arange(len(first))
    return seen


def first_occurrences(hashes: NDArray[np.uint64], document: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [m]: for each element the first one of the same document with the same hash, maybe itself.

    Args:
        hashes: uint64 [m].
        document: int64 [m], ascending.
    """
    first = np.empty(len(hashes), dtype=np.int64)
    keys = document.astype(np.uint64) * _ORDER
    keys += hashes
    left = np.arange(len(hashes))
    bits = keys * _SPREAD
    while left.size:
        width = (2 * len(left)).bit_length()
        slots = (bits >> np.uint64(64 - width)).astype(np.int64)
        table = np.empty(1 << width, dtype=np.int64)
        table[slots[::-1]] = left[::-1]  # of several writes to a slot the last stays: the first element
        winner = table[slots]
        same = keys[winner] == keys[left]
        same &= document[winner] == document[left]
        first[left[same]] = winner[same]
        rest = np.flatnonzero(~same)
        left = left[rest]
        bits = bits[rest] * _SPREAD
    return first


@dataclass(frozen=True)
class NgramCharacters:
    """Characters by sequence length n, int64 [documents] each.

    top: in all copies of the most frequent repeated sequence, its words joined by one space.
    duplicate: in words that second and later copies cover, each word once.
    """

    top: dict[int, NDArray[np.int64]]
    duplicate: dict[int, NDArray[np.int64]]


def ngram_characters(
    hashes: NDArray[np.uint64],
    characters: NDArray[np.int64],
    offsets: NDArray[np.int64],
    top_sizes: tuple[int, ...],
    duplicate_sizes: tuple[int, ...],
) -> NgramCharacters:
    """Repetition of word sequences in n documents.

    Args:
        hashes, characters: uint64 [T] and int64 [T], the words' hashes and lengths.
        offsets: int64 [n + 1], the documents' words.
        top_sizes, duplicate_sizes: lengths of sequences to measure, 2 or more each.
    """
    count = len(offsets) - 1
    result = NgramCharacters(
        {n: np.zeros(count, dtype=np.int64) for n in top_sizes},
        {n: np.zeros(count, dtype=np.int64) for n in duplicate_sizes},
    )
    for a, b in _groups(offsets):
        part = slice(int(offsets[a]), int(offsets[b]))
        group = _Group(hashes[part], characters[part], offsets[a : b + 1])
        group.measure(result, slice(a, b))
    return result


class _Group:
    """Documents measured together."""

    def __init__(self, hashes: NDArray[np.uint64], characters: NDArray[np.int64], offsets: NDArray[np.int64]):
        self.hashes = hashes
        self.size = len(offsets) - 1
        self.document = _documents(offsets)
        # Characters before each word.
        self.before = np.zeros(len(hashes) + 1, dtype=np.int64)
        np.cumsum(characters, out=self.before[1:])

    def measure(self, result: NgramCharacters, documents: slice) -> None:
        """Write the values of the group into its slice of `result`."""
        # A sequence of n words can repeat only where both its sequences of n - 1 words do.
        starts = np.flatnonzero(self.document[1:] == self.document[:-1])
        combined = self.hashes[starts] * _ORDER + self.hashes[starts + 1]
        for n in range(2, max((*result.top, *result.duplicate), default=1) + 1):
            first = first_occurrences(combined, self.document[starts])
            copies = np.bincount(first, minlength=len(starts))
            if n in result.top:
                several = np.flatnonzero(copies > 1)
                result.top[n][documents] = self._top(n, starts[several], copies[several])
            if n in result.duplicate:
                result.duplicate[n][documents] = self._covered(n, starts[first != np.arange(len(first))])
            repeated = np.zeros(len(self.hashes) + 1, dtype=np.bool_)
            repeated[starts[copies[first] > 1]] = True
            kept = np.flatnonzero(repeated[starts] & repeated[starts + 1])
            if not kept.size:
                return
            starts = starts[kept]
            combined = combined[kept] * _ORDER + self.hashes[starts + n]

    def _top(self, n: int, starts: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.int64]:
        """Characters in all copies of each document's most frequent sequence, of equally many the longest."""
        length = self.before[starts + n] - self.before[starts] + n - 1
        document = self.document[starts]
        most = np.zeros(self.size, dtype=np.int64)
        np.maximum.at(most, document, copies)
        longest = np.zeros(self.size, dtype=np.int64)
        tied = copies == most[document]
        np.maximum.at(longest, document[tied], length[tied])
        return most * longest

    def _covered(self, n: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Characters of the words in sequences of n that begin at `starts` (ascending), each word once."""
        ends = starts + n
        # Sequences do not leave their document, so an overlap is always within one.
        np.minimum(ends[:-1], starts[1:], out=ends[:-1])
        taken = self.before[ends] - self.before[starts]
        # Sums stay below 2^53, so adding them as float64 is exact.
        return np.bincount(self.document[starts], weights=taken, minlength=self.size).astype(np.int64)


def _groups(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of documents of up to 2^16 elements together, or one document of more."""
    a, last = 0, len(offsets) - 1
    while a < last:
        b = max(int(np.searchsorted(offsets, offsets[a] + _GROUP, side="right")) - 1, a + 1)
        yield a, b
        a = b


def _documents(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64: the number of the document, from 0, that each element belongs to."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
