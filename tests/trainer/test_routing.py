"""Routing against a loop over tokens."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.numeric import tiny
from trainer.model import update_router_bias
from trainer.model.routing import balance_loss, expert_counts, route


def brute(config, scores, bias):
    """Chosen experts as sets, and weights by expert."""
    size = config.n_routed_experts // config.n_group
    found = []
    for token in scores:
        biased = token + bias
        group = [np.sort(biased[g * size : (g + 1) * size])[-2:].sum() for g in range(config.n_group)]
        best = np.argsort(group)[::-1][: config.topk_group]
        open_experts = [e for e in range(len(token)) if config.topk_group == config.n_group or e // size in best]
        chosen = sorted(open_experts, key=lambda e: -biased[e])[: config.num_experts_per_tok]
        total = sum(token[e] for e in chosen) if config.norm_topk_prob else 1.0
        found.append({e: token[e] / total * config.routed_scaling_factor for e in chosen})
    return found


@settings(max_examples=40)
@given(st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4), (6, 3)]), st.integers(1, 4), st.booleans(), st.integers(0, 999))
def test_route_equals_the_loop(groups, top, norm, seed):
    rng = np.random.default_rng(seed)
    config = tiny(
        n_routed_experts=12,
        n_group=groups[0],
        topk_group=groups[1],
        num_experts_per_tok=top,
        norm_topk_prob=norm,
        routed_scaling_factor=1.5,
    )
    scores = 1 / (1 + np.exp(-rng.standard_normal([30, 12]).astype(np.float32)))
    # All biased scores negative at times: then a masked group must be less than 0, not 0.
    bias = (rng.standard_normal(12) * 0.5 - rng.integers(0, 3)).astype(np.float32)
    routing = route(config, tf.constant(scores), tf.constant(bias))
    for row, expected in enumerate(brute(config, scores, bias)):
        found = dict(zip(routing.experts[row].numpy().tolist(), routing.weights[row].numpy(), strict=True))
        assert found == pytest.approx(expected, rel=1e-5)


def test_weights_have_a_gradient_and_the_bias_has_none():
    config = tiny()
    scores = tf.constant(np.random.default_rng(0).uniform(size=[9, 8]), tf.float32)
    bias = tf.constant(np.random.default_rng(1).standard_normal(8), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([scores, bias])
        value = tf.reduce_sum(route(config, scores, bias).weights[:, 0])
    of_scores, of_bias = tape.gradient(value, [scores, bias])
    assert of_bias is None
    assert np.count_nonzero(tf.convert_to_tensor(of_scores)) > 0


def test_counts_leave_out_what_is_not_real():
    ids = np.random.default_rng(0).integers(0, 8, [50, 2])
    real = np.random.default_rng(1).uniform(size=50) < 0.6
    expected = np.bincount(ids[real].ravel(), minlength=8)
    np.testing.assert_array_equal(expert_counts(tf.constant(ids, tf.int32), tf.constant(real), 8), expected)


def test_balance_loss_equals_equations_17_to_20():
    config = tiny(n_routed_experts=6, n_group=3, topk_group=1, num_experts_per_tok=2)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 1, [3, 7, 6])
    real = np.ones([3, 7], bool)
    real[1, 4:] = False
    real[2] = False
    expected = 0.0
    for s, mask in zip(scores, real, strict=True):
        kept = s[mask]
        for i in range(6):
            hits = sum(i in np.argsort(token)[-2:] for token in kept)
            if len(kept):
                expected += 6 / (2 * len(kept)) * hits * np.mean(kept[:, i] / kept.sum(1))
    flat = tf.constant(scores.reshape(-1, 6), tf.float32)
    assert float(balance_loss(config, flat, tf.constant(real))) == pytest.approx(expected, rel=1e-5)


def test_balance_loss_of_an_even_load_is_one():
    config = tiny(n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=1)
    scores = tf.constant(np.tile(np.eye(4) * 0.98 + 0.01, [2, 1]), tf.float32)
    assert float(balance_loss(config, scores, tf.ones([1, 8], tf.bool))) == pytest.approx(1.0)


def test_the_bias_moves_against_the_load():
    bias = tf.constant([[0.5, -0.25, 0.0, 0.125], [0.0, 0.0, 0.0, 0.0]])
    counts = tf.constant([[10, 2, 6, 6], [3, 3, 3, 3]])
    np.testing.assert_array_equal(
        update_router_bias(bias, counts, 0.25), [[0.25, 0.0, 0.0, 0.125], [0.0, 0.0, 0.0, 0.0]]
    )


def test_the_bias_sees_one_token_among_billions():
    counts = tf.constant([2_000_000_001, 2_000_000_000], tf.int64)
    np.testing.assert_array_equal(update_router_bias(tf.zeros([2]), counts, 1.0), [-1, 1])
