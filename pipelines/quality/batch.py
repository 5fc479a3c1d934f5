"""What the rules measure: a batch of documents, and the tables several rules share, made once on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.quality.line_table import LineTable
from pipelines.quality.ngrams import NgramCharacters, ngram_characters, seen_before
from pipelines.quality.runs import Spans, encoded_runs
from pipelines.text_table import TextTable, span_hashes
from schemas.rules import RuleKind

TOP_SIZES: Final = (2, 3, 4)
DUPLICATE_SIZES: Final = (5, 6, 7, 8, 9, 10)
"""Lengths of word sequences that the rules on the most frequent and on repeated sequences have."""

UNSPACED_LANGUAGES: Final = frozenset({"zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "shn"})
"""Languages written without spaces between words; word rules do not apply to them."""


@dataclass(frozen=True)
class Copies:
    """Lines or paragraphs that occur earlier in the same document.

    copies: int64 [c], their numbers among all lines or paragraphs. starts, ends: int64 [c], their byte spans.
    offsets: int64 [n + 1], the documents' lines or paragraphs, copies or not.
    """

    copies: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """n documents and the rules asked for; the arguments of `pipelines.quality.measure`."""

    table: TextTable
    texts: Sequence[str]
    kind: RuleKind
    languages: Sequence[str]
    paths: Sequence[str]
    rules: frozenset[str]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def lines(self) -> LineTable:
        """The batch's lines."""
        return LineTable.of(self.table)

    @cached_property
    def words(self) -> NDArray[np.int64]:
        """int64 [n]: tokens a document."""
        return np.diff(self.table.token_offsets)

    @cached_property
    def spaced(self) -> NDArray[np.bool_]:
        """bool [n]: whether words are a meaningful unit, by language and by what most tokens are."""
        language = np.array([name not in UNSPACED_LANGUAGES for name in self.languages], dtype=np.bool_)
        return language & (2 * self.table.own_tokens <= self.words)

    @cached_property
    def copied_lines(self) -> Copies:
        """The lines seen before; blank lines are left out of all counts."""
        lines = self.lines
        starts = lines.starts[lines.filled]
        return self._copies(starts, lines.ends[lines.filled], np.searchsorted(starts, self.table.document_offsets))

    @cached_property
    def copied_paragraphs(self) -> Copies:
        """The paragraphs seen before."""
        return self._copies(*self.lines.paragraphs)

    def _copies(self, starts: NDArray[np.int64], ends: NDArray[np.int64], offsets: NDArray[np.int64]) -> Copies:
        copies = np.flatnonzero(seen_before(span_hashes(self.table.data, starts, ends - starts), offsets))
        return Copies(copies, starts[copies], ends[copies], offsets)

    @cached_property
    def ngrams(self) -> NgramCharacters:
        """Repetition of word sequences, of the lengths the rules asked for need."""
        return ngram_characters(
            self.table.token_hashes,
            self.table.token_characters,
            self.table.token_offsets,
            tuple(n for n in TOP_SIZES if f"top_{n}gram_characters" in self.rules),
            tuple(n for n in DUPLICATE_SIZES if f"duplicate_{n}gram_characters" in self.rules),
        )

    @cached_property
    def encoded_runs(self) -> tuple[Spans, Spans, Spans]:
        """The runs of base64, of hexadecimal bytes and of escapes."""
        return encoded_runs(self.table)

    def language_in(self, names: frozenset[str]) -> NDArray[np.bool_]:
        """bool [n]: whether a document's language is one of `names`."""
        return np.array([language in names for language in self.languages], dtype=np.bool_)


Measure = Callable[[Batch], NDArray[np.float64]]
"""Gives float64 [n] for a batch of n documents, NaN where the rule does not apply."""


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole; NaN where the whole is zero."""
    result = np.full(len(part), np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def where(applies: NDArray[np.bool_], values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """`values` as float64, NaN where a rule does not apply."""
    return np.where(applies, values, np.nan)
