"""Microbatches add up to the batch, whatever share of the labels each has."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from schemas.errors import Refused
from trainer.accumulation import Accumulated, accumulate

ROWS, LENGTH, IDS, WIDTH = 6, 5, 11, 4


class Toy:
    """An embedding and a weight; a loss that is a mean over labels plus a mean over sequences; counts of ids."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.embedding = tf.Variable(rng.standard_normal([IDS, WIDTH]), dtype=tf.float32)
        self.weight = tf.Variable(rng.standard_normal([WIDTH]), dtype=tf.float32)
        self.unused = tf.Variable(tf.ones([3]))
        self.variables = [self.embedding, self.weight, self.unused]

    def loss(self, part: dict[str, Any], labels: Any, sequences: Any) -> tuple[Any, dict[str, Any]]:
        x_BTD = tf.gather(self.embedding, part["ids"])
        each_BT = tf.square(tf.linalg.matvec(tf.tanh(x_BTD), self.weight) - 1.0)
        mean = tf.reduce_sum(each_BT * part["mask"]) / labels
        spread = tf.reduce_sum(tf.math.reduce_variance(each_BT, axis=1)) / sequences
        counts = tf.math.bincount(part["ids"], minlength=IDS, maxlength=IDS)
        sums = {"mean": mean, "spread": spread, "counts": tf.ensure_shape(counts, [IDS])}
        return mean + 0.1 * spread, sums


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    mask = rng.random([ROWS, LENGTH]) < 0.5
    mask[2:4] = False  # a microbatch of two without a label
    mask[0] = True
    return {"ids": tf.constant(rng.integers(0, IDS, [ROWS, LENGTH])), "mask": tf.constant(mask, tf.float32)}


def run(batch: dict[str, Any], microbatch: int) -> Accumulated:
    toy = Toy()
    labels = tf.reduce_sum(batch["mask"])
    function = tf.function(
        lambda: accumulate(lambda part: toy.loss(part, labels, ROWS), toy.variables, batch, microbatch)
    )
    return function()


@pytest.mark.parametrize("microbatch", [1, 2, 3])
def test_microbatches_add_up_to_the_batch(batch: dict[str, Any], microbatch: int) -> None:
    whole, parts = run(batch, ROWS), run(batch, microbatch)
    for one, other in zip(whole.gradients, parts.gradients, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-7)
    for name in ("mean", "spread"):
        np.testing.assert_allclose(parts.sums[name], whole.sums[name], rtol=1e-6)
    assert parts.sums["counts"].numpy().tolist() == whole.sums["counts"].numpy().tolist()
    assert int(tf.reduce_sum(parts.sums["counts"])) == ROWS * LENGTH


def test_the_whole_batch_has_the_gradient_of_the_loss(batch: dict[str, Any]) -> None:
    toy = Toy()
    with tf.GradientTape() as tape:
        loss, _ = toy.loss(batch, tf.reduce_sum(batch["mask"]), ROWS)
    embedding, weight = tape.gradient(loss, [toy.embedding, toy.weight])
    found = run(batch, 2).gradients
    np.testing.assert_allclose(found[0], tf.convert_to_tensor(embedding), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1], weight, rtol=1e-5, atol=1e-7)
    assert not found[2].numpy().any()


def test_means_of_microbatch_means_would_differ(batch: dict[str, Any]) -> None:
    """That the labels of this batch are spread unevenly enough for the tests above to see a wrong weight."""
    toy = Toy()
    halves = [{name: value[i : i + 3] for name, value in batch.items()} for i in (0, 3)]
    means = [float(toy.loss(half, tf.reduce_sum(half["mask"]), 3)[1]["mean"]) for half in halves]
    assert abs(np.mean(means) - float(run(batch, 3).sums["mean"])) > 1e-2


def test_a_microbatch_must_divide_the_batch(batch: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="6 sequences cannot be cut into microbatches of 4"):
        run(batch, 4)
