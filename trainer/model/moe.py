"""A mixture-of-experts layer without token loss: every chosen expert computes every token sent to it.

N: tokens, D: model width, E: experts, M: rows sent to the e experts held here, F: inner width of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.dispatch import Exchange
from trainer.model.ffn import down_projection
from trainer.model.init import Variables
from trainer.model.linear import Linear, Tensor
from trainer.model.norm import rms_norm
from trainer.model.recompute import direct, recomputed
from trainer.model.routing import balance_loss, expert_counts, route


@dataclass(frozen=True)
class Load:
    """What a layer says of its load: counts, int32 [E], of real tokens; balance: its auxiliary loss over sequences;
    left_out: as in `Dispatched`.
    """

    counts: Tensor
    balance: Tensor
    left_out: Tensor | int


class ExpertFeedForward(tf.Module):
    """norm -> router, shared and routed experts (eq. 12); what is added to the residual stream."""

    def __init__(
        self,
        config: ModelConfig,
        prefix: str,
        variables: Variables,
        linear: Linear,
        recompute: bool,
        exchange: Exchange,
    ) -> None:
        super().__init__()
        self._config, self._linear, self._recompute, self._exchange = config, linear, recompute, exchange
        width, inner, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
        shared = inner * config.n_shared_experts
        held = exchange.held(experts)
        self.norm = variables.norm(f"{prefix}.post_attention_layernorm.weight", width)
        self.router = variables.weight(f"{prefix}.mlp.gate.weight", [experts, width])
        self.bias = variables.router_bias(f"{prefix}.mlp.gate.e_score_correction_bias", experts)
        self.gate_up = variables.experts(f"{prefix}.mlp.experts.gate_up_proj", held, [2 * inner, width])
        self.down = variables.experts(f"{prefix}.mlp.experts.down_proj", held, [width, inner])
        at = f"{prefix}.mlp.shared_experts"
        self.shared_gate_up = variables.weight(f"{at}.gate_up_proj.weight", [2 * shared, width])
        self.shared_down = variables.weight(f"{at}.down_proj.weight", [width, shared])

    def __call__(self, x_BTD: Tensor, real_BT: Tensor) -> tuple[Tensor, Load]:
        """float32 [B, T, D] from the residual stream x_BTD, and the load by the tokens that are real."""
        config, linear = self._config, self._linear

        def first(x_BTD: Tensor, norm: Tensor, router: Tensor, shared_gate_up: Tensor) -> tuple[Tensor, ...]:
            normed_ND = tf.reshape(rms_norm(x_BTD, norm, config.rms_norm_eps, tf.float32), [-1, x_BTD.shape[-1]])
            scores_NE = tf.sigmoid(tf.matmul(normed_ND, router, transpose_b=True))
            normed_ND = tf.cast(normed_ND, linear.dtype)
            return normed_ND, scores_NE, linear(normed_ND, shared_gate_up, parts=2)

        keep: Any = recomputed if self._recompute else direct
        normed_ND, scores_NE, shared_NF = keep(first, x_BTD, self.norm, self.router, self.shared_gate_up)
        routing = route(config, scores_NE, self.bias)
        sent = self._exchange.dispatch(normed_ND, routing.experts, config.n_routed_experts)
        y_ND = self._exchange.combine(self._experts(sent.rows, sent.sizes), routing.weights, sent.state)
        y_ND += tf.cast(down_projection(linear, self._recompute, shared_NF, self.shared_down), tf.float32)
        load = Load(
            expert_counts(routing.experts, tf.reshape(real_BT, [-1]), config.n_routed_experts),
            balance_loss(config, scores_NE, real_BT),
            sent.left_out,
        )
        return tf.reshape(y_ND, x_BTD.shape), load

    def _experts(self, rows_MD: Tensor, sizes_e: Tensor | list[int]) -> Tensor:
        """Each held expert on its rows, which stand one expert after another; an expert may have none."""
        linear = self._linear
        outputs = []
        for rows, gate_up, down in zip(
            tf.split(rows_MD, sizes_e, num=self.gate_up.shape[0]),
            tf.unstack(self.gate_up),
            tf.unstack(self.down),
            strict=True,
        ):
            outputs.append(down_projection(linear, self._recompute, linear(rows, gate_up, parts=2), down))
        return tf.concat(outputs, axis=0)
