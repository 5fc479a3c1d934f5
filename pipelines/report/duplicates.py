"""Duplicates: how many a cluster, the largest clusters with their documents, and one pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.jobs import Run
from pipelines.report.compare import Comparison, compare
from pipelines.report.reading import Documents, tables
from pipelines.report.values import Values
from schemas.manifest import StageManifest

LARGEST = 10  # clusters told in full
SHOWN = 4  # documents of each kind told of a cluster
_BUFFER = 1 << 20  # drops counted at once

Manifests = Mapping[str, StageManifest | None]


@dataclass(frozen=True)
class Named:
    """A document: its id, and its source (empty when it is an earlier run's)."""

    id: str
    source: str


@dataclass(frozen=True)
class Cluster:
    """A cluster of duplicates. kept, examples: the first few; least: the lowest similarity of a drop."""

    name: str
    dropped: int
    near: int
    least: float
    kept_count: int
    kept: tuple[Named, ...]
    examples: tuple[Named, ...]


@dataclass(frozen=True)
class Pair:
    """A dropped near-duplicate beside the document it was dropped for."""

    dropped: Named
    kept: Named
    jaccard: float
    comparison: Comparison


@dataclass(frozen=True)
class Duplicates:
    """sizes: drops a cluster; similarities: of near-duplicates to what they were dropped for; pair: the least similar.

    pair is None when there is no near-duplicate of a document of this run.
    """

    sizes: Values
    similarities: Values
    largest: tuple[Cluster, ...]
    pair: Pair | None


@dataclass
class _Found:
    """Drops of one cluster as they are met."""

    kept: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def find_duplicates(run: Run, documents: Manifests, drops: Manifests) -> Duplicates | None:
    """The duplicates of the components whose dedup is finished; None when it is of none.

    Raises:
        TokenmillError: a file that a manifest names is missing or damaged.
    """
    finished = [whole for whole in drops.values() if whole is not None]
    if not finished:
        return None
    tally = _Tally()
    for table in _drops(run, finished):
        tally.add(table)
    clusters = tally.clusters()
    rows = clusters.sort_by([("dropped", "descending"), ("cluster", "ascending")]).slice(0, LARGEST).to_pylist()
    found = _members(run, finished, [row["cluster"] for row in rows])
    texts = Documents(run, {name: len(whole.units) for name, whole in documents.items() if whole is not None})
    largest = tuple(_cluster(texts, row, found[row["cluster"]]) for row in rows)
    sizes = Values()
    sizes.add(clusters["dropped"].to_numpy())
    return Duplicates(sizes, tally.similarities, largest, _pair(texts, tally.least))


def _drops(run: Run, finished: Sequence[StageManifest]) -> Iterator[pa.Table]:
    for whole in finished:
        yield from tables(run, whole, "drops", ["id", "reason", "kept_id", "jaccard", "cluster"])


class _Tally:
    """Drops counted by cluster, the similarities of near-duplicates, and the least similar of them."""

    def __init__(self) -> None:
        self.similarities = Values()
        self.least: dict[str, Any] | None = None
        self._parts: list[pa.Table] = []
        self._buffered = 0

    def add(self, drops: pa.Table) -> None:
        """Count a table of drops."""
        near = pc.equal(drops["reason"], "near_duplicate")
        self.similarities.add(drops["jaccard"].filter(near).to_numpy())
        own = drops.filter(pc.and_(near, pc.invert(pc.match_substring(drops["kept_id"], "#"))))
        if own.num_rows:
            row = own.slice(int(np.argmin(own["jaccard"].to_numpy())), 1).to_pylist()[0]
            if self.least is None or row["jaccard"] < self.least["jaccard"]:
                self.least = row
        ones = {"dropped": pa.array(np.ones(drops.num_rows, np.int64)), "near": pc.cast(near, pa.int64())}
        self._parts.append(pa.table({"cluster": drops["cluster"], **ones, "jaccard": drops["jaccard"]}))
        self._buffered += drops.num_rows
        if self._buffered > _BUFFER:
            self._parts, self._buffered = [self.clusters()], 0

    def clusters(self) -> pa.Table:
        """A row a cluster: its name, drops, near-duplicates among them, and the lowest similarity."""
        empty = pa.schema(
            [("cluster", pa.string()), ("dropped", pa.int64()), ("near", pa.int64()), ("jaccard", pa.float32())]
        )
        whole = pa.concat_tables([empty.empty_table(), *self._parts])
        sums = [("dropped", "sum"), ("near", "sum"), ("jaccard", "min")]
        counted = whole.group_by("cluster", use_threads=False).aggregate(sums)
        return counted.select(["cluster", "dropped_sum", "near_sum", "jaccard_min"]).rename_columns(empty.names)


@dataclass
class _Members:
    """Documents of one cluster: those kept, with how many were dropped for each; the first dropped ones."""

    kept: Counter[str] = field(default_factory=Counter)
    dropped: list[str] = field(default_factory=list)


def _members(run: Run, finished: Sequence[StageManifest], names: list[str]) -> dict[str, _Members]:
    """The documents of some clusters."""
    found = {name: _Members() for name in names}
    chosen = pa.array(names, pa.string())
    for table in _drops(run, finished) if names else ():
        for row in table.filter(pc.is_in(table["cluster"], value_set=chosen)).to_pylist():
            members = found[row["cluster"]]
            members.kept[row["kept_id"]] += 1
            if len(members.dropped) < SHOWN:
                members.dropped.append(row["id"])
    return found


def _cluster(texts: Documents, row: dict[str, Any], members: _Members) -> Cluster:
    return Cluster(
        row["cluster"],
        row["dropped"],
        row["near"],
        row["jaccard"],
        len(members.kept),
        tuple(_named(texts, id_) for id_, _ in members.kept.most_common(SHOWN)),
        tuple(_named(texts, id_) for id_ in members.dropped),
    )


def _named(texts: Documents, id_: str) -> Named:
    return Named(id_, texts.read(id_, "source") or "")


def _pair(texts: Documents, row: dict[str, Any] | None) -> Pair | None:
    """The texts of a drop and of what it was dropped for, compared."""
    if row is None:
        return None
    kept, dropped = texts.read(row["kept_id"], "text"), texts.read(row["id"], "text")
    if kept is None or dropped is None:  # a component whose ingest is being made again
        return None
    return Pair(_named(texts, row["id"]), _named(texts, row["kept_id"]), row["jaccard"], compare(dropped, kept))
