"""Multi-head latent attention (arXiv 2412.19437, eqs. 1-11).

B: sequences, T: positions, D: model width, H: heads, C: query latent, L: key-value latent, R: rotary width.
K: query and key width of a head, of which the first part has no position, V: value width of a head.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.attention import attention, recomputed_attention
from trainer.model.init import Variables
from trainer.model.linear import Linear, Tensor
from trainer.model.norm import rms_norm
from trainer.model.recompute import direct, recomputed
from trainer.model.rope import Rotation, rotate, softmax_scale

# Of the norms of the two latents: a constant in the published code, whatever rms_norm_eps is.
LATENT_EPS = 1e-6


class LatentAttention(tf.Module):
    """norm -> attention -> output projection; what is added to the residual stream."""

    def __init__(self, config: ModelConfig, prefix: str, variables: Variables, linear: Linear, recompute: bool) -> None:
        super().__init__()
        self._config, self._linear, self._recompute = config, linear, recompute
        heads, width = config.num_attention_heads, config.hidden_size
        at = f"{prefix}.self_attn"
        self.norm = variables.norm(f"{prefix}.input_layernorm.weight", width)
        self.q: tuple[Tensor, ...]
        if config.q_lora_rank is None:
            self.q_first = variables.weight(f"{at}.q_proj.weight", [heads * config.qk_head_dim, width])
            self.q = ()
        else:
            self.q_first = variables.weight(f"{at}.q_a_proj.weight", [config.q_lora_rank, width])
            self.q = (
                variables.norm(f"{at}.q_a_layernorm.weight", config.q_lora_rank),
                variables.weight(f"{at}.q_b_proj.weight", [heads * config.qk_head_dim, config.q_lora_rank]),
            )
        latent = config.kv_lora_rank
        self.kv_a = variables.weight(f"{at}.kv_a_proj_with_mqa.weight", [latent + config.qk_rope_head_dim, width])
        self.kv_norm = variables.norm(f"{at}.kv_a_layernorm.weight", latent)
        up = heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.kv_b = variables.weight(f"{at}.kv_b_proj.weight", [up, latent])
        self.o = variables.weight(f"{at}.o_proj.weight", [width, heads * config.v_head_dim])

    def __call__(self, x_BTD: Tensor, by: Rotation, segment_ids_BT: Tensor | None) -> Tensor:
        """[B, T, D] in the linear's type from the residual stream x_BTD."""
        config, linear = self._config, self._linear

        def down(x_BTD: Tensor, norm: Tensor, q_first: Tensor, kv_a: Tensor) -> tuple[Tensor, Tensor]:
            normed_BTD = rms_norm(x_BTD, norm, config.rms_norm_eps, linear.dtype)
            return linear(normed_BTD, q_first), linear(normed_BTD, kv_a)

        def up(
            q_BTC: Tensor, kv_BTL: Tensor, kv_norm: Tensor, kv_b: Tensor, *q: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            return self._up(q_BTC, kv_BTL, kv_norm, kv_b, q, by)

        keep: Any = recomputed if self._recompute else direct
        latents = keep(down, x_BTD, self.norm, self.q_first, self.kv_a)
        inputs = [tf.convert_to_tensor(value) for value in (*latents, self.kv_norm, self.kv_b, *self.q)]
        scale = softmax_scale(config)
        if self._recompute:
            o_BTHV = recomputed_attention(up, inputs, segment_ids_BT, scale)
        else:
            o_BTHV = attention(*up(*inputs), segment_ids_BT, scale)
        batch, length = x_BTD.shape[:2]
        return linear(tf.reshape(o_BTHV, [batch, length, self.o.shape[1]]), self.o)

    def _up(
        self, q_BTC: Tensor, kv_BTL: Tensor, kv_norm: Tensor, kv_b: Tensor, q: tuple[Tensor, ...], by: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads from the latents (the first of which holds the queries already where
        there is no query latent).
        """
        config, linear = self._config, self._linear
        heads, nope, rope = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        batch, length = q_BTC.shape[:2]
        if q:
            q_BTC = linear(rms_norm(q_BTC, q[0], LATENT_EPS, linear.dtype), q[1])
        # Split along the last dimension, since the gradient of a slice is a padded copy.
        q_nope, q_rope = tf.split(tf.reshape(q_BTC, [batch, length, heads, nope + rope]), [nope, rope], axis=-1)
        latent_BTL, k_rope_BTR = tf.split(kv_BTL, [config.kv_lora_rank, rope], axis=-1)
        kv = linear(rms_norm(latent_BTL, kv_norm, LATENT_EPS, linear.dtype), kv_b)
        kv = tf.reshape(kv, [batch, length, heads, nope + config.v_head_dim])
        k_nope, v_BTHV = tf.split(kv, [nope, config.v_head_dim], axis=-1)
        k_rope = tf.broadcast_to(rotate(k_rope_BTR[:, :, None], by), [batch, length, heads, rope])
        return (
            tf.concat([q_nope, rotate(q_rope, by)], axis=-1),
            tf.concat([k_nope, k_rope], axis=-1),
            v_BTHV,
        )
