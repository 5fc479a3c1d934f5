"""The average of the weights: its formula, and what may change while it is made."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.average import Average, AverageConfig


@given(st.floats(0.01, 0.999), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_it_is_the_weighted_mean_of_all_updates_and_of_nothing_else(decay: float, updates: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=[updates, 3, 2]).astype(np.float32)
    weight = tf.Variable(np.full([3, 2], 1e6, np.float32))  # the first weights are no part of it
    average = Average({"weight": weight}, decay)
    for t, value in enumerate(values, 1):
        weight.assign(value)
        average.update(t)
        weight.assign(np.full([3, 2], np.nan, np.float32))  # the next step may begin
    shares = decay ** np.arange(updates - 1, -1, -1.0)
    expected = np.tensordot(shares / shares.sum(), values.astype(np.float64), 1)
    np.testing.assert_allclose(average.arrays[0].values, expected, rtol=1e-5, atol=1e-6)


def test_it_goes_on_from_what_was_assigned() -> None:
    values = np.random.default_rng(0).normal(size=[6, 5]).astype(np.float32)
    weight = tf.Variable(values[0])

    def updated(average: Average, first: int, last: int) -> np.ndarray:
        for t in range(first, last + 1):
            weight.assign(values[t - 1])
            average.update(t)
        return average.arrays[0].values.copy()

    whole = updated(Average({"weight": weight}, 0.9), 1, 6)
    second = Average({"weight": weight}, 0.9)
    second.arrays[0].assign(updated(Average({"weight": weight}, 0.9), 1, 4))
    np.testing.assert_array_equal(updated(second, 5, 6), whole)


@pytest.mark.parametrize("decay", [0, 1, -0.5, "much"])
def test_a_decay_that_averages_nothing_is_refused(decay: object) -> None:
    with pytest.raises(ValidationError, match="decay"):
        AverageConfig.model_validate({"decay": decay})
