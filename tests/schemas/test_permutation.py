"""The keyed permutation: bijective, invertible, even, and the same for ever."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.order import Permutation


@given(st.integers(1, 3000), st.text(max_size=5), st.integers(0, 2**40))
@settings(max_examples=100, deadline=None)
def test_a_permutation_is_one_and_inverts(n: int, key: str, tweak: int) -> None:
    permutation = Permutation(n, key)
    images = permutation.forward(np.arange(n), tweak)
    assert np.array_equal(np.sort(images), np.arange(n))
    assert np.array_equal(permutation.inverse(images, tweak), np.arange(n))


@given(st.integers(2**31, 2**62), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_large_domains_are_exact(n: int, seed: int) -> None:
    i = np.random.default_rng(seed).integers(0, n, 200)
    i[:2] = 0, n - 1
    permutation = Permutation(n, "large")
    images = permutation.forward(i, i % 5)
    assert images.min() >= 0
    assert images.max() < n
    assert np.array_equal(permutation.inverse(images, i % 5), i)


def test_a_vector_of_tweaks_is_as_one_tweak_at_a_time() -> None:
    permutation = Permutation(100_003, "k")
    i, tweak = np.arange(100_003).reshape(1, -1), np.array([[0], [7], [2**40]])
    together = permutation.forward(i, tweak)
    assert together.shape == (3, 100_003)
    for row, t in zip(together, tweak[:, 0], strict=True):
        assert np.array_equal(row, permutation.forward(i[0], t))
    assert len({row.tobytes() for row in together}) == 3


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_permutations_are_evenly_spread_over_tweaks(n: int) -> None:
    images = Permutation(n, "even").forward(np.arange(n), np.arange(24_000)[:, None])
    _, seen = np.unique(images @ n ** np.arange(n), return_counts=True)
    expected = 24_000 / math.factorial(n)
    assert seen.size == math.factorial(n)
    degrees = seen.size - 1
    assert ((seen - expected) ** 2 / expected).sum() < degrees + 4 * math.sqrt(2 * degrees)  # chi-square, 4 sigma


def test_the_algorithm_is_pinned() -> None:
    small = Permutation(1000, "golden")
    assert small.forward(range(8)).tolist() == [424, 2, 338, 544, 17, 796, 214, 821]
    assert small.forward(range(8), 3).tolist() == [750, 137, 402, 557, 901, 205, 220, 636]
    large = Permutation(2**40 + 1, "golden").forward([0, 1, 2**40])
    assert large.tolist() == [894427384525, 930449984124, 613532510714]


def test_positions_outside_the_domain_are_an_error() -> None:
    for bad in (-1, 10):
        with pytest.raises(ValueError, match=r"\[0, 10\)"):
            Permutation(10, "k").forward([0, bad])
    with pytest.raises(ValueError, match="not 0"):
        Permutation(0, "k")
