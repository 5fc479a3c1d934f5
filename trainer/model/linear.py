"""The matrix product every projection goes through: the place where precision is decided.

N: rows, I: input features, O: output features. Weights stand as Hugging Face stores them, [O, I].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf  # type: ignore[import-untyped]

Tensor = Any  # TensorFlow ships no types.


class Linear(Protocol):
    """x w^T for a weight w, in the precision of the object.

    dtype: of the product, and of other activations between norms: tf.float32 or tf.bfloat16.
    """

    @property
    def dtype(self) -> Any:
        """As above."""
        ...

    def __call__(self, x: Tensor, w_OI: Tensor) -> Tensor:
        """x [..., I] times w_OI (float32 master weight or a slice of one) transposed: [..., O] in `dtype`."""
        ...


@dataclass(frozen=True)
class PlainLinear:
    """Both factors cast to `dtype`; sums in float32 inside the product."""

    dtype: Any = tf.float32

    def __call__(self, x: Tensor, w_OI: Tensor) -> Tensor:
        """As `Linear`."""
        # Always rank 2: batched products with few batches are wrong in some oneDNN builds, and slower in all.
        x_NI = tf.reshape(tf.cast(x, self.dtype), [-1, x.shape[-1]])
        y_NO = tf.matmul(x_NI, tf.cast(w_OI, self.dtype), transpose_b=True)
        return tf.reshape(y_NO, tf.concat([tf.shape(x)[:-1], [w_OI.shape[0]]], axis=0))
