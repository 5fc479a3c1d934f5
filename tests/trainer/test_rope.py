import math

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.numeric import tiny
from trainer.model.rope import amplitude, frequencies, rotate, rotation, softmax_scale, yarn_range
from trainer.presets import preset

LONG = preset("deepseek_v3_671b_long")


def test_yarn_numbers_of_v3():
    assert yarn_range(LONG.yarn, LONG.rope_theta, 64) == (10, 23)
    assert 0.1 * math.log(40) + 1 == pytest.approx(1.36888795)
    assert softmax_scale(LONG) == pytest.approx(0.13523378, abs=1e-8)
    assert softmax_scale(preset("deepseek_v3_671b")) == pytest.approx(0.07216878, abs=1e-8)
    assert amplitude(LONG) == 1.0


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones():
    plain, stretched = frequencies(preset("deepseek_v3_671b")), frequencies(LONG)
    ratio = plain / stretched
    np.testing.assert_allclose(ratio[:11], 1)
    np.testing.assert_allclose(ratio[23:], 40, rtol=1e-6)
    assert (np.diff(ratio[10:24]) > 0).all()


def test_without_mscale_all_dim_cos_and_sin_carry_the_factor():
    config = LONG.model_copy(update={"yarn": LONG.yarn.model_copy(update={"mscale_all_dim": 0.0})})
    assert amplitude(config) == pytest.approx(1.36888795)
    assert softmax_scale(config) == pytest.approx(192**-0.5)


@pytest.mark.parametrize("interleave", [True, False])
def test_pairs_turn_as_complex_numbers(interleave):
    config = tiny(rope_interleave=interleave)
    rng = np.random.default_rng(0)
    x = rng.standard_normal([2, 5, 3, 8]).astype(np.float32)
    positions = rng.integers(0, 200, [2, 5])
    pairs = (x[..., 0::2], x[..., 1::2]) if interleave else (x[..., :4], x[..., 4:])
    turned = (pairs[0] + 1j * pairs[1]) * np.exp(1j * positions[..., None, None] * frequencies(config))
    expected = np.empty_like(x)
    if interleave:
        expected[..., 0::2], expected[..., 1::2] = turned.real, turned.imag
    else:
        expected[..., :4], expected[..., 4:] = turned.real, turned.imag
    by = rotation(config, tf.constant(positions, tf.int32))
    x = tf.constant(x)
    weight = tf.constant(rng.standard_normal(x.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = rotate(x, by)
        value = tf.reduce_sum(found * weight)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # A rotation's gradient is the rotation back, which undoes it.
    np.testing.assert_allclose(rotate(tape.gradient(value, x), by), weight, atol=2e-5)
