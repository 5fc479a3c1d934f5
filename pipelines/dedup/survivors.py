"""Who stays: exact copies and clusters, decided in priority order.

In a cluster, a document is kept unless its estimated Jaccard similarity to one already kept reaches the threshold. Only
documents that share a bucket are compared, so a large cluster is not quadratic. Hence every drop names a document that
is kept, and a chain A ~ B ~ C with A unlike C keeps A and C. Documents of earlier runs come first and all
stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipelines.dedup.records import COPY, DROP, Records
from pipelines.minhash import band_keys

Similarity = Callable[[int, int], float]


def priority_order(records: Records, keep: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices that sort records by who is kept first: higher priority, quality, length, then the smaller number.

    Documents of earlier runs come before all others.

    keep: the keys, most important first; the document number always decides what they leave open. A missing
    quality (NaN) counts as the lowest.
    """
    columns: list[npt.NDArray[np.generic]] = [~records["earlier"]]
    for name in keep:
        if name == "id":
            columns.append(records["doc"])
        else:
            column = records[name].astype(np.float64)
            columns.append(-np.where(np.isnan(column), -np.inf, column))
    columns.append(records["doc"])
    return np.lexsort(tuple(reversed(columns)))


def exact_copies(records: Records, keep: Sequence[str]) -> Records:
    """COPY records (doc, kept) of EXACT records of whole hash groups: all but the first by priority, of each group.

    Copies in earlier runs stay.
    """
    records = records[priority_order(records, keep)]
    records = records[np.lexsort((records["hash1"], records["hash0"]))]  # stable: priority order within a group
    same = (records["hash0"][1:] == records["hash0"][:-1]) & (records["hash1"][1:] == records["hash1"][:-1])
    starts = np.flatnonzero(np.concatenate(([True], ~same))) if len(records) else np.empty(0, np.int64)
    first = np.repeat(starts, np.diff(np.append(starts, len(records))))
    later = (first != np.arange(len(records))) & ~records["earlier"]
    copies = np.empty(int(later.sum()), COPY)
    copies["doc"] = records["doc"][later]
    copies["kept"] = records["doc"][first[later]]
    return copies


def near_duplicates(
    members: Records, threshold: float, bands: int, keep: Sequence[str], similarity: Similarity | None = None
) -> Records:
    """DROP records of member records of whole clusters, sorted by document number.

    members: dtype `records.member(permutations)`. similarity: the true similarity of two documents, by number; where
    it is given, it must reach the threshold as well as the estimate, and is what the record holds.
    """
    members = members[priority_order(members, keep)]
    members = members[np.argsort(members["cluster"], kind="stable")]
    keys = band_keys(np.ascontiguousarray(members["signature"]), bands)
    ends = np.flatnonzero(members["cluster"][1:] != members["cluster"][:-1]) + 1
    clusters = zip(np.split(members, ends), np.split(keys, ends), strict=True)
    drops = [drop for part, buckets in clusters for drop in _one_cluster(part, buckets, threshold, similarity)]
    found = np.array(drops, DROP)
    return found[np.argsort(found["doc"])]


def _one_cluster(
    members: Records, keys: npt.NDArray[np.uint64], threshold: float, similarity: Similarity | None
) -> list[tuple[int, int, float, bool, int]]:
    """Drops of one cluster's members, which are in priority order; keys: their buckets, [members, bands]."""
    kept_in_bucket: dict[int, list[int]] = defaultdict(list)
    drops: list[tuple[int, int, float, bool, int]] = []
    for i in range(len(members)):
        buckets = keys[i].tolist()
        rivals = sorted({kept for bucket in buckets for kept in kept_in_bucket.get(bucket, ())})
        if rivals and not members["earlier"][i]:
            rival = _rival(members, i, rivals, threshold, similarity)
            if rival is not None:
                drops.append((members["doc"][i], members["doc"][rival[0]], rival[1], False, members["cluster"][i]))
                continue
        for bucket in buckets:
            kept_in_bucket[bucket].append(i)
    return drops


def _rival(
    members: Records, i: int, rivals: list[int], threshold: float, similarity: Similarity | None
) -> tuple[int, float] | None:
    """Which of the kept `rivals` member i is dropped for, and how similar they are; None when it is kept."""
    agree = (members["signature"][rivals] == members["signature"][i]).mean(axis=1)
    for at in np.argsort(-agree, kind="stable"):  # ties: the first kept
        if agree[at] < threshold:
            break
        found = float(agree[at])
        if similarity is not None:
            found = similarity(int(members["doc"][i]), int(members["doc"][rivals[at]]))
        if found >= threshold:
            return rivals[at], found
    return None
