"""Gopher's repetition rules (arXiv 2112.11446, table A1).

Characters are counted as datatrove does: copies from the second on, over all characters of the text. Of
words repeated in sequences of n every word counts once, however many repeated sequences cover it (as the
paper asks; datatrove skips n words ahead after each repeat instead). The most frequent sequence counts with
all its copies, its words joined by one space; a sequence that does not repeat counts as nothing, and of
sequences equally frequent the longest is taken.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.quality.batch import DUPLICATE_SIZES, TOP_SIZES, Batch, Measure, ratio, where


def _line_rules(batch: Batch, paragraphs: bool, characters: bool) -> NDArray[np.float64]:
    """Share of lines or paragraphs, or of the characters in them, that are copies of an earlier one."""
    spans = batch.copied_paragraphs if paragraphs else batch.copied_lines
    at = np.searchsorted(spans.copies, spans.offsets)
    if not characters:
        return ratio(np.diff(at), np.diff(spans.offsets))
    taken = np.zeros(len(spans.copies) + 1, dtype=np.int64)
    np.cumsum(batch.table.span_characters(spans.starts, spans.ends), out=taken[1:])
    return ratio(np.diff(taken[at]), batch.table.characters)


def _top_rule(batch: Batch, n: int) -> NDArray[np.float64]:
    return where(batch.spaced, ratio(batch.ngrams.top[n], batch.table.characters))


def _duplicate_rule(batch: Batch, n: int) -> NDArray[np.float64]:
    return where(batch.spaced, ratio(batch.ngrams.duplicate[n], batch.table.characters))


MEASURES: Final[dict[str, Measure]] = {
    "duplicate_lines": partial(_line_rules, paragraphs=False, characters=False),
    "duplicate_paragraphs": partial(_line_rules, paragraphs=True, characters=False),
    "duplicate_line_characters": partial(_line_rules, paragraphs=False, characters=True),
    "duplicate_paragraph_characters": partial(_line_rules, paragraphs=True, characters=True),
    **{f"top_{n}gram_characters": partial(_top_rule, n=n) for n in TOP_SIZES},
    **{f"duplicate_{n}gram_characters": partial(_duplicate_rule, n=n) for n in DUPLICATE_SIZES},
}
