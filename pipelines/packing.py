"""Packing: documents into sequences of `capacity` tokens, nothing cut off, whole documents kept whole if they
fit.

`best_fit` is best-fit decreasing (Johnson et al., 1974; for language models, Ding et al., "Fewer Truncations
Improve Language Modeling", 2024): pieces are placed from the longest to the shortest, each into the sequence
with the least room that still takes it. Its bins are kept by room, and a two-level bitmap over room finds the
least sufficient one, so a piece costs a few integer operations whatever the capacity. `concat` lays documents
end to end and cuts at capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["best_fit", "concat"]

IntArray = npt.NDArray[np.int64]

_WORD_BITS = 9
_WORD = 1 << _WORD_BITS


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tokens of which documents each sequence holds: one entry a piece, int64 [pieces] each.

    sequence: 0…sequences-1, ascending; within a sequence pieces stand in the order they were placed.
    document: index into the lengths given; start, length: the piece's tokens within that document.
    sequences: their number. capacity: tokens of each; what the pieces leave free is padding.
    """

    sequence: IntArray
    document: IntArray
    start: IntArray
    length: IntArray
    sequences: int
    capacity: int

    @property
    def padding(self) -> int:
        """Tokens of padding in all sequences together."""
        return self.sequences * self.capacity - int(self.length.sum())


def pack(lengths: npt.ArrayLike, capacity: int, method: Method) -> Layout:
    """Lay documents out in sequences of `capacity` = sequence_length + 1 tokens.

    lengths: tokens of each document, integers > 0, [n]; their order decides ties and, with `concat`,
    neighbours. `best_fit`: a document longer than capacity is cut into full sequences, which come first, and
    a remainder; the remainders and the other documents are packed whole. `concat`: every sequence but the
    last is full. Raises ValueError for an empty document, a capacity below 1 or an unknown method.
    """
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    if capacity < 1:
        raise ValueError(f"the capacity must be at least 1 token, not {capacity}")
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"document {np.argmin(sizes)} has {sizes.min()} tokens; leave empty documents out")
    if method == "concat":
        return _concat(sizes, capacity)
    if method == "best_fit":
        return _best_fit(sizes, capacity)
    raise ValueError(f"the packing method must be best_fit or concat, not {method!r}")


def _concat(sizes: IntArray, capacity: int) -> Layout:
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if ends.size else 0
    cuts = np.concatenate((ends, np.arange(capacity, total, capacity, dtype=np.int64)))
    cuts.sort(kind="stable")  # merges the two ascending runs
    cuts = cuts[np.diff(cuts, prepend=0) > 0]
    begins = np.concatenate((np.zeros(min(cuts.size, 1), dtype=np.int64), cuts[:-1]))
    document = np.searchsorted(ends, begins, side="right").astype(np.int64)
    start = begins - (ends - sizes)[document]
    return Layout(begins // capacity, document, start, cuts - begins, -(-total // capacity), capacity)


def _best_fit(sizes: IntArray, capacity: int) -> Layout:
    full, rest = np.divmod(sizes, capacity)
    chunks = int(full.sum())
    chunk_document = np.repeat(np.arange(sizes.size, dtype=np.int64), full)
    first_chunk = np.cumsum(full) - full
    chunk_start = (np.arange(chunks, dtype=np.int64) - first_chunk[chunk_document]) * capacity

    pieces = np.flatnonzero(rest).astype(np.int64)
    pieces = pieces[np.argsort(-rest[pieces], kind="stable")]
    bins, used = _best_fit_decreasing(rest[pieces].tolist(), capacity)
    by_bin = np.argsort(bins, kind="stable")
    pieces = pieces[by_bin]
    return Layout(
        sequence=np.concatenate((np.arange(chunks, dtype=np.int64), chunks + bins[by_bin])),
        document=np.concatenate((chunk_document, pieces)),
        start=np.concatenate((chunk_start, full[pieces] * capacity)),
        length=np.concatenate((np.full(chunks, capacity, dtype=np.int64), rest[pieces])),
        sequences=chunks + used,
        capacity=capacity,
    )


def _best_fit_decreasing(lengths: list[int], capacity: int) -> tuple[IntArray, int]:
    """The bin of each piece, numbered as they are opened, and the number of bins.

    lengths: descending, 1…capacity. Of bins with equal room the one that came to it last is taken.
    """
    bins_with_room: list[list[int]] = [[] for _ in range(capacity)]
    # Bit r mod 512 of words[r div 512]: some bin has room r. Bit w of `summary`: words[w] is not 0.
    words = [0] * (capacity // _WORD + 1)
    summary = 0
    chosen = np.empty(len(lengths), dtype=np.int64)
    opened = 0
    for i, length in enumerate(lengths):
        word = length >> _WORD_BITS
        found = words[word] >> (length & (_WORD - 1))
        if found:
            room = length + (found & -found).bit_length() - 1
        else:
            above = summary >> (word + 1)
            if above:
                word += (above & -above).bit_length()
                found = words[word]
                room = (word << _WORD_BITS) + (found & -found).bit_length() - 1
            else:
                room = capacity
        if room == capacity:
            into = opened
            opened += 1
        else:
            candidates = bins_with_room[room]
            into = candidates.pop()
            if not candidates:
                words[word] ^= 1 << (room & (_WORD - 1))
                if not words[word]:
                    summary ^= 1 << word
        chosen[i] = into
        room -= length
        if room:
            if not bins_with_room[room]:
                words[room >> _WORD_BITS] |= 1 << (room & (_WORD - 1))
                summary |= 1 << (room >> _WORD_BITS)
            bins_with_room[room].append(into)
    return chosen, opened
