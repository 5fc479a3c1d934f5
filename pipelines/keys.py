"""Keyed hashes of documents: what decides their place in packing, their split and the tokenizer's sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedup.records import fixed_binary
from schemas.permutation import key64, mix64


def document_keys(content_hashes: pa.ChunkedArray, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A uint64 key a document, from its content hash, the seed and what the key is for.

    Equal texts have equal keys, so copies of a text always fall on the same side of a split.
    """
    halves = fixed_binary(content_hashes, "<u8").astype(np.uint64)
    key = np.uint64(key64(f"tokenmill documents {purpose} seed {seed}"))
    return mix64(mix64(halves[:, 0] ^ key) ^ halves[:, 1])
