"""The exchanges of deduplication, in order. Only ids, hashes, lengths and signatures travel, never text.

A unit is one of the run's own or, after those, one of an earlier run (see `inputs`); only the own get drops.

copies     unit -> hash range      exact groups; all but the best by priority are copies
told       hash range -> unit      a unit learns its copies, and the copies of its documents
candidates unit -> key range       LSH buckets become candidate edges
asked      key range -> unit       an edge goes to its larger end; the smaller end is asked for its signature
verified   unit -> unit            signatures arrive; edges below the threshold go
(clusters  connected components of what is left: `rounds` below, or one worker)
members    labels -> unit          a unit learns the clusters of its documents
decided    unit -> cluster range   survivors and drops of whole clusters
resolved   cluster range -> unit   drops come home; copies of a dropped document follow it
drops      unit -> unit            the drops file of each unit
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines import stages
from pipelines.dedup import candidates, clusters, survivors
from pipelines.dedup.inputs import Inputs
from pipelines.dedup.records import (
    BAND,
    COPY,
    DROP,
    EDGE,
    EXACT,
    LABEL,
    SIZE,
    Records,
    in_range,
    join,
    load,
    member,
    row_of,
    save,
    signed,
    split,
    spread,
    task_of,
)
from pipelines.dedup.texts import Texts
from pipelines.jobs import Exchange, Run
from pipelines.plan import read_index
from pipelines.stages import Receipt
from schemas import manifest
from schemas.arrow import DROPS
from schemas.config import Dedup

CLUSTER_RANGES = "cluster_ranges.json"  # how many ranges the driver decided the clusters need
LARGE = "large"  # the folder of the sizes of clusters that may raise an alarm
CHANGED = "changed-"  # begins the name of the mark a range leaves whose edges a round has changed
Emitted = Iterator[tuple[int, bytes]]


@dataclass(frozen=True)
class Steps:
    """The steps of one deduplication.

    inputs: the units; folder: below the work folder; ranges: parts the hash and key spaces are cut into; mode: the
    exchange's form; large: drops from which on the driver is told of a cluster.
    """

    config: Dedup
    inputs: Inputs
    folder: str
    ranges: int
    mode: str
    large: int

    def exchange(
        self,
        name: str,
        sources: int,
        destinations: int,
        emit: Callable[..., Emitted],
        receive: Callable[..., None],
    ) -> Exchange:
        """An exchange whose destinations leave `<name>/<number>.npy`."""
        folder = f"{self.folder}/{name}"
        return Exchange(name, sources, destinations, emit, receive, folder, partial(self.file, name), self.mode)

    def find(self) -> list[Exchange]:
        """From documents to verified edges, by unit of the larger end."""
        units, ranges = self.inputs.units, self.ranges
        return [
            self.exchange("copies", units, ranges, self.emit_hashes, self.receive_hashes),
            self.exchange("told", ranges, units, self.emit_copies, self.receive_copies),
            self.exchange("candidates", units, ranges, self.emit_bands, self.receive_bands),
            self.exchange("asked", ranges, units, self.emit_edges, self.receive_edges),
            self.exchange("verified", units, units, self.emit_signatures, self.receive_signatures),
        ]

    def decide(self, label_files: int, cluster_ranges: int) -> list[Exchange]:
        """From labels to drops."""
        units, own = self.inputs.units, self.inputs.own
        drops = self.exchange("drops", units, own, self.emit_final, self.receive_final)
        return [
            self.exchange("members", label_files, units, self.emit_labels, self.receive_labels),
            self.exchange("decided", units, cluster_ranges, self.emit_members, self.receive_members),
            self.exchange("resolved", cluster_ranges, units, self.emit_drops, self.receive_drops),
            Exchange(drops.name, units, own, drops.emit, drops.receive, drops.folder, self.receipt, self.mode),
        ]

    def file(self, name: str, run: Run, number: int) -> str:
        """The work file of destination `number` of a step."""
        return run.work(self.folder, name, f"{number:07d}.npy")

    def receipt(self, run: Run, task: int) -> str:
        """The receipt a finished unit leaves."""
        return stages.receipt_path(run, self.folder, task)

    # -- exact copies -------------------------------------------------------------------------------------------

    def emit_hashes(self, run: Run, task: int) -> Emitted:
        """Hash and rank of every document, to its hash range."""
        records = self.inputs.ranked(run, task, "hash", EXACT)
        yield from split(records, in_range(records["hash0"], self.ranges))

    def receive_hashes(self, run: Run, number: int, blocks: Iterable[bytes]) -> None:
        """Copies of a hash range."""
        save(
            run,
            self.file("copies", run, number),
            survivors.exact_copies(join(blocks, EXACT), self.config.keep),
        )

    def emit_copies(self, run: Run, number: int) -> Emitted:
        """Each copy to its own unit and to its survivor's."""
        copies = load(self.file("copies", run, number))
        away = task_of(copies["kept"]) != task_of(copies["doc"])
        both = np.concatenate((copies, copies[away]))
        yield from split(both, np.concatenate((task_of(copies["doc"]), task_of(copies["kept"][away]))))

    def receive_copies(self, run: Run, task: int, blocks: Iterable[bytes]) -> None:
        """What a unit is told of copies."""
        copies = join(blocks, COPY)
        save(run, self.file("told", run, task), copies[np.argsort(copies["doc"])])

    # -- candidates and their check -----------------------------------------------------------------------------

    def emit_bands(self, run: Run, task: int) -> Emitted:
        """Band keys and sketches of the documents that stand for themselves, to their key range."""
        records = self._signed(run, task)
        bands = candidates.band_records(records["doc"], np.ascontiguousarray(records["signature"]), self.config.bands)
        yield from split(bands, in_range(bands["key"], self.ranges))

    def receive_bands(self, run: Run, number: int, blocks: Iterable[bytes]) -> None:
        """Candidate edges of whole buckets."""
        save(run, self.file("candidates", run, number), candidates.candidate_edges(join(blocks, BAND)))

    def emit_edges(self, run: Run, number: int) -> Emitted:
        """Each edge to both of its ends' units."""
        edges = load(self.file("candidates", run, number))
        away = task_of(edges["u"]) != task_of(edges["v"])
        both = np.concatenate((edges, edges[away]))
        yield from split(both, np.concatenate((task_of(edges["v"]), task_of(edges["u"][away]))))

    def receive_edges(self, run: Run, task: int, blocks: Iterable[bytes]) -> None:
        """The edges of a unit, without repeats."""
        save(run, self.file("asked", run, task), candidates.unique(join(blocks, EDGE)))

    def emit_signatures(self, run: Run, task: int) -> Emitted:
        """The signature of each smaller end, once to every unit that holds a larger end of it."""
        edges = load(self.file("asked", run, task))
        edges = edges[task_of(edges["u"]) == task]
        pairs = np.empty(len(edges), LABEL)  # (document, unit that asks)
        pairs["doc"], pairs["cluster"] = edges["u"], task_of(edges["v"])
        pairs = np.unique(pairs)
        records = self._signed(run, task)
        found = records[np.searchsorted(records["doc"], pairs["doc"])]
        yield from split(found, pairs["cluster"].astype(np.int64))

    def receive_signatures(self, run: Run, task: int, blocks: Iterable[bytes]) -> None:
        """The edges whose estimated similarity reaches the threshold, at the unit of the larger end."""
        edges = load(self.file("asked", run, task))
        edges = edges[task_of(edges["v"]) == task]
        smaller = join(blocks, signed(self.config.permutations))
        smaller = smaller[np.argsort(smaller["doc"])]
        own = self._signed(run, task) if len(edges) else smaller
        similar = np.zeros(len(edges), bool)
        for start in range(0, len(edges), 4096):
            part = edges[start : start + 4096]
            u = smaller["signature"][np.searchsorted(smaller["doc"], part["u"])]
            v = own["signature"][np.searchsorted(own["doc"], part["v"])]
            similar[start : start + 4096] = (u == v).mean(axis=1) >= self.config.threshold
        save(run, self.file("verified", run, task), edges[similar])

    # -- clusters -----------------------------------------------------------------------------------------------

    def clusters_at_once(self, run: Run, _: int) -> None:
        """All clusters on one worker."""
        edges = np.concatenate([load(self.file("verified", run, task)) for task in range(self.inputs.units)])
        save(run, self.file("labels", run, 0), clusters.components(edges))

    def rounds(self, sources: int, before: str, number: int) -> list[Exchange]:
        """One round of large star and small star; `before` names the step whose edges it starts from."""
        large, small = f"large-{number:03d}", f"small-{number:03d}"
        emit_large, emit_small = partial(self.emit_both_ways, before), partial(self.emit_down, large)
        return [
            self.exchange(large, sources, self.ranges, emit_large, partial(self.receive_large, large)),
            self.exchange(small, self.ranges, self.ranges, emit_small, partial(self.receive_small, number)),
        ]

    def emit_both_ways(self, before: str, run: Run, number: int) -> Emitted:
        """Neighbourhoods, to the range of their node."""
        edges = clusters.both_ways(load(self.file(before, run, number)))
        yield from split(edges, spread(edges["u"], self.ranges))

    def emit_down(self, before: str, run: Run, number: int) -> Emitted:
        """Lower neighbourhoods, to the range of their node."""
        edges = load(self.file(before, run, number))
        down = np.empty(len(edges), EDGE)
        down["u"], down["v"] = edges["v"], edges["u"]
        yield from split(down, spread(down["u"], self.ranges))

    def receive_large(self, name: str, run: Run, number: int, blocks: Iterable[bytes]) -> None:
        """The edges after large star."""
        save(run, self.file(name, run, number), clusters.large_star(join(blocks, EDGE)))

    def receive_small(self, round_: int, run: Run, number: int, blocks: Iterable[bytes]) -> None:
        """The edges after small star, and a mark where they are not those of the round before."""
        edges = clusters.small_star(join(blocks, EDGE))
        name = f"small-{round_:03d}"
        if round_ == 0 or not np.array_equal(edges, load(self.file(f"small-{round_ - 1:03d}", run, number))):
            run.commit_bytes(run.work(self.folder, name, f"{CHANGED}{number:07d}"), b"")
        save(run, self.file(name, run, number), edges)

    def save_star_labels(self, last: str, run: Run, number: int) -> None:
        """Labels of converged edges: leaves by their edge, and the centre with each."""
        labels = clusters.labels_of_stars(load(self.file(last, run, number)))
        centres = np.empty(0, LABEL)
        if len(labels):
            centres = np.empty(len(np.unique(labels["cluster"])), LABEL)
            centres["doc"] = centres["cluster"] = np.unique(labels["cluster"])
        save(run, self.file("labels", run, number), np.concatenate((labels, centres)))

    # -- survivors ----------------------------------------------------------------------------------------------

    def emit_labels(self, run: Run, number: int) -> Emitted:
        """Each label to its document's unit."""
        labels = load(self.file("labels", run, number))
        yield from split(labels, task_of(labels["doc"]))

    def receive_labels(self, run: Run, task: int, blocks: Iterable[bytes]) -> None:
        """The clusters of a unit's documents."""
        save(run, self.file("members", run, task), np.unique(join(blocks, LABEL)))

    def emit_members(self, run: Run, task: int) -> Emitted:
        """Members with rank and signature, to the range of their cluster."""
        labels = load(self.file("members", run, task))
        if not len(labels):
            return
        documents = self.inputs.ranked(run, task, "signature", member(self.config.permutations))
        members = documents[np.searchsorted(documents["doc"], labels["doc"])]
        members["cluster"] = labels["cluster"]
        ranges = self._cluster_ranges(run)
        yield from split(members, spread(members["cluster"], ranges))

    def receive_members(self, run: Run, number: int, blocks: Iterable[bytes]) -> None:
        """Drops of whole clusters."""
        members = join(blocks, member(self.config.permutations))
        config = self.config
        similarity = Texts(self.inputs, run, config.shingle).similarity if config.check == "text" else None
        drops = survivors.near_duplicates(members, config.threshold, config.bands, config.keep, similarity)
        sizes = np.empty(len(np.unique(drops["cluster"])), SIZE)
        sizes["cluster"], sizes["size"] = np.unique(drops["cluster"], return_counts=True)
        if (sizes["size"] > self.large).any():
            save(run, self.file(LARGE, run, number), sizes[sizes["size"] > self.large])
        save(run, self.file("decided", run, number), drops)

    def emit_drops(self, run: Run, number: int) -> Emitted:
        """Each drop to its document's unit."""
        drops = load(self.file("decided", run, number))
        yield from split(drops, task_of(drops["doc"]))

    def receive_drops(self, run: Run, task: int, blocks: Iterable[bytes]) -> None:
        """A unit's near-duplicates, and the fate of all copies of its documents.

        A copy of a kept document is an exact duplicate of it. A copy of a dropped one is a near-duplicate of the
        document that one was dropped for, which is kept.
        """
        near = join(blocks, DROP)
        near = near[np.argsort(near["doc"])]
        copies = load(self.file("told", run, task))
        copies = copies[task_of(copies["kept"]) == task]
        fate = np.empty(len(copies), DROP)
        fate["doc"], fate["kept"], fate["jaccard"], fate["exact"] = copies["doc"], copies["kept"], 1.0, True
        fate["cluster"] = copies["kept"]
        if len(near):
            at = np.minimum(np.searchsorted(near["doc"], copies["kept"]), len(near) - 1)
            follows = near["doc"][at] == copies["kept"]
            for name in ("kept", "jaccard", "exact", "cluster"):
                fate[name][follows] = near[name][at[follows]]
        save(run, self.file("resolved", run, task), np.concatenate((near, fate)))

    def emit_final(self, run: Run, task: int) -> Emitted:
        """Every drop to its document's unit."""
        drops = load(self.file("resolved", run, task))
        yield from split(drops, task_of(drops["doc"]))

    def receive_final(self, run: Run, task: int, blocks: Iterable[bytes]) -> None:
        """Write a unit's drops file and leave its receipt."""
        drops = join(blocks, DROP)
        drops = drops[np.argsort(drops["doc"])]
        index = read_index(run)
        unit = index.unit(task)
        path = index.path(run, "dedup", "drops", task)
        name = partial(self.inputs.name, run)
        table = pa.table(
            {
                "id": [name(doc) for doc in drops["doc"].tolist()],
                "row": row_of(drops["doc"]),
                "reason": ["exact_duplicate" if exact else "near_duplicate" for exact in drops["exact"]],
                "kept_id": [name(doc) for doc in drops["kept"].tolist()],
                "jaccard": drops["jaccard"],
                "cluster": [name(doc) for doc in drops["cluster"].tolist()],
            },
            schema=DROPS,
        )
        file = stages.commit_table(run, path, [table], DROPS)
        exact = int(drops["exact"].sum())
        counts = {"dropped.exact_duplicate": exact, "dropped.near_duplicate": len(drops) - exact}
        written = manifest.Unit(unit=unit.unit, counts=counts)
        stages.write_receipt(run, self.folder, Receipt(task=task, files=(file,), unit=written))

    # -- reading ------------------------------------------------------------------------------------------------

    def _signed(self, run: Run, task: int) -> Records:
        """Numbers and signatures of a unit's documents that are no copies and long enough to compare."""
        copies = load(self.file("told", run, task))["doc"]
        return self.inputs.signed(run, task, max(self.config.min_tokens, 1), self.config.permutations, copies)

    def _cluster_ranges(self, run: Run) -> int:
        """How many ranges the clusters are split into, as the driver decided."""
        ranges: int = stages.read_json(run, self.folder, CLUSTER_RANGES)
        return ranges


def size_ranges(records: int, record_bytes: int) -> int:
    """How many ranges keep each near 32 MiB."""
    return max(1, -(-records * record_bytes // (32 << 20)))
