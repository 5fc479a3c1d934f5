"""A mixture-of-experts layer without token loss: every chosen expert computes every token sent to it.

N: tokens, D: model width, E: experts, K: experts a token, M = N K rows sent to experts, e: experts held here,
F: inner width of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.ffn import down_projection
from trainer.model.init import Variables
from trainer.model.linear import Linear, Tensor
from trainer.model.norm import rms_norm
from trainer.model.recompute import direct, recomputed
from trainer.model.routing import balance_loss, expert_counts, route


class Exchange(Protocol):
    """How tokens reach the experts and come back: the place for expert parallelism."""

    def held(self, experts: int) -> range:
        """Which of a layer's experts this process holds."""
        ...

    def dispatch(self, x_ND: Tensor, experts_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, Any]:
        """Rows [M, D] sorted by held expert, int32 [e] rows of each, and what `combine` needs. Differentiable in x."""
        ...

    def combine(self, rows_MD: Tensor, weights_NK: Tensor, state: Any) -> Tensor:
        """float32 [N, D]: sum over K of weight times the expert's row. Differentiable in rows and weights."""
        ...


class LocalExchange:
    """All experts in this process. Both directions and both gradients are gathers, never scatters."""

    def held(self, experts: int) -> range:
        """All of them."""
        return range(experts)

    def dispatch(self, x_ND: Tensor, experts_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, Any]:
        """As `Exchange`; the state is two permutations: slot of each row [M], row of each slot [N, K]."""
        ids_M = tf.reshape(experts_NK, [-1])
        by_expert = tf.dynamic_partition(tf.range(tf.size(ids_M)), ids_M, experts)
        slot_M = tf.concat(by_expert, axis=0)
        row_NK = tf.reshape(tf.math.invert_permutation(slot_M), tf.shape(experts_NK))
        top = experts_NK.shape[1]

        @tf.custom_gradient
        def send(x_ND: Tensor) -> Any:
            def gradient(drows_MD: Tensor) -> Tensor:
                return tf.cast(tf.add_n(_by_choice(tf.cast(drows_MD, tf.float32), row_NK)), x_ND.dtype)

            return tf.gather(x_ND, slot_M // top), gradient

        return send(x_ND), tf.stack([tf.size(part) for part in by_expert]), (slot_M, row_NK)

    def combine(self, rows_MD: Tensor, weights_NK: Tensor, state: Any) -> Tensor:
        """As `Exchange`."""
        slot_M, row_NK = state

        @tf.custom_gradient
        def receive(rows_MD: Tensor, weights_NK: Tensor) -> Any:
            weights_N1 = tf.split(weights_NK, weights_NK.shape[1], axis=1)

            def gradient(dy_ND: Tensor) -> tuple[Tensor, Tensor]:
                dy_MD = tf.gather(dy_ND, slot_M // weights_NK.shape[1])
                weight_M1 = tf.gather(tf.reshape(weights_NK, [-1, 1]), slot_M)
                dots_M = tf.reduce_sum(dy_MD * tf.cast(rows_MD, tf.float32), axis=-1)
                return tf.cast(dy_MD * weight_M1, rows_MD.dtype), tf.gather(dots_M, row_NK)

            chosen = _by_choice(rows_MD, row_NK)
            y_ND = tf.add_n([tf.cast(r, tf.float32) * w for r, w in zip(chosen, weights_N1, strict=True)])
            return y_ND, gradient

        return receive(rows_MD, weights_NK)


def _by_choice(rows_MD: Tensor, row_NK: Tensor) -> list[Tensor]:
    """For each of the K choices, the rows [N, D] the tokens' experts made."""
    return [tf.gather(rows_MD, row_N) for row_N in tf.unstack(row_NK, axis=1)]


@dataclass(frozen=True)
class Load:
    """What a layer says of its load: counts, int32 [E], of real tokens; balance: its auxiliary loss over sequences."""

    counts: Tensor
    balance: Tensor


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
        rows_MD, counts_e, state = self._exchange.dispatch(normed_ND, routing.experts, config.n_routed_experts)
        y_ND = self._exchange.combine(self._experts(rows_MD, counts_e), routing.weights, state)
        y_ND += tf.cast(down_projection(linear, self._recompute, shared_NF, self.shared_down), tf.float32)
        load = Load(
            expert_counts(routing.experts, tf.reshape(real_BT, [-1]), config.n_routed_experts),
            balance_loss(config, scores_NE, real_BT),
        )
        return tf.reshape(y_ND, x_BTD.shape), load

    def _experts(self, rows_MD: Tensor, counts_e: Tensor) -> Tensor:
        """Each held expert on its rows, which stand one expert after another; an expert may have none."""
        linear = self._linear
        outputs = []
        for rows, gate_up, down in zip(
            tf.split(rows_MD, counts_e, num=self.gate_up.shape[0]),
            tf.unstack(self.gate_up),
            tf.unstack(self.down),
            strict=True,
        ):
            outputs.append(down_projection(linear, self._recompute, linear(rows, gate_up, parts=2), down))
        return tf.concat(outputs, axis=0)
