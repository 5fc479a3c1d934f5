"""What products are made in: the linears of the policies float32, bfloat16, fp8_block and fp8_tensor."""

from __future__ import annotations

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import Precision
from trainer.model.linear import Linear, PlainLinear
from trainer.precision.linears import Fp8BlockLinear, Fp8Linear, Fp8TensorLinear

__all__ = ["Fp8BlockLinear", "Fp8Linear", "Fp8TensorLinear", "linear_for"]


def linear_for(policy: Precision) -> Linear:
    """The linear of a policy.

    float32, bfloat16: products and activations of that type. fp8_block: products of FP8 with a scale a tile, the recipe
    of DeepSeek-V3. fp8_tensor: with one scale a tensor. Activations are bfloat16 with both.
    """
    match policy:
        case "float32":
            return PlainLinear(tf.float32)
        case "bfloat16":
            return PlainLinear(tf.bfloat16)
        case "fp8_block":
            return Fp8BlockLinear()
        case "fp8_tensor":
            return Fp8TensorLinear()
