"""Rules for the lines of prose: bullets, ellipses, punctuation, lengths (Gopher, FineWeb)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.quality.batch import Batch, Measure, ratio, where

BULLETS: Final = ("•", "-", "*", "‣", "◦", "–")
ELLIPSES: Final = ("...", "…")
TERMINAL_PUNCTUATION: Final = tuple(".?!\"'”’»…。？！」』）؟۔।॥")
_SHORT_LINE: Final = 30


def _bullet_lines(batch: Batch) -> NDArray[np.float64]:
    return ratio(batch.lines.total(batch.lines.start_with(BULLETS)), batch.lines.filled_count)


def _ellipsis_lines(batch: Batch) -> NDArray[np.float64]:
    return ratio(batch.lines.total(batch.lines.end_with(ELLIPSES)), batch.lines.filled_count)


def _terminal_punctuation_lines(batch: Batch) -> NDArray[np.float64]:
    return ratio(batch.lines.total(batch.lines.end_with(TERMINAL_PUNCTUATION)), batch.lines.filled_count)


def _short_lines(batch: Batch) -> NDArray[np.float64]:
    lines = batch.lines
    return ratio(lines.total(lines.filled & (lines.characters <= _SHORT_LINE)), lines.filled_count)


def _newline_ratio(batch: Batch) -> NDArray[np.float64]:
    return where(batch.spaced, ratio(batch.lines.count - 1, batch.words))


MEASURES: Final[dict[str, Measure]] = {
    "bullet_lines": _bullet_lines,
    "ellipsis_lines": _ellipsis_lines,
    "terminal_punctuation_lines": _terminal_punctuation_lines,
    "short_lines": _short_lines,
    "newline_ratio": _newline_ratio,
}
