"""The true similarity of two documents, from their texts (`dedup.check: text`).

Texts stay where they are: of the few pairs about to be dropped, each is read from its documents file by row group. What
was read last is kept, so memory is bounded by `GROUPS` row groups and `HASHES` hashes, and a document for which
many are dropped is read once.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedup.inputs import Inputs
from pipelines.jobs import Run
from pipelines.minhash import exact_jaccard, shingle_hashes
from pipelines.parquet import read_row_group, row_group_starts
from pipelines.text_table import TextTable

GROUPS = 4
HASHES = 8 << 20  # 32 MiB


class Texts:
    """Shingle sets of documents, `shingle` tokens each, of the units of `inputs`."""

    def __init__(self, inputs: Inputs, run: Run, shingle: int) -> None:
        self._inputs, self._run, self._shingle = inputs, run, shingle
        self._starts = lru_cache(maxsize=1024)(self._read_starts)
        self._group = lru_cache(maxsize=GROUPS)(self._read_group)
        self._sets: OrderedDict[int, npt.NDArray[np.uint32]] = OrderedDict()  # least recently used first
        self._held = 0

    def similarity(self, a: int, b: int) -> float:
        """The Jaccard similarity of the shingle sets of two documents, by number."""
        return exact_jaccard(self._set(a), self._set(b))

    def _set(self, document: int) -> npt.NDArray[np.uint32]:
        found = self._sets.pop(document, None)
        if found is None:
            found = np.unique(shingle_hashes(TextTable.from_texts([self._text(document)]), self._shingle)[0])
            self._held += len(found)
        self._sets[document] = found
        while self._held > HASHES and len(self._sets) > 1:
            self._held -= len(self._sets.popitem(last=False)[1])
        return found

    def _text(self, document: int) -> str:
        task, row = document >> 32, document & 0xFFFFFFFF
        starts = self._starts(task)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        text: str = self._group(task, group)[row - int(starts[group])].as_py()
        return text

    def _read_starts(self, task: int) -> npt.NDArray[np.int64]:
        return row_group_starts(self._inputs.path(self._run, task))

    def _read_group(self, task: int, group: int) -> pa.ChunkedArray:
        return read_row_group(self._inputs.path(self._run, task), group, ["text"])["text"]
