"""Weights that are kept exactly, and the pattern that keeps every prefix of the order within one record."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.errors import Refused
from schemas.order import integer_weights, pattern


def prefix_error(components: np.ndarray, weights: tuple[int, ...]) -> Fraction:
    """The largest |count_c(p) - p·a_c/D| over all components c and prefixes p, exactly."""
    tile = sum(weights)
    worst = 0
    for c, weight in enumerate(weights):
        count = np.cumsum(components == c)
        worst = max(worst, int(np.abs(tile * count - weight * np.arange(1, components.size + 1)).max()))
    return Fraction(worst, tile)


def bound(weights: tuple[int, ...]) -> Fraction:
    """Tijdeman's: 1 - 1/(2k-2) for k components that occur, 0 for one."""
    k = sum(weight > 0 for weight in weights)
    return 1 - Fraction(1, 2 * k - 2) if k > 1 else Fraction(0)


@st.composite
def weight_lists(draw: st.DrawFn, largest: int) -> tuple[int, ...]:
    weights = draw(st.lists(st.integers(0, largest), min_size=1, max_size=7))
    assume(any(weights))
    return tuple(weights)


@pytest.mark.parametrize(
    ("given_weights", "integers"),
    [
        ([0.87, 0.13], (87, 13)),
        ([Decimal("0.5"), "0.25", 0.25], (2, 1, 1)),
        (["0.333", "0.667"], (333, 667)),
        (["1/3", "2/3"], (1, 2)),
        ([1], (1,)),
        ([1.0, 0.0], (1, 0)),
    ],
)
def test_weights_become_the_least_integers(given_weights: list, integers: tuple[int, ...]) -> None:
    assert integer_weights(given_weights) == integers


@pytest.mark.parametrize(
    ("given_weights", "sentence"),
    [
        ([0.87, 0.12], "sum to 0.99, not 1"),
        ([0.8701, 0.1299], "common denominator 10000; at most 1000"),
        ([1 / 3, 2 / 3], "sum to|common denominator"),
        ([1.5, -0.5], "-0.5 is not a number from 0 to 1"),
        (["nan", 1], "'nan' is not a number"),
        (["1/0"], "'1/0' is not a number"),
        ([], "no weights"),
    ],
)
def test_weights_that_cannot_be_kept_exactly_are_refused(given_weights: list, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        integer_weights(given_weights)


@given(weight_lists(140))
@settings(max_examples=150, deadline=None)
def test_every_prefix_of_the_pattern_is_within_tijdemans_bound(weights: tuple[int, ...]) -> None:
    one = pattern(weights)
    assert np.bincount(one, minlength=len(weights)).tolist() == list(weights)
    assert prefix_error(np.tile(one, 2), weights) <= bound(weights) < 1


def test_the_obvious_greedy_breaks_what_the_pattern_keeps() -> None:
    weights, tile = (1, 28, 9, 3, 28), 69
    count, greedy = [0] * 5, []
    for n in range(1, tile + 1):
        greedy.append(max(range(5), key=lambda c: n * weights[c] - count[c] * tile))
        count[greedy[-1]] += 1
    assert prefix_error(np.array(greedy), weights) > 1
    assert prefix_error(pattern(weights), weights) <= Fraction(7, 8)
