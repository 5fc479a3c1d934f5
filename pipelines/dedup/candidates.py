"""Candidate pairs from LSH buckets, without comparing all pairs of a bucket.

Documents that agree on all rows of a band share a bucket. Each document sends, for every band, the band's key and a
64-bit *sketch*: the lowest bit of 64 of its MinHash values from other bands. Two documents of Jaccard similarity J
agree on a sketch bit with probability (1 + J) / 2 (b-bit minwise hashing with b = 1, Li & König, arXiv 0910.3349).

In a bucket, documents with equal sketches form a star around their smallest number. Of the stars' centres, each is
joined to the `NEAREST` earlier ones whose sketches are nearest, looking back over at most `WINDOW` of them. So a bucket
of n documents gives O(n) edges; a bucket of a hundred thousand identical signatures is one star. A pair at J >= 0.85
shares 8.7 buckets on average (32 bands of 8 rows), each with other sketch bits, so a family of templates in between
does not hide it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.dedup.records import BAND, EDGE, Records
from pipelines.minhash import band_keys

NEAREST = 3
WINDOW = 256
SKETCH_BITS = 64


def band_records(docs: npt.NDArray[np.uint64], signatures: npt.NDArray[np.uint32], bands: int) -> Records:
    """One BAND record a document and band, [documents x bands] in document order.

    docs: [n]; signatures: [n, permutations].
    """
    keys = band_keys(signatures, bands)
    records = np.empty(keys.shape, BAND)
    records["key"] = keys
    records["doc"] = docs[:, None]
    bits = (signatures & 1).astype(np.uint8)
    rows = signatures.shape[1] // bands
    for band in range(bands):
        others = np.roll(bits, -(band + 1) * rows, axis=1)[:, :SKETCH_BITS]
        padded = np.zeros((len(docs), SKETCH_BITS), np.uint8)
        padded[:, : others.shape[1]] = others
        records["sketch"][:, band] = np.packbits(padded, axis=1).view("<u8")[:, 0]
    return records.reshape(-1)


def candidate_edges(records: Records) -> Records:
    """Unique EDGE records (u < v) of the buckets among BAND records of whole buckets.

    A bucket is a run of equal keys; nothing here depends on the order the records arrive in.
    """
    records = records[np.lexsort((records["doc"], records["sketch"], records["key"]))]
    same_key = records["key"][1:] == records["key"][:-1]
    # equal sketches: a star around the smallest number, which the sort put first
    same_sketch = same_key & (records["sketch"][1:] == records["sketch"][:-1])
    star_start = np.flatnonzero(np.concatenate(([True], ~same_sketch))) if len(records) else np.empty(0, np.int64)
    centre_index = np.repeat(star_start, np.diff(np.append(star_start, len(records))))
    leaves = centre_index != np.arange(len(records))
    edges = [_edges(records["doc"][centre_index[leaves]], records["doc"][leaves])]
    centres = records[star_start]
    centres = centres[np.lexsort((centres["doc"], centres["key"]))]
    edges.extend(_nearest(centres))
    return unique(np.concatenate(edges))


def _nearest(centres: Records) -> list[Records]:
    """Edges from each centre to the nearest earlier centres of its bucket; centres sorted by (key, doc)."""
    key, doc, sketch = centres["key"], centres["doc"], centres["sketch"]
    place = _place_in_run(key)
    edges: list[Records] = []
    # The common case, whole buckets at once: the first NEAREST predecessors need no choosing.
    for back in range(1, NEAREST + 1):
        later = np.flatnonzero((place >= back) & (place <= NEAREST))
        edges.append(_edges(doc[later - back], doc[later]))
    for i in np.flatnonzero(place > NEAREST):
        reach = min(int(place[i]), WINDOW)
        distance = np.bitwise_count(sketch[i - reach : i] ^ sketch[i])
        nearest = np.argsort(distance, kind="stable")[:NEAREST]
        edges.append(_edges(doc[i - reach : i][nearest], np.full(len(nearest), doc[i])))
    return edges


def _place_in_run(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """How many earlier elements of its run of equal keys each element has."""
    index = np.arange(len(key))
    first = np.concatenate(([True], key[1:] != key[:-1])) if len(key) else np.empty(0, bool)
    return index - np.maximum.accumulate(np.where(first, index, 0))


def _edges(u: npt.NDArray[np.uint64], v: npt.NDArray[np.uint64]) -> Records:
    edges = np.empty(len(u), EDGE)
    edges["u"], edges["v"] = np.minimum(u, v), np.maximum(u, v)
    return edges


def unique(edges: Records) -> Records:
    """Edges sorted by (u, v) without repeats or loops."""
    edges = edges[edges["u"] != edges["v"]]
    edges = edges[np.lexsort((edges["v"], edges["u"]))]
    fresh = np.ones(len(edges), bool)
    fresh[1:] = (edges["u"][1:] != edges["u"][:-1]) | (edges["v"][1:] != edges["v"][:-1])
    return edges[fresh]
