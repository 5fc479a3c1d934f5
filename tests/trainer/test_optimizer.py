"""AdamW against float64 numpy, and what must stay as it was."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.optimizer import AdamW, OptimizerConfig, squared_norm

SHAPES = {"embedding": (40, 16), "norm": (16,), "experts": (3, 16, 8)}
RATE = 1e-2


def parameters(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: tf.Variable(rng.standard_normal(shape), dtype=tf.float32) for name, shape in SHAPES.items()}


def gradients(seed: int, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng([7, seed])
    return [(rng.standard_normal(shape) * scale).astype(np.float32) for shape in SHAPES.values()]


def reference(start: list[np.ndarray], steps: list[list[np.ndarray]], config: OptimizerConfig) -> list[np.ndarray]:
    """Parameters after the steps: the formulas as they are printed, in float64."""
    p = [value.astype(np.float64) for value in start]
    m = [np.zeros_like(value) for value in p]
    v = [np.zeros_like(value) for value in p]
    for t, step in enumerate(steps, start=1):
        norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in step))
        for i, g in enumerate(step):
            clipped = g.astype(np.float64) * min(1.0, config.clip_norm / norm)
            m[i] = config.beta1 * m[i] + (1 - config.beta1) * clipped
            v[i] = config.beta2 * v[i] + (1 - config.beta2) * clipped**2
            m_hat, v_hat = m[i] / (1 - config.beta1**t), v[i] / (1 - config.beta2**t)
            decay = config.decay if p[i].ndim > 1 else 0.0
            p[i] = p[i] - RATE * decay * p[i] - RATE * m_hat / (np.sqrt(v_hat) + config.eps)
    return p


def run(steps: list[list[np.ndarray]], config: OptimizerConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parameters before and after."""
    held = parameters()
    start = [p.numpy() for p in held.values()]
    optimizer = AdamW(held, config)
    update = tf.function(optimizer.update)
    for step in steps:
        update([tf.constant(g) for g in step], tf.constant(RATE))
    assert int(optimizer.step) == len(steps)
    return start, [p.numpy() for p in held.values()]


def deviation(steps: list[list[np.ndarray]], config: OptimizerConfig) -> float:
    """Root mean square of the distance from the reference, over that of the way the parameters went."""
    start, end = run(steps, config)
    exact = reference(start, steps, config)
    off = sum(np.square(a - b).sum() for a, b in zip(end, exact, strict=True))
    way = sum(np.square(a - b).sum() for a, b in zip(start, exact, strict=True))
    return float(np.sqrt(off / way))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 3.0], ids=["eps_matters", "not_clipped", "clipped"])
@pytest.mark.parametrize(("moments", "at_most"), [("float32", 3e-5), ("bfloat16", 1e-2)])
def test_follows_the_float64_reference(moments: str, at_most: float, scale: float) -> None:
    steps = [gradients(seed, scale * (1 + seed % 5)) for seed in range(60)]
    assert deviation(steps, OptimizerConfig.model_validate({"moments": moments})) < at_most


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_clipped_step_is_the_step_of_the_scaled_gradients(moments: str) -> None:
    config = OptimizerConfig.model_validate({"moments": moments})
    large = gradients(0, 50.0)
    norm = float(tf.sqrt(squared_norm([tf.constant(g) for g in large])))
    assert norm > 100
    _, clipped = run([large, gradients(1, 1e-3)], config)
    _, scaled = run([[g / np.float32(norm) for g in large], gradients(1, 1e-3)], config)
    for a, b in zip(clipped, scaled, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * RATE if moments == "float32" else 2e-2 * RATE)


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_without_gradients_matrices_decay_and_vectors_stay(moments: str) -> None:
    start, end = run(
        [[np.zeros(s, np.float32) for s in SHAPES.values()]] * 3, OptimizerConfig.model_validate({"moments": moments})
    )
    for before, after in zip(start, end, strict=True):
        expected = before * (1 - RATE * 0.1) ** 3 if before.ndim > 1 else before
        np.testing.assert_allclose(after, expected, rtol=1e-6)


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "not allowed"])
def test_a_refused_step_leaves_every_bit(moments: str, bad: Any) -> None:
    held = parameters()
    optimizer = AdamW(held, OptimizerConfig.model_validate({"moments": moments}))
    update = tf.function(optimizer.update)
    assert bool(update([tf.constant(g) for g in gradients(0)], tf.constant(RATE)).applied)
    before = [variable.numpy().tobytes() for variable in (*held.values(), *optimizer.state.values())]
    step = gradients(1)
    if isinstance(bad, float):
        step[2][1, 2, 3] = bad
    found = update([tf.constant(g) for g in step], tf.constant(RATE), allowed=tf.constant(isinstance(bad, float)))
    assert not bool(found.applied)
    assert np.isfinite(float(found.norm)) == (not isinstance(bad, float))
    assert before == [variable.numpy().tobytes() for variable in (*held.values(), *optimizer.state.values())]
    assert int(optimizer.step) == 1


