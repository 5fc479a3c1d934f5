"""Rotary positions (arXiv 2104.09864) and their extension, YaRN (arXiv 2309.00071).

B: sequences, T: positions, H: heads, R: rotary width, F = R / 2 frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig, Yarn
from trainer.model.linear import Tensor


def yarn_range(yarn: Yarn, rope_theta: float, width: int) -> tuple[int, int]:
    """The first and last frequency between which YaRN passes from keeping to dividing by the factor.

    Frequency i of `width` / 2 turns r times over the original length L0 for i = width ln(L0 / (2 pi r)) / (2 ln theta).
    """

    def index(rotations: float) -> float:
        length = yarn.original_max_position_embeddings
        return width * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope_theta))

    return max(math.floor(index(yarn.beta_fast)), 0), min(math.ceil(index(yarn.beta_slow)), width - 1)


def frequencies(config: ModelConfig) -> np.ndarray:
    """float32 [F], radians a position: theta^(-2i / R), stretched where YaRN says so."""
    width = config.qk_rope_head_dim
    # In float32 throughout, as the reference computes them.
    exponent_F = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    plain_F = (np.float32(1) / np.float32(config.rope_theta) ** exponent_F).astype(np.float32)
    if config.yarn is None:
        return plain_F
    low, high = yarn_range(config.yarn, config.rope_theta, width)
    ramp_F = np.clip((np.arange(width // 2) - low) / (high - low if high != low else 0.001), 0, 1).astype(np.float32)
    return (plain_F / np.float32(config.yarn.factor) * ramp_F + plain_F * (1 - ramp_F)).astype(np.float32)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0


def amplitude(config: ModelConfig) -> float:
    """What cos and sin are multiplied by: 1 without YaRN, and with V3's."""
    yarn = config.yarn
    if yarn is None:
        return 1.0
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor, 1.0)


def softmax_scale(config: ModelConfig) -> float:
    """What query-key products are multiplied by: qk_head_dim^-0.5, times mscale^2 with YaRN."""
    scale = config.qk_head_dim**-0.5
    if config.yarn and config.yarn.mscale_all_dim:
        scale *= _mscale(config.yarn.factor, config.yarn.mscale_all_dim) ** 2
    return float(scale)


@dataclass(frozen=True)
class Rotation:
    """cos and sin, float32 [B or 1, T, R], each standing at both dimensions of a pair; swap: float32 [R, R]."""

    cos: Tensor
    sin: Tensor
    swap: Tensor


def rotation(config: ModelConfig, positions_BT: Tensor) -> Rotation:
    """The rotation at `positions_BT`, int32 [B or 1, T]."""
    width = config.qk_rope_head_dim
    angle_BTF = tf.cast(positions_BT, tf.float32)[..., None] * frequencies(config)
    if config.rope_interleave:
        angle_BTR = tf.repeat(angle_BTF, 2, axis=-1)
        first, second = np.arange(0, width, 2), np.arange(1, width, 2)
    else:
        angle_BTR = tf.concat([angle_BTF, angle_BTF], axis=-1)
        first, second = np.arange(width // 2), np.arange(width // 2, width)
    # x swap = (-x1, x0) for each pair (x0, x1): a product with a small constant, since strided slices are slow.
    swap_RR = np.zeros([width, width], np.float32)
    swap_RR[second, first] = -1
    swap_RR[first, second] = 1
    factor = amplitude(config)
    return Rotation(tf.cos(angle_BTR) * factor, tf.sin(angle_BTR) * factor, tf.constant(swap_RR))


def rotate(x_BTHR: Tensor, by: Rotation) -> Tensor:
    """x_BTHR turned by its position: pair (x0, x1) becomes (x0 cos - x1 sin, x1 cos + x0 sin), in float32."""

    @tf.custom_gradient
    def turn(x_BTHR: Tensor) -> Any:
        cos_BT1R, sin_BT1R = by.cos[:, :, None], by.sin[:, :, None]

        def swapped(value: Tensor, transpose: bool) -> Tensor:
            flat = tf.matmul(tf.reshape(value, [-1, value.shape[-1]]), by.swap, transpose_b=transpose)
            return tf.reshape(flat, tf.shape(value))

        def gradient(dy: Tensor) -> Tensor:
            dy = tf.cast(dy, tf.float32)
            return tf.cast(dy * cos_BT1R + swapped(dy * sin_BT1R, True), x_BTHR.dtype)

        x = tf.cast(x_BTHR, tf.float32)
        return tf.cast(x * cos_BT1R + swapped(x, False) * sin_BT1R, x_BTHR.dtype), gradient

    return turn(x_BTHR)
