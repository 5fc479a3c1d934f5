"""The matrix product every projection goes through: the place where precision is decided.

N: rows, I: input features, O: output features. Weights stand as Hugging Face stores them, [O, I].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
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

    def __call__(self, x: Tensor, w_OI: Tensor, parts: int = 1) -> Tensor:
        """x [..., I] times w_OI (float32 master weight or a slice of one) transposed: [..., O] in `dtype`.

        parts: how many matrices of as many rows stand in w_OI one above the other; a precision with scales shared by
        neighbours shares none between them.
        """
        ...


def on_rows(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, w_OI: Tensor) -> Tensor:
    """[..., O] for x [..., I] by a `product` of x_NI and w_OI.

    Always rank 2: batched products with few batches are wrong in some oneDNN builds, and slower in all.
    """
    y_NO = product(tf.reshape(x, [-1, x.shape[-1]]), tf.convert_to_tensor(w_OI))
    return tf.reshape(y_NO, tf.concat([tf.shape(x)[:-1], [w_OI.shape[0]]], axis=0))


def matmul(a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False, dtype: Any = None) -> Tensor:
    """Product of [..., rows, columns] of one type, summed in float32 and rounded to nearest; in `dtype`, or that type.

    On CPUs without bfloat16 instructions TensorFlow cuts a bfloat16 product off instead: it is 0.28 % too small, in
    each layer again. There the factors are cast to float32, which is as fast; those casts are kept where TensorFlow
    makes the gradient, so call this where the gradient is written out.
    """
    dtype = dtype or a.dtype
    if a.dtype == tf.bfloat16 and _bfloat16_is_cut_off():
        a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    return tf.cast(tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b), dtype)


@cache
def _bfloat16_is_cut_off() -> bool:
    """Whether 1 + 1.5 * 2^-8, between 1 and 1 + 2^-7, becomes the farther of them."""
    with tf.init_scope():
        sums = tf.matmul(tf.fill([8, 2], tf.ones([], tf.bfloat16)), tf.constant([[1.0], [1.5 * 2**-8]], tf.bfloat16))
        return bool(sums[0, 0] == 1)


@dataclass(frozen=True)
class PlainLinear:
    """Both factors cast to `dtype`."""

    dtype: Any = tf.float32

    def __call__(self, x: Tensor, w_OI: Tensor, parts: int = 1) -> Tensor:
        """As `Linear`; the gradient for w is not rounded to `dtype`."""

        @tf.custom_gradient
        def product(x_NI: Tensor, w_OI: Tensor) -> Any:
            cast_NI, cast_OI = tf.cast(x_NI, self.dtype), tf.cast(w_OI, self.dtype)

            def gradient(dy_NO: Tensor) -> tuple[Tensor, Tensor]:
                # Not before: a cast that equals one of the forward pass would be made there and kept.
                with tf.control_dependencies([dy_NO]):
                    dx_NI = matmul(dy_NO, cast_OI)
                    return tf.cast(dx_NI, x_NI.dtype), matmul(dy_NO, cast_NI, transpose_a=True, dtype=tf.float32)

            return matmul(cast_NI, cast_OI, transpose_b=True), gradient

        return on_rows(product, x, w_OI)
