"""Linears whose three products have both factors in E4M3 (arXiv 2412.19437, section 3.3).

Fprop y = x w^T, Dgrad dx = dy w, Wgrad dw = dy^T x. Values are quantised, then multiplied as what they mean: y and dx
by products of bfloat16, dw by one of float32. All sums are float32.

N: rows, I: input features, O: output features. Weights stand as Hugging Face stores them, [O, I].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Linear, Tensor, matmul, on_rows
from trainer.precision.quantise import BLOCK, COLUMN, ROW, SIDE, TENSOR, Quantised, fake_quantise, quantise


@runtime_checkable
class Fp8Linear(Linear, Protocol):
    """A linear that multiplies by weights of FP8."""

    def stored(self, w_OI: Tensor, parts: int = 1) -> Quantised:
        """w_OI as it is multiplied by: E4M3 [O, I], and float32 scales of blocks of 128 x 128 counted from the start of
        each of `parts` equal parts of O: [parts * ceil(O / parts / 128), ceil(I / 128)].
        """
        ...


@dataclass(frozen=True)
class Fp8BlockLinear:
    """The paper's tiles: x and dy 1 x 128 along the dimension summed over, w 128 x 128.

    For Wgrad, whose sum goes over rows, dy and the x that Fprop saw (quantised before) are cut 128 x 1.
    """

    dtype: Any = tf.bfloat16

    def __call__(self, x: Tensor, w_OI: Tensor, parts: int = 1) -> Tensor:
        """As `Linear`; float32 gradient for w."""

        @tf.custom_gradient
        def product(x_NI: Tensor, w_OI: Tensor) -> Any:
            x8_NI = fake_quantise(x_NI, ROW, self.dtype)
            w8_OI = _apart(lambda w: fake_quantise(w, BLOCK, self.dtype), w_OI, parts, axis=0)

            def gradient(dy_NO: Tensor) -> tuple[Tensor, Tensor]:
                along_NO = _apart(lambda dy: fake_quantise(dy, ROW, self.dtype), dy_NO, parts, axis=1)
                dx_NI = matmul(along_NO, w8_OI)
                across = [fake_quantise(factor, COLUMN, tf.float32) for factor in (dy_NO, x8_NI)]
                return tf.cast(dx_NI, x_NI.dtype), matmul(*across, transpose_a=True)

            return matmul(x8_NI, w8_OI, transpose_b=True), gradient

        return on_rows(product, x, w_OI)

    def stored(self, w_OI: Tensor, parts: int = 1) -> Quantised:
        """As `Fp8Linear`."""
        found = [quantise(part, BLOCK) for part in tf.split(w_OI, parts)]
        return Quantised(*(tf.concat(values, axis=0) for values in zip(*found, strict=True)))


@dataclass(frozen=True)
class Fp8TensorLinear:
    """One scale a tensor, a power of two: what XLA's GPU compiler can turn into products of FP8.

    It looks for convert -> multiply by a broadcast scalar -> dot, so the casts stand in the graph. A power of two makes
    the values before the dot exact in bfloat16.
    """

    dtype: Any = tf.bfloat16

    def __call__(self, x: Tensor, w_OI: Tensor, parts: int = 1) -> Tensor:
        """As `Linear`, parts sharing one scale; float32 gradient for w."""

        @tf.custom_gradient
        def product(x_NI: Tensor, w_OI: Tensor) -> Any:
            x8_NI, w8_OI = _by_tensor(x_NI), _by_tensor(w_OI)

            def gradient(dy_NO: Tensor) -> tuple[Tensor, Tensor]:
                dy8_NO = _by_tensor(dy_NO)
                dx_NI = matmul(_meaning(dy8_NO, self.dtype), _meaning(w8_OI, self.dtype))
                dw_OI = matmul(_meaning(dy8_NO, tf.float32), _meaning(x8_NI, tf.float32), transpose_a=True)
                return tf.cast(dx_NI, x_NI.dtype), dw_OI

            return matmul(_meaning(x8_NI, self.dtype), _meaning(w8_OI, self.dtype), transpose_b=True), gradient

        return on_rows(product, x, w_OI)

    def stored(self, w_OI: Tensor, parts: int = 1) -> Quantised:
        """As `Fp8Linear`: the one scale, repeated."""
        values, scales = _by_tensor(w_OI)
        rows, columns = w_OI.shape
        blocks = [parts * math.ceil(rows / parts / SIDE), math.ceil(columns / SIDE)]
        return Quantised(values, tf.broadcast_to(scales, blocks))


def _by_tensor(x: Tensor) -> Quantised:
    return quantise(x, TENSOR, True)


def _meaning(quantised: Quantised, dtype: Any) -> Tensor:
    """Value times scale, the scale a scalar."""
    return tf.cast(quantised.values, dtype) * tf.cast(tf.reshape(quantised.scales, []), dtype)


def _apart(function: Callable[[Tensor], Tensor], x: Tensor, parts: int, axis: int) -> Tensor:
    """function(x), of each part by itself where tiles would lie across two."""
    if x.shape[axis] // parts % SIDE == 0 or parts == 1:
        return function(x)
    return tf.concat([function(part) for part in tf.split(x, parts, axis)], axis)
