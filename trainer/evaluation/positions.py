"""The loss on held-out records of a view, by component and by position.

B: sequences, T: positions, N: buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader import Shards
from loader.cache import ShardCache
from loader.files import Lease
from trainer.evaluation.results import ByPosition, Losses, losses
from trainer.mesh import Mesh
from trainer.model import Model
from trainer.model.linear import Tensor

FIRST = 16
"""Positions of the first bucket; the next one ends at twice that, and so on."""


def edges(length: int) -> list[int]:
    """0, FIRST, 2 FIRST, 4 FIRST, …, length + 1: labels of a view stand at positions 1 to length."""
    found = [0, FIRST]
    while 2 * found[-1] < length:
        found.append(2 * found[-1])
    return [*(edge for edge in found if edge < length), length + 1]


class LossByPosition:
    """Reads a view's validation split, `rows` records at a time in each process of a mesh, all of which call it.

    records: of a component, at most, rounded up to whole batches; None: all. alive: called after each batch. cache:
    the view's, if it is remote.
    """

    def __init__(
        self,
        model: Model,
        shards: Shards,
        mesh: Mesh,
        rows: int,
        records: int | None,
        document_masking: bool,
        alive: Callable[[], None],
        cache: ShardCache | None = None,
    ) -> None:
        self._model, self._shards, self._mesh, self._cache = model, shards, mesh, cache
        self._rows, self._records = rows * mesh.processes, records
        self._masking, self._alive = document_masking, alive
        self._edges = edges(shards.sequence_length)
        self._sums = tf.function(self._graph, autograph=False)

    def _graph(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums of cross-entropy and labels by bucket, float32 [2, N]: of all records, and of whole documents."""
        positions = batch["positions"]
        each_BT, weights_BT = self._model.cross_entropy(
            batch["tokens"], batch["segment_ids"], positions, batch["loss_mask"]
        )
        weights_BT *= tf.cast(batch["component"] >= 0, tf.float32)[:, None]
        bucket_BT = tf.searchsorted(self._edges[1:-1], tf.reshape(positions[:, 1:], [-1]), side="right")
        last = positions.shape[1] - 1
        whole_B1 = tf.cast((positions[:, -1:] == last) & (batch["segment_ids"][:, -1:] == 1), tf.float32)

        def by_bucket(value_BT: Tensor) -> Tensor:
            return tf.math.unsorted_segment_sum(tf.reshape(value_BT, [-1]), bucket_BT, len(self._edges) - 1)

        summed = tf.stack([by_bucket(each_BT * weights_BT * kind) for kind in (1.0, whole_B1)])
        counted = tf.stack([by_bucket(weights_BT * kind) for kind in (1.0, whole_B1)])
        return tuple(self._mesh.all.total((summed, counted)))

    def __call__(self) -> dict[str, Losses]:
        """By component; without those that hold out nothing."""
        found = {}
        for name, there in sorted(self._shards.validation.items()):
            batches = -(-min(there, self._records or there) // self._rows)
            lease = None if self._cache is None else Lease(self._cache)
            data = self._shards.dataset(
                self._rows,
                self._mesh.rank,
                self._mesh.processes,
                split="validation",
                component=name,
                document_masking=self._masking,
                cache=lease,
            )
            sums = np.zeros([2, 2, len(self._edges) - 1])
            for batch in data.take(batches):
                with self._mesh.watched("evaluation"):
                    sums += np.stack([value.numpy() for value in self._sums(batch)])
                self._alive()
            if lease is not None:
                lease.close()
            total, labels = float(sums[0, 0].sum()), int(sums[1, 0].sum())
            if labels:
                curves = (self._curve(sums[0, kind], sums[1, kind]) for kind in (0, 1))
                found[name] = losses(total, labels, *curves)
        return found

    def _curve(self, summed_N: np.ndarray, counted_N: np.ndarray) -> ByPosition:
        means = [float(loss / count) if count else None for loss, count in zip(summed_N, counted_N, strict=True)]
        return ByPosition(self._edges, means, [int(count) for count in counted_N])


def weighted(by_component: dict[str, Losses], shards: Shards) -> float:
    """The mean of components' losses by their shares in the view's order; NaN where there is none."""
    shares = dict(zip(shards.components, shards.order.weights, strict=True))
    total = sum(shares[name] for name in by_component)
    return sum(each.loss * shares[name] for name, each in by_component.items()) / total if total else math.nan
