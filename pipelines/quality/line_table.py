"""The lines and paragraphs of a batch, as spans of its UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.text_table import NEWLINE, TextTable

_WHITE: Final = np.array([chr(i) in " \t\v\f" for i in range(256)], dtype=np.bool_)
_INDENT_STEPS: Final = 32


@dataclass(frozen=True)
class LineTable:
    """The L lines of a batch: what stands between newlines. A document of no characters has one, blank line.

    starts, ends: int64 [L], byte spans without the newline. first: int64 [L], the first byte that is not
    white (space, tab, vertical tab, form feed), or the end of a blank line. offsets: int64 [n + 1],
    documents' lines.
    """

    table: TextTable
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    first: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, table: TextTable) -> LineTable:
        """The lines of the documents of `table`."""
        ends = np.flatnonzero(table.data[: len(table.classes)] == NEWLINE)
        starts = np.empty_like(ends)
        starts[:1] = 0
        starts[1:] = ends[:-1] + 1
        offsets = np.searchsorted(starts, table.document_offsets)
        return cls(table, starts, ends, _first_non_white(table.data, starts, ends), offsets)

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """bool [L]: lines that are not blank."""
        return self.first < self.ends

    @cached_property
    def characters(self) -> NDArray[np.int64]:
        """int64 [L]: lengths in characters."""
        return self.table.span_characters(self.starts, self.ends)

    @cached_property
    def count(self) -> NDArray[np.int64]:
        """int64 [n]: lines a document."""
        return np.diff(self.offsets)

    @cached_property
    def filled_count(self) -> NDArray[np.int64]:
        """int64 [n]: lines a document that are not blank."""
        return self.total(self.filled)

    def total(self, values: NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n]: sums of a value a line over each document."""
        # Every document has a line, so no segment is empty.
        return np.add.reduceat(values, self.offsets[:-1], dtype=np.int64) if len(self.table) else np.empty(0, int)

    def greatest(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n]: the greatest value a line of each document."""
        return np.maximum.reduceat(values, self.offsets[:-1]) if len(self.table) else np.empty(0, int)

    def start_with(self, prefixes: Sequence[str]) -> NDArray[np.bool_]:
        """bool [L]: lines whose first characters that are not white are one of `prefixes` (up to 8 bytes)."""
        return self._match(prefixes, lambda size: self.first)

    def end_with(self, suffixes: Sequence[str]) -> NDArray[np.bool_]:
        """bool [L]: lines that end in one of `suffixes` (up to 8 bytes)."""
        return self._match(suffixes, lambda size: np.maximum(self.ends - size, 0))

    def _match(self, affixes: Sequence[str], position: Callable[[int], NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Lines that hold one of `affixes` at `position` (of its size in bytes)."""
        data = self.table.data
        words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
        found = np.zeros(len(self.starts), dtype=np.bool_)
        encoded = [affix.encode("utf-8") for affix in affixes]
        for size in sorted({len(affix) for affix in encoded}):
            at = position(size)
            wanted = [int.from_bytes(affix, "little") for affix in encoded if len(affix) == size]
            word = words[at] & np.uint64((1 << (8 * size)) - 1)
            hit = np.zeros(len(word), dtype=np.bool_)
            for value in wanted:
                hit |= word == np.uint64(value)
            found |= hit & (at >= self.starts) & (at + size <= self.ends)
        return found

    @cached_property
    def paragraphs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Starts, ends (bytes) of the paragraphs, runs of lines that are not blank; offsets int64 [n + 1]."""
        breaks = np.zeros(len(self.starts) + 1, dtype=np.bool_)
        breaks[self.offsets] = True
        opens = self.filled.copy()
        opens[1:] &= ~self.filled[:-1] | breaks[1:-1]
        closes = self.filled.copy()
        closes[:-1] &= ~self.filled[1:] | breaks[1:-1]
        starts = self.starts[opens]
        return starts, self.ends[closes], np.searchsorted(starts, self.table.document_offsets)


def _first_non_white(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each line's white space at its start ends."""
    first = starts.copy()
    indented = np.flatnonzero(_WHITE[data[first]])
    for _ in range(_INDENT_STEPS):
        if not indented.size:
            return first
        first[indented] += 1
        indented = indented[_WHITE[data[first[indented]]]]
    if indented.size:
        # Few lines are indented that far: look up where any white space ends.
        black = ~_WHITE[data]
        black[1:] &= _WHITE[data[:-1]]
        after = np.flatnonzero(black)
        first[indented] = after[np.searchsorted(after, first[indented])]
    return np.minimum(first, ends)
