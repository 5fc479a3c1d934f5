"""FP8 by tiles: numbers of E4M3 and one float32 scale a tile (arXiv 2412.19437, section 3.3).

For a tile with largest magnitude a: scale s = max(a, 1e-4) / 448, stored value E4M3(x / s), meaning value * s. E4M3
(float8_e4m3fn) has 4 significant bits, least step 2^-9, greatest value 448, a NaN and no infinity; rounding is to
nearest even. The last tile of a row or column may be smaller.

- Nothing overflows: |x / s| exceeds 448 by rounding alone, and all below 464 rounds to 448. So nothing is clipped.
- What is not finite stays so: a NaN stays NaN; an infinity makes the scale infinite and its whole tile NaN.
- Quantising what was dequantised changes nothing: the largest magnitude is stored as 448 exactly, and 448 s, rounded to
  float32, gives s again for every s that is a float32 divided by 448.

N: rows, K: columns; n x k tiles of r x c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor

E4M3 = tf.dtypes.experimental.float8_e4m3fn
SIDE = 128
GREATEST = 448.0
LEAST_AMAX = 1e-4
_LEAST_NORMAL = 2.0**-6

# Rows and columns of a tile; None: all.
Tile = tuple[int | None, int | None]
ROW: Tile = (1, SIDE)
COLUMN: Tile = (SIDE, 1)
BLOCK: Tile = (SIDE, SIDE)
TENSOR: Tile = (None, None)


class Quantised(NamedTuple):
    """values: E4M3 [N, K]; scales: float32 [n, k], positive."""

    values: Tensor
    scales: Tensor


def _traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """In a graph, a call of a graph of `function` of its own, made once for each shape and type of its first argument.

    A model has hundreds of calls and few shapes; all those operations anew would make its tracing five times as long.
    """

    @cache
    def graph(shape: tuple[int | None, ...], dtype: Any, *others: Any) -> Any:
        with tf.init_scope():
            return tf.function(lambda x: function(x, *others)).get_concrete_function(tf.TensorSpec(shape, dtype))

    @wraps(function)
    def call(x: Tensor, *others: Any) -> Any:
        return function(x, *others) if tf.executing_eagerly() else graph(tuple(x.shape), x.dtype, *others)(x)

    return call


@_traced_once
def quantise(x_NK: Tensor, tile: Tile, power_of_two: bool = False) -> Quantised:
    """x_NK, of any float type, as E4M3 and scales; power_of_two: scales are raised to the next power of two."""
    x_nrkc = _tiled(tf.cast(x_NK, tf.float32), tile)
    s_n1k1 = _scales(x_nrkc, power_of_two)
    return Quantised(_untiled(tf.cast(x_nrkc / s_n1k1, E4M3), x_NK, tile), s_n1k1[:, 0, :, 0])


def dequantise(quantised: Quantised, tile: Tile, dtype: Any) -> Tensor:
    """[N, K] in `dtype`: value * scale in float32, then rounded to it."""
    values_NK, scales_nk = quantised
    x_nrkc = _tiled(tf.cast(values_NK, tf.float32), tile) * scales_nk[:, None, :, None]
    return _untiled(tf.cast(x_nrkc, dtype), values_NK, tile)


@_traced_once
def fake_quantise(x_NK: Tensor, tile: Tile, dtype: Any) -> Tensor:
    """dequantise(quantise(x_NK, tile), tile, dtype) but for the sign of zeros, in float32 arithmetic.

    With the casts to and from E4M3 it would take a CPU three times as long.
    """
    x_nrkc = _tiled(tf.cast(x_NK, tf.float32), tile)
    s_n1k1 = _scales(x_nrkc, power_of_two=False)
    return _untiled(tf.cast(_round_to_e4m3(x_nrkc / s_n1k1) * s_n1k1, dtype), x_NK, tile)


def _round_to_e4m3(y: Tensor) -> Tensor:
    """float32 y, |y| < 464, to the nearest number of E4M3.

    2^e <= |y| < 2^(e+1) is kept to steps of 2^(e-3), which are those of float32 at 1.5 * 2^(e+20): adding that and
    taking it away rounds as the sum does, to nearest even. Below 2^-6 steps stay 2^-9.
    """
    power = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(y, tf.int32), 0x7F800000), tf.float32)
    shift = tf.maximum(power, _LEAST_NORMAL) * (1.5 * 2.0**20)
    return (y + shift) - shift


def _scales(x_nrkc: Tensor, power_of_two: bool) -> Tensor:
    """Float32 [n, 1, k, 1]."""
    # Columns first: that is along memory.
    amax = tf.reduce_max(tf.reduce_max(tf.abs(x_nrkc), axis=3, keepdims=True), axis=1, keepdims=True)
    # In float64: graph optimisers make a product with the reciprocal of the division by a constant. There its error is
    # far below the distance (1/14 of a step) that any float32 / 448 keeps from where rounding to float32 turns.
    s = tf.cast(tf.cast(tf.maximum(amax, LEAST_AMAX), tf.float64) / GREATEST, tf.float32)
    return _next_power_of_two(s) if power_of_two else s


def _next_power_of_two(s: Tensor) -> Tensor:
    """2^ceil(log2 s) exactly, for normal positive float32; what is not finite stays."""
    bits = tf.bitwise.bitwise_and(tf.bitcast(s, tf.int32) + 0x7FFFFF, 0x7F800000)
    return tf.where(tf.math.is_finite(s), tf.bitcast(bits, tf.float32), s)


def _tiled(x_NK: Tensor, tile: Tile) -> Tensor:
    """[n, r, k, c], zeros beyond the last row and column. Tiles are no larger than x."""
    (n, r), (k, c) = _cut(x_NK, 0, tile), _cut(x_NK, 1, tile)
    missing = (n * r - _size(x_NK, 0), k * c - _size(x_NK, 1))
    if not _is_none(missing):
        x_NK = tf.pad(x_NK, [[0, rows_or_columns] for rows_or_columns in missing])
    return tf.reshape(x_NK, [n, r, k, c])


def _untiled(x_nrkc: Tensor, like_NK: Tensor, tile: Tile) -> Tensor:
    """The inverse of `_tiled`; static shape as far as that of like_NK."""
    (n, r), (k, c) = _cut(like_NK, 0, tile), _cut(like_NK, 1, tile)
    rows, columns = _size(like_NK, 0), _size(like_NK, 1)
    x_NK = tf.reshape(x_nrkc, [n * r, k * c])
    if not _is_none((n * r - rows, k * c - columns)):
        x_NK = x_NK[:rows, :columns]
    return tf.ensure_shape(x_NK, like_NK.shape)


def _size(x: Tensor, axis: int) -> Any:
    """An int where it is static, else a tensor."""
    static = x.shape[axis]
    return tf.shape(x)[axis] if static is None else static


def _is_none(missing: tuple[Any, Any]) -> bool:
    """Whether both are known to be 0 now."""
    return all(isinstance(size, int) and size == 0 for size in missing)


def _cut(x: Tensor, axis: int, tile: Tile) -> tuple[Any, Any]:
    """How many tiles, of what size: one where its side is None, none where there is nothing to cut."""
    size, side = _size(x, axis), tile[axis]
    static = isinstance(size, int)
    most = size if side is None else (min(side, size) if static else tf.minimum(side, size))
    at_least_1 = max(1, most) if static else tf.maximum(1, most)
    return 1 if side is None else -(-size // at_least_1), at_least_1
