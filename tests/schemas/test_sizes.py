"""Lanes, groups and rows: whole periods, nothing uncounted, little left over."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import TokenmillError
from schemas.order import Order, plan_sizes
from tests.schemas.test_mixture import weight_lists

LETTERS = "abcdefg"


@given(
    weight_lists(60),
    st.data(),
    st.sampled_from([1, 2, 7, 16, 48, 240]),
    st.integers(40, 300_000),
    st.integers(1000, 2**28),
)
@settings(max_examples=200, deadline=None)
def test_sizes_keep_their_laws(
    weights: tuple[int, ...], data: st.DataObject, lanes: int, record_bytes: int, shard_bytes: int
) -> None:
    common = math.gcd(*weights)
    weights = tuple(weight // common for weight in weights)
    scale = 10 ** data.draw(st.integers(0, 9))
    available = [data.draw(st.integers(bool(weight), 5 * scale)) for weight in weights]
    repeats = [data.draw(st.integers(1, 4)) for _ in weights]
    names = LETTERS[: len(weights)]
    sizes = plan_sizes(
        available,
        weights,
        repeats,
        lanes=lanes,
        record_bytes=record_bytes,
        shard_bytes=shard_bytes,
        names=names,
    )
    tile = sum(sizes.weights)
    assert lanes % sizes.lanes == 0
    assert sizes.period == tile // math.gcd(tile, sizes.lanes)
    assert sizes.rows % sizes.period == 0
    assert sizes.records == sizes.lanes * sizes.groups * sizes.rows == sum(sizes.counts)
    for c, weight in enumerate(sizes.weights):
        assert sizes.counts[c] * tile == weight * sizes.records
        assert sizes.counts[c] <= available[c] * repeats[c]
        assert (sizes.counts[c] > 0) == (weights[c] > 0)
        assert sizes.used[c] == min(available[c], sizes.counts[c])
        assert sizes.used[c] + sizes.unused[c] == available[c]
        assert sizes.repeats[c] <= repeats[c] or not sizes.used[c]
        assert (sizes.repeats[c] - 1) * available[c] < max(sizes.counts[c], 1)
    Order(0, sizes.lanes, sizes.groups, sizes.rows, sizes.weights, tuple(available), tuple(names))

    most = min(have * r // weight for have, r, weight in zip(available, repeats, weights, strict=True) if weight)
    if not most:
        assert sizes.groups == 1
        return
    assert sizes.weights == weights
    assert sizes.records >= 0.8 * most * tile
    # Rows are within 25 % of the wanted, or the nearest there is; fewer only for the sake of 8 groups.
    wanted = Fraction(shard_bytes, record_bytes)
    low, high = math.ceil(wanted * 3 / 4 / sizes.period), math.floor(wanted * 5 / 4 / sizes.period)
    if high < max(low, 1):
        low = high = max(1, math.floor(wanted / sizes.period + Fraction(1, 2)))
    assert sizes.rows <= high * sizes.period
    units = most // (sizes.lanes // math.gcd(tile, sizes.lanes))
    if sizes.rows < low * sizes.period:
        assert sizes.groups < 32
        assert low * 8 > units
    else:
        assert sizes.groups >= min(8, units)


@pytest.mark.parametrize(
    ("available", "weights", "repeats", "lanes", "expected"),
    [
        # lanes, groups, rows, weights, unused
        ([10**9, 10**9], (87, 13), [1, 1], 16, (16, 4605, 15600, (87, 13), (15040, 850576960))),
        ([87_000, 20_000], (87, 13), [1, 1], 16, (16, 10, 625, (87, 13), (0, 7_000))),
        ([2_200, 400], (87, 13), [1, 1], 16, (16, 6, 25, (87, 13), (112, 88))),
        ([300, 60], (87, 13), [1, 1], 16, (4, 3, 25, (87, 13), (39, 21))),
        ([870, 33], (87, 13), [1, 4], 16, (8, 5, 25, (87, 13), (0, 0))),
        ([40, 40], (87, 13), [1, 1], 16, (8, 1, 5, (7, 1), (5, 35))),
        ([3, 1], (87, 13), [1, 1], 16, (1, 1, 3, (2, 1), (1, 0))),
        ([1, 1], (999, 1), [1, 1], 16, (2, 1, 1, (1, 1), (0, 0))),
    ],
)
def test_sizes_by_example(
    available: list[int], weights: tuple[int, ...], repeats: list[int], lanes: int, expected: tuple
) -> None:
    sizes = plan_sizes(
        available,
        weights,
        repeats,
        lanes=lanes,
        record_bytes=8237,
        shard_bytes=1 << 27,
        names=["code", "prose"],
    )
    assert (sizes.lanes, sizes.groups, sizes.rows, sizes.weights, sizes.unused) == expected


def test_a_weighted_component_without_sequences_is_named() -> None:
    with pytest.raises(TokenmillError, match="'prose' has the weight 13/100 but no sequence"):
        plan_sizes([5, 0], (87, 13), [1, 1], lanes=1, record_bytes=9, shard_bytes=99, names=["code", "prose"])


def test_sizes_below_one_are_an_error() -> None:
    with pytest.raises(ValueError, match="lanes=0"):
        plan_sizes([5], (1,), [1], lanes=0, record_bytes=9, shard_bytes=99, names=["code"])
