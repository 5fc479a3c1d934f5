"""The quantiser against ml_dtypes, bit for bit; what is not finite; quantising twice."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.trainer.numeric import meaning, quantised
from trainer.precision.quantise import BLOCK, COLUMN, ROW, TENSOR, dequantise, fake_quantise, quantise

TILES = {"row": ROW, "column": COLUMN, "block": BLOCK, "tensor": TENSOR}
FORMS = [(tile, power_of_two) for tile in TILES for power_of_two in (False, True)]
every_tile = pytest.mark.parametrize("tile", TILES)


@cache
def graph(tile, power_of_two=False, jit=False):
    """Values' bytes by float32, scales, dequantised, and fake_quantise's, in one graph for all shapes."""

    def run(x):
        found = quantise(x, TILES[tile], power_of_two)
        return (*found, dequantise(found, TILES[tile], tf.float32), fake_quantise(x, TILES[tile], tf.float32))

    signature = None if jit else [tf.TensorSpec([None, None])]
    return tf.function(run, input_signature=signature, jit_compile=jit)


def some(rows, columns, seed, spread=3):
    """Normal numbers whose size varies by tens from tile to tile and within, zeros of both signs among them."""
    rng = np.random.default_rng([rows, columns, seed])
    sizes = rng.integers(-spread, spread + 1, [-(-rows // 50), -(-columns // 50)]).repeat(50, 0).repeat(50, 1)
    x = rng.standard_normal([rows, columns]) * 10.0 ** (sizes[:rows, :columns] + rng.integers(-2, 3, [rows, columns]))
    x[rng.random(x.shape) < 0.1] = 0.0
    x[rng.random(x.shape) < 0.05] = -0.0
    return x.astype(np.float32)


def same(found, expected):
    """Equal to the bit, and of one type."""
    found = np.asarray(found)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize(("tile", "power_of_two"), FORMS)
@settings(max_examples=25)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 999), st.sampled_from([1, 3, 30]))
@example(128, 256, 0, 3)
@example(129, 127, 0, 3)
@example(1, 1, 0, 3)
def test_values_and_scales_are_those_of_ml_dtypes(tile, power_of_two, rows, columns, seed, spread):
    x = some(rows, columns, seed, spread)
    values, scales = quantised(x, TILES[tile], power_of_two)
    found_values, found_scales, found_meaning, faked = graph(tile, power_of_two)(x)
    same(found_values, values)
    same(found_scales, scales)
    same(found_meaning, meaning(values, scales, TILES[tile]))
    if not power_of_two:
        np.testing.assert_array_equal(faked, found_meaning)


@every_tile
@pytest.mark.parametrize("x", [0.0, -0.0, 1e-45, 1e-30, 9e-5, 1e-4, 1.0, 3e38], ids=str)
def test_constant_tiles(tile, x):
    array = np.full([5, 140], x, np.float32)
    array[2, 3] *= -1
    values, scales = quantised(array, TILES[tile])
    found_values, found_scales, _, faked = graph(tile)(array)
    same(found_values, values)
    same(found_scales, scales)
    np.testing.assert_array_equal(faked, meaning(values, scales, TILES[tile]))
    if x >= 1e-4:
        np.testing.assert_allclose(faked, array, rtol=1e-6)


def test_every_rounding():
    """Beside a 448 the scale is 1: dense samples of all floats to 448, all halfway points and their neighbours."""
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    grid = np.unique(np.abs(codes[np.isfinite(codes)]))
    halfway = (grid[1:] + grid[:-1]) / 2
    bits = np.arange(0, np.float32(448).view(np.int32), 4999, dtype=np.int32)
    y = np.concatenate([grid, halfway, np.nextafter(halfway, 0), np.nextafter(halfway, 999), bits.view(np.float32)])
    x = np.stack([np.full(2 * y.size, 448, np.float32), np.concatenate([y, -y])], axis=1)
    found_values, found_scales, _, faked = graph("row")(x)
    assert (found_scales.numpy() == 1).all()
    same(found_values, x.astype(ml_dtypes.float8_e4m3fn))
    np.testing.assert_array_equal(faked, found_values.numpy().astype(np.float32))


@every_tile
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_is_seen_in_its_tile_alone(tile, bad):
    x = some(200, 300, 1)
    clean = graph(tile)(x)
    x[150, 200] = bad
    rows, columns = TILES[tile]
    top, left = 150 // (rows or 200) * (rows or 200), 200 // (columns or 300) * (columns or 300)
    tile_of = np.s_[top : top + (rows or 200), left : left + (columns or 300)]
    for power_of_two in (False, True):
        for found in graph(tile, power_of_two)(x)[2:]:
            assert np.isnan(found[150, 200])
            if np.isinf(bad):
                assert np.isnan(found[tile_of]).all()
    for found, before in zip(graph(tile)(x)[2:], clean[2:], strict=True):
        outside = np.ones(x.shape, bool)
        outside[tile_of] = False
        np.testing.assert_array_equal(found[outside], before[outside])
    # Nor does the scale hide it from who sees it alone.
    assert not np.isfinite(graph(tile)(x)[1]).all()


@every_tile
@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 999))
def test_quantising_again_changes_nothing(tile, rows, columns, seed):
    x = some(rows, columns, seed)
    values, scales, once, _ = graph(tile)(x)
    again = graph(tile)(once)
    same(again[0], values.numpy())
    same(again[1], scales.numpy())
    # A power of two may become half of it, and its values twice theirs.
    _, _, once, _ = graph(tile, True)(x)
    np.testing.assert_array_equal(graph(tile, True)(once)[2], once)


def test_scales_come_back_for_any_largest_magnitude():
    """A float32 of every 31st fraction between 1 and 2, as a tile of its own."""
    x = (np.arange(0, 1 << 23, 31, dtype=np.int32) | 0x3F800000).view(np.float32)[:, None]
    _, scales, once, _ = graph("row")(x)
    same(scales, x / np.float32(448))
    same(graph("row")(once)[1], scales.numpy())


@every_tile
def test_nothing_is_an_input_too(tile):
    for shape in ([0, 140], [0, 0]):
        values, scales, back, faked = graph(tile)(np.zeros(shape, np.float32))
        assert list(values.shape) == list(back.shape) == list(faked.shape) == shape
        assert tile != "tensor" or scales.shape == [1, 1]


def test_bfloat16_in_and_out():
    x = tf.cast(some(130, 140, 2), tf.bfloat16)
    values, scales = quantised(x.numpy(), ROW)
    found = fake_quantise(x, ROW, tf.bfloat16)
    assert found.dtype == tf.bfloat16
    np.testing.assert_array_equal(
        tf.cast(found, tf.float32), tf.cast(tf.cast(meaning(values, scales, ROW), tf.bfloat16), tf.float32)
    )


@every_tile
def test_static_shapes_eager_and_compiled(tile):
    x = some(130, 200, 3)
    expected = graph(tile)(x)
    for run in (graph(tile, jit=True).python_function, graph(tile, jit=True)):
        for found, value in zip(run(tf.constant(x)), expected, strict=True):
            assert found.shape == value.shape
            np.testing.assert_array_equal(tf.cast(found, tf.float32), tf.cast(value, tf.float32))
