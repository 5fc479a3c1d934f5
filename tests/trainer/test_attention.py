"""Attention by tiles equals attention with the whole matrix, and never holds that."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.trainer.numeric import naive_attention
from trainer.model.attention import attention, recomputed_attention


def with_gradients(function, inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)
        weight = np.random.default_rng(1).standard_normal(output.shape)
        value = tf.reduce_sum(tf.cast(output, tf.float32) * weight)
    return [output, *tape.gradient(value, inputs)]


def inputs_of(rng, batch, length, heads, width, value):
    shapes = ([batch, length, heads, width], [batch, length, heads, width], [batch, length, heads, value])
    return [tf.constant(rng.standard_normal(shape), tf.float32) for shape in shapes]


@settings(max_examples=12)
@given(st.data(), st.integers(1, 40), st.integers(1, 48), st.integers(1, 3), st.booleans(), st.booleans())
def test_tiles_equal_the_whole(data, length, tile, batch, segmented, padded):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    inputs = inputs_of(rng, batch, length, data.draw(st.integers(1, 3)), 5, 4)
    segments = None
    if segmented:
        ids = 1 + np.sort(rng.integers(0, 4, [batch, length]), axis=1)
        if padded:
            ids[:, rng.integers(0, length + 1) :] = 0
        segments = tf.constant(ids, tf.int32)
    tiled = with_gradients(lambda q, k, v: attention(q, k, v, segments, 0.6, tile), inputs)
    whole = with_gradients(lambda q, k, v: naive_attention(q, k, v, segments, 0.6), inputs)
    for found, expected in zip(tiled, whole, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_scores_beyond_the_range_of_exp_are_no_trouble():
    q, k, v = inputs_of(np.random.default_rng(0), 1, 32, 2, 8, 4)
    for found, expected in zip(
        with_gradients(lambda q, k, v: attention(q, k, v, None, 60.0, 8), [q, k, v]),
        with_gradients(lambda q, k, v: naive_attention(q, k, v, None, 60.0), [q, k, v]),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_recomputed_attention_has_the_same_gradients():
    rng = np.random.default_rng(3)
    x = tf.constant(rng.standard_normal([2, 20, 3, 6]), tf.float32)
    w = tf.constant(rng.standard_normal([6, 6]), tf.float32)

    def project(x, w):
        return x @ w, tf.sin(x), x * 2

    kept = with_gradients(lambda x, w: attention(*project(x, w), None, 0.4, 8), [x, w])
    again = with_gradients(lambda x, w: recomputed_attention(project, [x, w], None, 0.4, 8), [x, w])
    for found, expected in zip(again, kept, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_bfloat16_is_near_float32():
    inputs = inputs_of(np.random.default_rng(4), 2, 50, 2, 8, 8)
    exact = attention(*inputs, None, 0.35, 16)
    rough = attention(*(tf.cast(value, tf.bfloat16) for value in inputs), None, 0.35, 16)
    assert rough.dtype == tf.bfloat16
    assert np.abs(tf.cast(rough, tf.float32) - exact).max() < 0.05


PEAK = """
import resource, sys
import tensorflow as tf
from trainer.model.attention import attention

length = int(sys.argv[1])

@tf.function
def step(q, k, v):
    with tf.GradientTape() as tape:
        tape.watch([q, k, v])
        value = tf.reduce_sum(attention(q, k, v, None, 0.2))
    return tape.gradient(value, [q, k, v])

step(*[tf.random.stateless_normal([1, length, 2, 16], [i, 0]) for i in range(3)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(length: int) -> int:
    made = subprocess.run(
        [sys.executable, "-c", PEAK, str(length)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return int(made.stdout)


@pytest.mark.slow
def test_memory_grows_with_the_length_and_not_its_square():
    """Two heads of 16,384 x 16,384 float32 scores alone would be 2 GiB; allowed are 240 MiB more."""
    short, long = peak(1024), peak(16384)
    assert long - short < 15360 * 16 * 1024
