"""Rules for the words of prose: how many, how long, how varied, which (Gopher and our own).

Words are the tokens of `pipelines.text_table`, so punctuation is never one. Case counts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.quality.batch import Batch, Measure, ratio, where
from pipelines.quality.ngrams import seen_before
from pipelines.text_table import token_hash
from schemas.rules import SHORT_DOCUMENT_WORDS, UNIQUE_WORDS_WINDOW

STOP_WORDS: Final = ("the", "be", "to", "of", "and", "that", "have", "with")
_STOP_HASHES: Final = tuple(token_hash(word) for word in STOP_WORDS)
_ENGLISH: Final = frozenset({"en"})


def _word_count(batch: Batch) -> NDArray[np.float64]:
    return where(batch.spaced, batch.words)


def _mean_word_length(batch: Batch) -> NDArray[np.float64]:
    table = batch.table
    in_words = table.classes != 0
    if table.leads.size:
        in_words &= (table.data[: len(in_words)] & 0xC0) != 0x80
    return where(batch.spaced, ratio(table.count(in_words), batch.words))


def _distinct_share(batch: Batch, window: int) -> NDArray[np.float64]:
    """Distinct words among the first `window` of each document, as a share of those."""
    sizes = np.minimum(batch.words, window)
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    chosen = np.arange(offsets[-1]) + np.repeat(batch.table.token_offsets[:-1] - offsets[:-1], sizes)
    seen = np.zeros(int(offsets[-1]) + 1, dtype=np.int64)
    np.cumsum(seen_before(batch.table.token_hashes[chosen], offsets), out=seen[1:])
    return ratio(sizes - np.diff(seen[offsets]), sizes)


def _unique_word_ratio(batch: Batch) -> NDArray[np.float64]:
    return where(batch.spaced, _distinct_share(batch, UNIQUE_WORDS_WINDOW))


def _short_document_repetition(batch: Batch) -> NDArray[np.float64]:
    short = batch.words < SHORT_DOCUMENT_WORDS
    return where(batch.spaced & short, 1.0 - _distinct_share(batch, SHORT_DOCUMENT_WORDS))


def _alphabetic_words(batch: Batch) -> NDArray[np.float64]:
    table = batch.table
    letters = table.letters
    has_letter = letters[table.token_starts]
    rest = np.flatnonzero(~has_letter)
    if rest.size:
        # Only these can have their first letter further on; spans and gaps alternate.
        bounds = np.empty(2 * len(rest), dtype=np.int64)
        bounds[::2] = table.token_starts[rest]
        bounds[1::2] = table.token_starts[rest] + table.token_bytes[rest]
        has_letter[rest] = np.logical_or.reduceat(letters, bounds)[::2]
    found = np.searchsorted(np.flatnonzero(has_letter), table.token_offsets)
    return where(batch.spaced, ratio(np.diff(found), batch.words))


def _stop_words(batch: Batch) -> NDArray[np.float64]:
    english = batch.language_in(_ENGLISH)
    present = np.zeros(len(batch), dtype=np.int64)
    # Half the tokens are longer than any stop word.
    short = np.flatnonzero(batch.table.token_bytes <= max(map(len, STOP_WORDS)))
    hashes, offsets = batch.table.token_hashes[short], np.searchsorted(short, batch.table.token_offsets)
    for wanted in _STOP_HASHES:
        present += np.diff(np.searchsorted(np.flatnonzero(hashes == wanted), offsets)) > 0
    return where(english & batch.spaced, present)


def _hash_ratio(batch: Batch) -> NDArray[np.float64]:
    table = batch.table
    return where(batch.spaced, ratio(table.count(table.data[: len(table.classes)] == ord("#")), batch.words))


def _ellipsis_ratio(batch: Batch) -> NDArray[np.float64]:
    """Runs of dots count once for every three; the character U+2026 counts once."""
    table = batch.table
    dots = table.data[: len(table.classes)] == ord(".")
    # The third, sixth, ... dot of a run: runs are few once pairs are asked for.
    triple = np.flatnonzero(dots[:-2] & dots[1:-1] & dots[2:]) if len(dots) > 2 else np.empty(0, dtype=np.int64)
    new_run = np.ones(len(triple), dtype=np.bool_)
    new_run[1:] = np.diff(triple) != 1
    place = np.arange(len(triple)) - np.maximum.accumulate(np.where(new_run, np.arange(len(triple)), 0))
    spelled = triple[place % 3 == 0]
    character = table.leads[table.lead_points == 0x2026]
    counts = np.diff(np.searchsorted(spelled, table.document_offsets))
    counts = counts + np.diff(np.searchsorted(character, table.document_offsets))
    return where(batch.spaced, ratio(counts, batch.words))


MEASURES: Final[dict[str, Measure]] = {
    "word_count": _word_count,
    "mean_word_length": _mean_word_length,
    "unique_word_ratio": _unique_word_ratio,
    "short_document_repetition": _short_document_repetition,
    "alphabetic_words": _alphabetic_words,
    "stop_words": _stop_words,
    "hash_ratio": _hash_ratio,
    "ellipsis_ratio": _ellipsis_ratio,
}
