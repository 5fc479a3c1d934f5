"""Experts with static shapes: every expert computes as many rows, its `capacity`, so that XLA can compile the step.

Where an expert has fewer tokens its rows are padded with zeros, which add nothing to any gradient. Where it has more,
some find no place: `left_out` counts them, a training step then commits nothing and is made again with the next larger
capacity (`trainer.step`). The last capacity is the number of tokens, which no expert can exceed, as a token's choices
differ. So nothing is ever dropped, and results are those of `LocalExchange` to rounding.

C: capacity, rows of an expert; other letters as in `trainer.model.dispatch`, M = E C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.dispatch import Dispatched, LocalExchange, Places, send
from trainer.model.linear import Tensor

# The least capacity, by the mean number of tokens of an expert; each next one is twice as large.
_SPARE = 2


def capacities(tokens: int, top: int, experts: int) -> list[int]:
    """What to try, rising, for so many tokens with `top` experts each: 2, 4, 8, … times the mean load, then all."""
    found = []
    capacity = -(-_SPARE * tokens * top // experts)
    while capacity < tokens:
        found.append(capacity)
        capacity *= 2
    return [*found, tokens]


class StaticExchange(LocalExchange):
    """An `Exchange` within one process; outside of `within`, for what XLA does not compile, as `LocalExchange`."""

    def __init__(self) -> None:
        self._capacity: int | None = None

    @contextmanager
    def within(self, capacity: int) -> Iterator[None]:
        """While a graph is traced: experts have `capacity` rows in it."""
        self._capacity = capacity
        try:
            yield
        finally:
            self._capacity = None

    def dispatch(self, x_ND: Tensor, experts_NK: Tensor, experts: int) -> Dispatched:
        """As `Exchange`, for shapes that are static; the state is `Places`."""
        if self._capacity is None:
            return super().dispatch(x_ND, experts_NK, experts)
        places, left_out = _places(experts_NK, experts, self._capacity)
        return Dispatched(send(x_ND, places), [self._capacity] * experts, places, left_out)


def _places(experts_NK: Tensor, experts: int, capacity: int) -> tuple[Places, Tensor]:
    """Where slots stand in E C rows, in the order of tokens for each expert; int32, how many find no place."""
    ids_S = tf.reshape(experts_NK, [-1])
    slots = ids_S.shape[0]
    slot_S = tf.argsort(ids_S, stable=True)
    counts_E = tf.math.unsorted_segment_sum(tf.ones_like(ids_S), ids_S, experts)
    first_E = tf.cumsum(counts_E, exclusive=True)
    row_C = tf.range(capacity)
    slot_EC = tf.gather(slot_S, tf.minimum(first_E[:, None] + row_C, slots - 1))
    real_EC = row_C < counts_E[:, None]
    # Of a slot among those of its expert; that of one without a place is of no account.
    rank_S = tf.argsort(slot_S) - tf.gather(first_E, ids_S)
    row_S = ids_S * capacity + tf.minimum(rank_S, capacity - 1)
    left_out = tf.reduce_sum(tf.maximum(counts_E - capacity, 0))
    flat = Places(tf.reshape(slot_EC, [-1]), tf.reshape(row_S, experts_NK.shape), tf.reshape(real_EC, [-1]))
    return flat, left_out
