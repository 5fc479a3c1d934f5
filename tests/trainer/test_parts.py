"""Written-out gradients against TensorFlow's own; experts against the plain sum; the fused head."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.numeric import relative, tiny
from trainer.model.dispatch import LocalExchange
from trainer.model.ffn import swiglu
from trainer.model.init import Variables
from trainer.model.linear import PlainLinear
from trainer.model.loss import head_loss
from trainer.model.moe import ExpertFeedForward
from trainer.model.norm import rms_norm


def compare(ours, plain, inputs, tolerance=2e-6):
    """Same value and same gradients."""
    results = []
    for function in (ours, plain):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
            weight = tf.constant(np.random.default_rng(5).standard_normal(output.shape), tf.float32)
            value = tf.reduce_sum(output * weight)
        results.append([output, *tape.gradient(value, inputs)])
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) < tolerance


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng([seed, *shape]).standard_normal(shape), tf.float32)


def test_rms_norm():
    def plain(x, weight):
        return x / tf.sqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + 1e-3) * weight

    compare(lambda x, w: rms_norm(x, w, 1e-3, tf.float32), plain, [normal(3, 4, 16), normal(16)])
    assert rms_norm(normal(3, 16), normal(16), 1e-6, tf.bfloat16).dtype == tf.bfloat16


def test_swiglu():
    def plain(x):
        gate, up = x[..., :5], x[..., 5:]
        return tf.nn.silu(gate) * up

    compare(swiglu, plain, [normal(7, 10) * 3])


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 99))
def test_head_loss_equals_the_loss_of_whole_logits(count, rows, seed):
    rng = np.random.default_rng(seed)
    labels = tf.constant(rng.integers(0, 11, count), tf.int32)
    weights = tf.constant(rng.integers(0, 2, count), tf.float32)

    def plain(x, head):
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.matmul(x, head, transpose_b=True))
        return tf.reduce_sum(each * weights)

    inputs = [normal(count, 6, seed=seed), normal(11, 6, seed=seed)]
    compare(lambda x, head: head_loss(x, head, labels, weights, rows)[0], plain, inputs, tolerance=1e-5)


def test_head_loss_of_hopeless_labels_is_finite():
    x = tf.constant([[200.0, 0.0]])
    head = tf.constant([[1.0, 0.0], [-1.0, 0.0]])
    summed, each = head_loss(x, head, tf.constant([1]), tf.ones([1]))
    assert float(summed) == float(each[0]) == 400.0


def experts_layer(config):
    variables = Variables(3, 0.3)
    return ExpertFeedForward(config, "l", variables, PlainLinear(), False, LocalExchange())


def plain_moe(config, layer, x):
    """Every expert on every token, then the weighted sum of the chosen."""
    flat = tf.reshape(rms_norm(x, layer.norm, config.rms_norm_eps, tf.float32), [-1, config.hidden_size])
    scores = tf.sigmoid(flat @ tf.transpose(layer.router))
    chosen = tf.math.top_k(scores + layer.bias, config.num_experts_per_tok).indices
    mask = tf.reduce_sum(tf.one_hot(chosen, config.n_routed_experts), axis=1)
    weights = scores * mask * config.routed_scaling_factor
    if config.norm_topk_prob:
        weights /= tf.reduce_sum(scores * mask, axis=1, keepdims=True)

    def apply(gate_up, down):
        gate, up = tf.split(flat @ tf.transpose(gate_up), 2, axis=-1)
        return (tf.nn.silu(gate) * up) @ tf.transpose(down)

    y = apply(layer.shared_gate_up, layer.shared_down)
    for e in range(config.n_routed_experts):
        y += weights[:, e : e + 1] * apply(layer.gate_up[e], layer.down[e])
    return tf.reshape(y, x.shape)


@pytest.mark.parametrize("skew", [False, True], ids=["even", "one_expert"])
@pytest.mark.parametrize("graph", [False, True])
def test_no_token_is_lost(skew, graph):
    """Also with all tokens on one expert, all others without any: values and gradients are those of the plain sum."""
    config = tiny(n_group=1, topk_group=1, num_experts_per_tok=1 if skew else 3, norm_topk_prob=not skew)
    layer = experts_layer(config)
    bias = np.linspace(-0.5, 0.5, 8).astype(np.float32)
    layer.bias.assign(np.where(np.arange(8) == 5, 100.0, 0.0) if skew else bias)
    x = normal(2, 9, 64)
    variables = [layer.norm, layer.router, layer.gate_up, layer.down, layer.shared_gate_up, layer.shared_down]

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            value = tf.reduce_sum(tf.sin(y))
        return [y, *map(tf.convert_to_tensor, tape.gradient(value, [x, *variables]))]

    ours = (tf.function if graph else lambda f: f)(lambda: gradients(lambda x: layer(x, tf.ones([2, 9], tf.bool))[0]))()
    for found, expected in zip(ours, gradients(lambda x: plain_moe(config, layer, x)), strict=True):
        assert relative(found, expected) < 1e-4
    counts = layer(x, tf.ones([2, 9], tf.bool))[1].counts.numpy()
    assert counts.sum() == 18 * config.num_experts_per_tok
    if skew:
        assert counts[5] == 18
