"""Which experts a token goes to, with which weight, and how their load is kept even. All in float32.

N: tokens, E: experts, G: groups, K: experts a token; B: sequences, T: positions. Equations of arXiv 2412.19437.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.linear import Tensor


@dataclass(frozen=True)
class Routing:
    """experts: int32 [N, K], the chosen; weights: float32 [N, K], what their outputs are multiplied by."""

    experts: Tensor
    weights: Tensor


def route(config: ModelConfig, scores_NE: Tensor, bias_E: Tensor) -> Routing:
    """The K best experts by score + bias among those of the best groups; weights from the scores alone (eqs. 13-16).

    scores_NE: sigmoid of the router's logits. A group's score is the sum of its two best biased scores.
    """
    experts, groups = config.n_routed_experts, config.n_group
    biased_NE = tf.stop_gradient(scores_NE) + bias_E
    if config.topk_group < groups:
        biased_NGe = tf.reshape(biased_NE, [-1, groups, experts // groups])
        group_NG = tf.reduce_sum(tf.math.top_k(biased_NGe, 2, sorted=False).values, axis=-1)
        best = tf.math.top_k(group_NG, config.topk_group, sorted=False).indices
        open_NG = tf.reduce_max(tf.one_hot(best, groups), axis=1) > 0
        # Minus infinity, not 0: biased scores may be negative.
        biased_NE = tf.reshape(tf.where(open_NG[..., None], biased_NGe, float("-inf")), [-1, experts])
    chosen_NK = tf.math.top_k(biased_NE, config.num_experts_per_tok).indices
    weights_NK = tf.gather(scores_NE, chosen_NK, batch_dims=1)
    if config.norm_topk_prob:
        weights_NK /= tf.reduce_sum(weights_NK, axis=-1, keepdims=True) + 1e-20
    return Routing(chosen_NK, weights_NK * config.routed_scaling_factor)


def expert_counts(experts_NK: Tensor, real_N: Tensor, experts: int) -> Tensor:
    """int32 [E]: how many of the real tokens (bool [N]) chose each expert."""
    # Not by tf.math.bincount, which computes how many bins there are, and XLA must know; negative ids count for none.
    ids = tf.where(real_N[:, None], experts_NK, -1)
    return tf.math.unsorted_segment_sum(tf.ones_like(ids), ids, experts)


def balance_loss(config: ModelConfig, scores_NE: Tensor, real_BT: Tensor) -> Tensor:
    """The sequence-wise auxiliary loss, summed over the sequences (eqs. 17-20 without alpha): float32 scalar.

    f_i = E / (K T) * how often expert i is among a token's K best unbiased scores, which has no gradient;
    P_i = mean over tokens of s_i / sum s; the loss of a sequence is sum f_i P_i. T counts the sequence's real tokens;
    a sequence without any adds 0.
    """
    experts, top = config.n_routed_experts, config.num_experts_per_tok
    real_BT1 = tf.cast(real_BT, tf.float32)[..., None]
    s_BTE = tf.reshape(scores_NE, [*real_BT.shape, experts])
    best = tf.math.top_k(tf.stop_gradient(s_BTE), top, sorted=False).indices
    hits_BTE = tf.reduce_sum(tf.one_hot(best, experts), axis=2)
    tokens_B1 = tf.maximum(tf.reduce_sum(real_BT1, axis=1), 1.0)
    f_BE = tf.reduce_sum(hits_BTE * real_BT1, axis=1) * (experts / top) / tokens_B1
    share_BTE = s_BTE / tf.reduce_sum(s_BTE, axis=-1, keepdims=True)
    p_BE = tf.reduce_sum(share_BTE * real_BT1, axis=1) / tokens_B1
    return tf.reduce_sum(f_BE * p_BE)


def update_router_bias(bias: Tensor, counts: Tensor, gamma: Tensor | float) -> Tensor:
    """The next bias, [..., E] as `bias`: up by gamma where the load is below the mean, down where above (sec. 2.1.2).

    counts: [..., E], any number type: tokens of the whole step an expert received, over all processes and microbatches.
    """
    counts = tf.cast(counts, tf.float64)
    short = tf.reduce_mean(counts, axis=-1, keepdims=True) - counts
    return bias + tf.cast(gamma, tf.float32) * tf.cast(tf.sign(short), tf.float32)
