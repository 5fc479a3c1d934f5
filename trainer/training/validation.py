"""The loss on held-out records, by component."""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf  # type: ignore[import-untyped]

from loader import Shards
from loader.cache import ShardCache
from loader.files import Lease
from trainer.mesh import Mesh
from trainer.model import Model
from trainer.model.linear import Tensor
from trainer.training.records import ValidationRecord


class Validation:
    """Reads a view's validation split, `rows` records at a time in each process of a mesh.

    records: of a component, at most, rounded up to whole batches; None: all. alive: called after each batch. cache: as
    in `Trainer`.
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
        self._alive = alive
        self._model, self._shards, self._mesh, self._masking = model, shards, mesh, document_masking
        self._cache = cache
        self._rows = rows * mesh.processes
        self._batches = {
            name: -(-min(there, records or there) // self._rows) for name, there in sorted(shards.validation.items())
        }
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
        return tuple(self._mesh.all.total((losses.component_losses[0], losses.component_tokens[0])))

    def __call__(self, step: int, position: int, tokens: int) -> ValidationRecord | None:
        """Losses now, said to be after `step`; None if the view holds out nothing."""
        begun = time.perf_counter()
        losses: dict[str, float] = {}
        labels: dict[str, int] = {}
        for name, batches in self._batches.items():
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
            loss, count = 0.0, 0
            for batch in data.take(batches):
                with self._mesh.watched("validation"):
                    summed, met = self._sums(batch)
                loss += float(summed)
                count += int(met)
                self._alive()
            if lease is not None:
                lease.close()
            if count:
                losses[name], labels[name] = loss / count, count
        if not losses:
            return None
        shares = dict(zip(self._shards.components, self._shards.order.weights, strict=True))
        mean = sum(losses[name] * shares[name] for name in losses) / sum(shares[name] for name in losses)
        return ValidationRecord(step, position, tokens, mean, losses, labels, time.perf_counter() - begun)
