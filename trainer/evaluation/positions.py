"""The loss on held-out records of a view, by component and by position.

B: sequences, T: positions, N: buckets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from trainer.evaluation.results import ByPosition, Losses, losses
from trainer.held_out import HeldOut
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
    """Measures a model on held-out records. All processes of a mesh call it."""

    def __init__(self, model: Model, held_out: HeldOut) -> None:
        self._model, self._held_out = model, held_out
        self._edges = edges(held_out.shards.sequence_length)
        self._program: Callable[..., tuple[Tensor, Tensor]] | None = None

    def _sums(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `_graph`, traced with the first batch; as a method's tf.function it would warn of being traced again."""
        if self._program is None:
            self._program = tf.function(self._graph, autograph=False).get_concrete_function(batch)
        return self._program(batch)

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
        return tuple(self._held_out.mesh.all.total((summed, counted)))

    def __call__(self) -> dict[str, Losses]:
        """By component; without those that hold out nothing."""
        found = {}
        for name, sums in self._held_out.sums(self._sums, "evaluation"):
            summed, counted = sums  # [2, N] each
            if labels := int(counted[0].sum()):
                curves = (self._curve(summed[kind], counted[kind]) for kind in (0, 1))
                found[name] = losses(float(summed[0].sum()), labels, *curves)
        return found

    def _curve(self, summed_N: np.ndarray, counted_N: np.ndarray) -> ByPosition:
        means = [float(loss / count) if count else None for loss, count in zip(summed_N, counted_N, strict=True)]
        return ByPosition(self._edges, means, [int(count) for count in counted_N])
