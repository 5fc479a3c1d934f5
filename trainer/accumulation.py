"""Gradients of a batch made a microbatch at a time: the memory of one microbatch, the gradients of the whole batch.

A loss that is a mean over the batch (over labels, over sequences) is a sum divided by a count. Counts follow from masks
alone, so they are known before any loss is computed. Each microbatch divides its sums by the counts of the whole batch;
losses and gradients of the whole are then plain sums over microbatches, whatever share of the labels each one has.
Means of microbatch means would weigh a label by the padding beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf  # type: ignore[import-untyped]

from schemas.errors import Refused
from trainer.model.linear import Tensor
from trainer.optimizer import Variable, dense

Batch = dict[str, Tensor]
# From a microbatch to the scalar to differentiate, divided by counts of the whole batch, and to a nest of tensors of
# static shape, to be summed over microbatches.
LossSums = Callable[[Batch], tuple[Tensor, Any]]


class Accumulated(NamedTuple):
    """gradients: one tensor a variable, of its shape; sums: the nest that the loss function gives, added up."""

    gradients: list[Tensor]
    sums: Any


def accumulate(loss_sums: LossSums, variables: Sequence[Variable], batch: Batch, microbatch: int) -> Accumulated:
    """Gradients and sums of `batch`, `microbatch` rows at a time, in order; to be called in a tf.function.

    batch: tensors [B, …] of static shape; rows are taken in order. Raises Refused if microbatch does not divide B.
    """
    (rows,) = {value.shape[0] for value in batch.values()}
    if rows % microbatch:
        raise Refused(f"a batch of {rows} sequences cannot be cut into microbatches of {microbatch}; choose a divisor")

    @tf.function(autograph=False)
    def part(index: Tensor) -> tuple[list[Tensor], Any]:
        # By tf.slice, whose size is static to XLA, too.
        piece = {
            name: tf.slice(value, [index * microbatch, *[0] * (len(value.shape) - 1)], [microbatch, *value.shape[1:]])
            for name, value in batch.items()
        }
        with tf.GradientTape() as tape:
            loss, sums = loss_sums(piece)
        found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [dense(gradient) for gradient in found], sums

    if rows == microbatch:
        return Accumulated(*part(tf.constant(0)))

    def add(index: Tensor, so_far: Any) -> Any:
        return index + 1, tf.nest.map_structure(tf.add, so_far, part(index))

    outputs = part.get_concrete_function(tf.TensorSpec([], tf.int32)).structured_outputs
    zeros = tf.nest.map_structure(lambda output: tf.zeros(output.shape, output.dtype), outputs)
    # A loop, not copies: microbatches must not run side by side, or their activations exist side by side.
    _, total = tf.while_loop(
        lambda index, _: index < rows // microbatch, add, (tf.constant(0), zeros), parallel_iterations=1
    )
    return Accumulated(*total)
