"""SwiGLU feed-forward (arXiv 2002.05202): down(silu(gate(x)) * up(x)).

N: rows, F: inner width. gate and up stand in one matrix, gate first, so that one product makes both.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.init import Variables
from trainer.model.linear import Linear, Tensor
from trainer.model.norm import rms_norm
from trainer.model.recompute import direct, recomputed


@tf.custom_gradient
def swiglu(gate_up: Tensor) -> Any:
    """silu(gate) * up from [..., 2F]: [..., F] in the same type, computed in float32; only the input is kept."""

    def parts() -> tuple[Tensor, Tensor, Tensor]:
        gate, up = tf.split(tf.cast(gate_up, tf.float32), 2, axis=-1)
        return gate, up, tf.sigmoid(gate)

    def gradient(dy: Tensor) -> Tensor:
        with tf.control_dependencies([dy]):
            gate, up, s = parts()
        dy = tf.cast(dy, tf.float32)
        silu = gate * s
        dgate = dy * up * (s + silu * (1 - s))
        return tf.cast(tf.concat([dgate, dy * silu], axis=-1), gate_up.dtype)

    gate, up, s = parts()
    return tf.cast(gate * s * up, gate_up.dtype), gradient


def down_projection(linear: Linear, recompute: bool, gate_up: Tensor, down: Tensor) -> Tensor:
    """down(swiglu(gate_up)), with recompute without keeping what swiglu made."""
    keep: Any = recomputed if recompute else direct
    return keep(lambda gate_up, down: linear(swiglu(gate_up), down), gate_up, down)


class DenseFeedForward(tf.Module):
    """norm -> SwiGLU; what is added to the residual stream."""

    def __init__(self, config: ModelConfig, prefix: str, variables: Variables, linear: Linear, recompute: bool) -> None:
        super().__init__()
        self._eps, self._linear, self._recompute = config.rms_norm_eps, linear, recompute
        width, inner = config.hidden_size, config.intermediate_size
        self.norm = variables.norm(f"{prefix}.post_attention_layernorm.weight", width)
        self.gate_up = variables.weight(f"{prefix}.mlp.gate_up_proj.weight", [2 * inner, width])
        self.down = variables.weight(f"{prefix}.mlp.down_proj.weight", [width, inner])

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] in the linear's type from the residual stream x_BTD."""
        linear = self._linear

        def inner(x_BTD: Tensor, norm: Tensor, gate_up: Tensor) -> Tensor:
            return linear(rms_norm(x_BTD, norm, self._eps, linear.dtype), gate_up, parts=2)

        keep: Any = recomputed if self._recompute else direct
        return down_projection(linear, self._recompute, keep(inner, x_BTD, self.norm, self.gate_up), self.down)
