"""Trading computation for memory: what a function made is thrown away and made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor


def direct(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """function(*inputs), everything its gradient needs kept."""
    return function(*inputs)


def recomputed(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """function(*inputs), of which only the inputs are kept; same values and same gradients.

    function: of tensors, to a tensor or a tuple of them; whatever it needs a gradient for must be among its inputs.
    In a tf.function, what the gradient needs no value of (such as the last product) is not computed again.
    """

    @tf.custom_gradient
    def kept(*inputs: Tensor) -> Any:
        def gradient(*upstream: Tensor) -> Any:
            # Not before the gradient arrives, or it would be kept after all.
            with tf.control_dependencies(upstream):
                again = [tf.identity(value) for value in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            return tape.gradient(outputs, again, upstream if isinstance(outputs, tuple) else upstream[0])

        return function(*inputs), gradient

    return kept(*(tf.convert_to_tensor(value) for value in inputs))
