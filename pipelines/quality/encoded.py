"""Rules on encoded data in source code (StarCoder2, section 2.1); `runs` says what a run is."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.quality.batch import Batch, Measure


def _measure(batch: Batch, share: bool) -> NDArray[np.float64]:
    """Over the three kinds of run: the longest run, or the kind with the largest share of the characters."""
    table = batch.table
    largest = np.zeros(len(batch), dtype=np.int64)
    for starts, ends in batch.encoded_runs:
        if not starts.size:
            continue
        characters = table.span_characters(starts, ends)
        document = np.searchsorted(table.document_offsets, starts, side="right") - 1
        of_kind = np.zeros(len(batch), dtype=np.int64)
        (np.add if share else np.maximum).at(of_kind, document, characters)
        np.maximum(largest, of_kind, out=largest)
    return largest / np.maximum(table.characters, 1) if share else largest.astype(np.float64)


MEASURES: Final[dict[str, Measure]] = {
    "encoded_fraction": partial(_measure, share=True),
    "longest_encoded_run": partial(_measure, share=False),
}
