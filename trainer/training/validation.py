"""The loss on held-out records, by component."""

from __future__ import annotations

import time

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.held_out import HeldOut, weighted
from trainer.model import Model
from trainer.model.linear import Tensor
from trainer.training.records import ValidationRecord


class Validation:
    """Measures a model on held-out records, whenever it is called. All processes of a mesh call it."""

    def __init__(self, model: Model, held_out: HeldOut) -> None:
        self._model, self._held_out = model, held_out
        self._sums = tf.function(self._graph, autograph=False)

    def _graph(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        component = tf.where(batch["component"] < 0, -1, 0)
        losses = self._model.loss(
            batch["tokens"],
            batch["segment_ids"],
            batch["positions"],
            batch["loss_mask"],
            component=component,
            components=1,
        )
        return tuple(self._held_out.mesh.all.total((losses.component_losses[0], losses.component_tokens[0])))

    def __call__(self, step: int, position: int, tokens: int) -> ValidationRecord | None:
        """Losses now, said to be after `step`; None if the view holds out nothing."""
        begun = time.perf_counter()
        losses: dict[str, float] = {}
        labels: dict[str, int] = {}
        for name, (loss, count) in self._held_out.sums(self._sums, "validation"):
            if count:
                losses[name], labels[name] = float(loss / count), int(count)
        if not losses:
            return None
        mean = weighted(losses, self._held_out.shards)
        return ValidationRecord(step, position, tokens, mean, losses, labels, time.perf_counter() - begun)
