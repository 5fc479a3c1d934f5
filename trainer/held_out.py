"""The held-out records of a view, summed over by component: how validation and evaluation read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader import Shards
from loader.cache import ShardCache
from loader.files import Lease
from trainer.mesh import Mesh


class HeldOut:
    """Reads a view's validation split, `rows` records at a time in each process of a mesh, all of which do so together.

    records: of a component, at most, rounded up to a multiple of `rows`; for any number of processes the same ones.
    None: all. alive: called after each batch. cache: the view's, if it is remote.
    """

    def __init__(
        self,
        shards: Shards,
        mesh: Mesh,
        rows: int,
        records: int | None,
        document_masking: bool,
        alive: Callable[[], None],
        cache: ShardCache | None = None,
    ) -> None:
        self.shards, self.mesh = shards, mesh
        self._rows, self._records = rows, records
        self._masking, self._alive, self._cache = document_masking, alive, cache

    def sums(
        self, of: Callable[[dict[str, Any]], Sequence[Any]], what: str
    ) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
        """Each component's name, and the tensors that `of` makes of a batch, added up over its batches in float64.

        what: is done here, for the error where another process is lost.
        """
        for name, there in sorted(self.shards.validation.items()):
            totals: tuple[np.ndarray, ...] = ()
            together = self._rows * self.mesh.processes
            limit = -(-min(there, self._records or there) // self._rows) * self._rows
            with nullcontext() if self._cache is None else closing(Lease(self._cache)) as lease:
                data = self.shards.dataset(
                    together,
                    self.mesh.rank,
                    self.mesh.processes,
                    split="validation",
                    component=name,
                    document_masking=self._masking,
                    cache=lease,
                )
                for number, batch in enumerate(data.take(-(-limit // together))):
                    # A process has every processes-th record; what is beyond the limit counts for nothing.
                    record = number * together + self.mesh.rank + self.mesh.processes * tf.range(self._rows)
                    batch["component"] = tf.where(record < limit, batch["component"], -1)
                    with self.mesh.watched(what):
                        values = [np.asarray(value, np.float64) for value in of(batch)]
                    totals = tuple(map(np.add, totals, values)) if totals else tuple(values)
                    self._alive()
            if totals:
                yield name, totals


def weighted(losses: Mapping[str, float], shards: Shards) -> float:
    """The mean of components' losses by their shares in the view's order; NaN where there is none."""
    shares = dict(zip(shards.components, shards.order.weights, strict=True))
    total = sum(shares[name] for name in losses)
    return sum(loss * shares[name] for name, loss in losses.items()) / total if total else math.nan