def test_rows_of_an_embedding_are_the_dense_gradient() -> None:
    rows, ids = np.arange(48, dtype=np.float32).reshape(3, 16) / 1000, np.array([5, 2, 5])
    whole = np.zeros(SHAPES["embedding"], np.float32)
    np.add.at(whole, ids, rows)
    sparse, full = parameters(), parameters()
    for held, gradient in ((sparse, tf.IndexedSlices(rows, ids, SHAPES["embedding"])), (full, tf.constant(whole))):
        optimizer = AdamW(held, OptimizerConfig())
        for _ in range(2):
            optimizer.update([gradient, *map(tf.constant, gradients(0)[1:])], tf.constant(RATE))
    for name in SHAPES:
        assert sparse[name].numpy().tobytes() == full[name].numpy().tobytes()


def test_a_norm_that_is_given_is_used() -> None:
    step = gradients(0, 0.001)
    held, same = parameters(), parameters()
    AdamW(held, OptimizerConfig(moments="float32")).update(
        [tf.constant(g) for g in step], tf.constant(RATE), norm=tf.constant(1000.0)
    )
    AdamW(same, OptimizerConfig(moments="float32")).update([tf.constant(g) / 1000.0 for g in step], tf.constant(RATE))
    for name in SHAPES:
        np.testing.assert_allclose(held[name].numpy(), same[name].numpy(), atol=1e-7)


def test_the_state_has_stable_names_in_a_stable_order() -> None:
    optimizer = AdamW(parameters(), OptimizerConfig())
    assert list(optimizer.state) == ["step", "m/embedding", "m/norm", "m/experts", "v/embedding", "v/norm", "v/experts"]
    assert {variable.dtype for name, variable in optimizer.state.items() if name != "step"} == {tf.bfloat16}
    assert optimizer.state["step"].dtype == tf.int64


# -- bfloat16 moments --------------------------------------------------------------------------------------------


def rounded(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


@given(st.floats(2**-8, 1.0))
def test_bfloat16_moments_always_fall_within_the_bound(loss: float) -> None:
    v = (1 + np.arange(128, dtype=np.float32) / 128).astype(np.float32)  # every bfloat16 in [1, 2)
    assert (rounded(np.float32(1 - loss) * v) < v).all()


def test_bfloat16_moments_may_never_fall_beyond_the_bound() -> None:
    v = np.float32(1 + 1 / 128)
    assert rounded(np.float32(0.999) * v) == v
    with pytest.raises(ValidationError, match="float32"):
        OptimizerConfig(beta2=0.999)
    assert OptimizerConfig(beta2=0.999, moments="float32").beta2 == 0.999


def test_bfloat16_v_follows_the_exact_one_up_and_down() -> None:
    rng = np.random.default_rng(3)
    exact, stored = np.zeros(4096), np.zeros(4096, np.float32)
    worst = []
    for step in range(300):
        size = 1.0 if step < 150 else 0.01  # gradients fall to a hundredth
        g = rng.standard_normal(4096).astype(np.float32) * size
        exact = 0.95 * exact + 0.05 * g.astype(np.float64) ** 2
        stored = rounded(np.float32(0.95) * stored + np.float32(0.05) * g * g)
        if step > 20:
            worst.append(abs(float((np.sqrt(stored) / np.sqrt(exact)).mean()) - 1))
    # No drift: the mean over elements of sqrt(v), which divides the update, is exact to half a percent at all times.
    assert max(worst) < 5e-3
    assert np.abs(np.sqrt(stored) / np.sqrt(exact) - 1).max() < 0.03


@pytest.mark.parametrize("raw", [{"beta_1": 0.9}, {"decay": "0.1"}, {"moments": "float16"}, {"clip_norm": 0.0}])
def test_ill_typed_or_unknown_keys_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig.model_validate(raw)
