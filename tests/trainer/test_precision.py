"""The linears of FP8: each product against numpy, which weights they see, and a whole model beside float32."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.numeric import batch_of, loss_and_gradients, meaning, quantised, relative, tiny
from trainer.model import Model, PlainLinear
from trainer.optimizer import OptimizerConfig
from trainer.precision import Fp8BlockLinear, Fp8Linear, Fp8TensorLinear, linear_for
from trainer.precision.quantise import BLOCK, COLUMN, ROW, TENSOR
from trainer.step import TrainStep, optimizer_of

FP8 = ("fp8_block", "fp8_tensor")
every_fp8 = pytest.mark.parametrize("policy", FP8)


def bfloat16(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def fake(x, tile, power_of_two=False):
    return meaning(*quantised(x, tile, power_of_two), tile)


def apart(function, x, parts, axis):
    return np.concatenate([function(part) for part in np.split(x, parts, axis)], axis)


def oracle(policy, x, w, dy, parts):
    """y, dx and dw in float64 of what the policy multiplies."""
    if policy == "fp8_tensor":
        x8, w8, dy8 = (fake(value, TENSOR, True).astype(np.float64) for value in (x, w, dy))
        return x8 @ w8.T, dy8 @ w8, dy8.T @ x8
    x8, w8 = bfloat16(fake(x, ROW)), bfloat16(apart(lambda w: fake(w, BLOCK), w, parts, 0))
    along = bfloat16(apart(lambda dy: fake(dy, ROW), dy, parts, 1))
    x_across, dy_across = fake(x8, COLUMN), fake(dy, COLUMN)
    found = [(x8, w8.T), (along, w8), (dy_across.T, x_across)]
    return [a.astype(np.float64) @ b.astype(np.float64) for a, b in found]


@cache
def products(policy, parts):
    """A graph for any number of rows, as experts have them."""
    linear = linear_for(policy)

    @tf.function
    def run(x, w, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = linear(x, w, parts)
        return y, *tape.gradient(y, [x, w], dy)

    return run


def case(rows, inputs, outputs, seed=0):
    """x, w, dy; sizes vary by a hundred from feature to feature and token to token."""
    rng = np.random.default_rng([rows, inputs, outputs, seed])
    x = rng.standard_normal([rows, inputs]) * 10 ** rng.uniform(-1, 1, [inputs])
    dy = rng.standard_normal([rows, outputs]) * 10 ** rng.uniform(-6, -4, [rows, 1])
    w = rng.standard_normal([outputs, inputs]) * 0.02
    return bfloat16(x), w.astype(np.float32), bfloat16(dy)


@every_fp8
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "parts"),
    [(256, 128, 128, 1), (150, 200, 130, 1), (1, 64, 48, 1), (37, 140, 192, 2), (129, 128, 512, 2)],
)
def test_products_are_those_of_the_quantised_values(policy, rows, inputs, outputs, parts):
    x, w, dy = case(rows, inputs, outputs)
    dynamic = [
        tf.TensorSpec([None, inputs], tf.bfloat16),
        tf.TensorSpec(w.shape),
        tf.TensorSpec([None, outputs], tf.bfloat16),
    ]
    run = products(policy, parts).get_concrete_function(*dynamic)
    y, dx, dw = run(tf.cast(x, tf.bfloat16), tf.constant(w), tf.cast(dy, tf.bfloat16))
    assert (y.dtype, dx.dtype, dw.dtype) == (tf.bfloat16, tf.bfloat16, tf.float32)
    for found, expected, tolerance in zip(
        (y, dx, dw), oracle(policy, x, w, dy, parts), (3e-3, 3e-3, 1e-6), strict=True
    ):
        assert relative(tf.cast(found, tf.float32), expected) < tolerance
    # Close to what is not quantised, and not that.
    for found, exact in zip((y, dx, dw), (x @ w.T, dy @ w, dy.T @ x), strict=True):
        assert 4e-3 < relative(tf.cast(found, tf.float32), exact) < 0.1


@every_fp8
def test_no_rows(policy):
    dynamic = [tf.TensorSpec([None, 64], tf.bfloat16), tf.TensorSpec([48, 64]), tf.TensorSpec([None, 48], tf.bfloat16)]
    run = products(policy, 1).get_concrete_function(*dynamic)
    y, dx, dw = run(tf.zeros([0, 64], tf.bfloat16), tf.ones([48, 64]), tf.zeros([0, 48], tf.bfloat16))
    assert y.shape == [0, 48]
    assert dx.shape == [0, 64]
    np.testing.assert_array_equal(dw, np.zeros([48, 64]))


@every_fp8
def test_shapes_and_types_before_the_last_dimension(policy):
    """Float32 activations with more dimensions, a variable as weight; eager as in a graph."""
    linear = linear_for(policy)
    assert linear.dtype == tf.bfloat16
    x, w, _ = case(6, 64, 48)
    x, w = tf.constant(x.reshape(2, 3, 64)), tf.Variable(w)

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = linear(x, w)
            value = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
        return y, *tape.gradient(value, [x, w])

    y, dx, dw = run()
    assert y.shape == [2, 3, 48]
    assert dx.shape == x.shape
    assert (dx.dtype, dw.dtype) == (tf.float32, tf.float32)
    for eager, in_graph in zip((y, dx, dw), tf.function(run)(), strict=True):
        np.testing.assert_array_equal(tf.cast(eager, tf.float32), tf.cast(in_graph, tf.float32))


@every_fp8
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("where", [0, 1, 2], ids=["x", "w", "dy"])
def test_what_is_not_finite_reaches_the_gradients(policy, bad, where):
    values = [value.copy() for value in case(6, 64, 48)]
    values[where][3, 7] = bad
    x, w, dy = values
    y, dx, dw = products(policy, 1)(tf.cast(x, tf.bfloat16), tf.constant(w), tf.cast(dy, tf.bfloat16))
    seen = [not np.isfinite(tf.cast(value, tf.float32)).all() for value in (y, dx, dw)]
    assert seen == [[True, False, True], [True, True, False], [False, True, True]][where]


@pytest.mark.parametrize(("rows", "columns", "parts"), [(130, 200, 1), (256, 128, 2), (192, 140, 2), (40, 30, 2)])
@every_fp8
def test_stored_weights_are_what_is_multiplied(policy, rows, columns, parts):
    """By a few lines of numpy: E4M3 times the scale of its 128 x 128 block of its part."""
    _, w, _ = case(1, columns, rows)
    w[: rows // 2] *= 9
    linear = linear_for(policy)
    assert isinstance(linear, Fp8Linear)
    values, scales = linear.stored(tf.constant(w), parts)
    assert scales.shape == [parts * -(-rows // parts // 128), -(-columns // 128)]
    pairs = zip(np.split(values.numpy(), parts), np.split(scales.numpy(), parts), strict=True)
    whole = np.concatenate([meaning(*pair, BLOCK) for pair in pairs])
    product = linear(tf.eye(columns), tf.constant(w), parts)
    np.testing.assert_array_equal(tf.transpose(tf.cast(product, tf.float32)), bfloat16(whole))


def test_policies():
    assert linear_for("float32") == PlainLinear(tf.float32)
    assert linear_for("bfloat16") == PlainLinear(tf.bfloat16)
    assert linear_for("fp8_block") == Fp8BlockLinear()
    assert linear_for("fp8_tensor") == Fp8TensorLinear()
    assert not isinstance(linear_for("bfloat16"), Fp8Linear)


# Every expert takes every token: what an expert computes may move a little, but no token to another expert.
CONFIG = tiny(
    num_hidden_layers=2, n_routed_experts=4, num_experts_per_tok=4, n_group=1, topk_group=1, initializer_range=0.1
)
BATCH = batch_of([[9, 12, 4], [25], [5, 1, 2, 6]], 25, 0, 512)
WEIGHTS = {"mtp_weight": 0.3, "balance_weight": 0.01}


@cache
def whole_model(policy, recompute=False):
    model = Model(CONFIG, seed=1, linear=linear_for(policy), recompute=recompute)
    return loss_and_gradients(model, BATCH, **WEIGHTS)


def cosine(found, expected):
    found, expected = (np.asarray(value, np.float64).ravel() for value in (found, expected))
    return found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)


@every_fp8
def test_a_model_is_near_float32(policy):
    """Most of each weight's gradient points where float32's does."""
    output, gradients = whole_model(policy)
    exact, expected = whole_model("float32")
    assert abs(float(output["main"]) / float(exact["main"]) - 1) < 5e-3
    cosines = [cosine(found, wanted) for found, wanted in zip(gradients, expected, strict=True)]
    assert min(cosines) > 0.92
    assert 0.97 < np.median(cosines) < 0.9999


@every_fp8
def test_recomputing_gives_the_same_bits(policy):
    kept, recomputed = whole_model(policy), whole_model(policy, recompute=True)
    assert float(kept[0]["total"]) == float(recomputed[0]["total"])
    for one, other in zip(kept[1], recomputed[1], strict=True):
        np.testing.assert_array_equal(one, other)


@every_fp8
def test_twenty_steps(policy):
    """All finite, the loss falls; a weight that is not finite stops everything."""
    model = Model(
        tiny(num_hidden_layers=2, num_nextn_predict_layers=0), seed=3, linear=linear_for(policy), recompute=True
    )
    step = TrainStep(model, optimizer_of(model, OptimizerConfig()), microbatch=3)
    batch = BATCH | {"component": tf.zeros([3], tf.int32)}
    outputs = [step(batch, 3e-3, 1e-3, 0.3) for _ in range(20)]
    assert all(bool(output.applied) for output in outputs)
    losses = [float(output.losses.main) for output in outputs]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 1
    weight = model.layers[1].experts.down
    weight.assign(weight * np.float32("inf"))
    before = [value.numpy() for value in model.variables_in_order]
    assert not bool(step(batch, 3e-3, 1e-3, 0.3).applied)
    for value, old in zip(model.variables_in_order, before, strict=True):
        np.testing.assert_array_equal(value, old)
