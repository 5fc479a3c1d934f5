"""Causal attention by tiles with an online softmax (arXiv 2205.14135): forward and backward hold no T x T tensor.

B: sequences, T: positions, H: heads, K: query and key width, V: value width; n tiles of b positions: n b >= T.
Tiles above the diagonal are never computed. Row statistics and sums are float32, products in the inputs' type.

Forward, for a row of scores s met tile by tile: m = max s, l = sum exp(s - m), a = sum exp(s - m) v; when m grows, l
and a are scaled by exp(m_old - m_new). The output is a / l. Backward from lse = m + log l alone: p = exp(s - lse),
ds = p (do v^T - sum(do o)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor, matmul

TILE = 128
# Less than any score and more than minus infinity, whose differences are no numbers.
_NEVER = -1e30


def attention(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, segment_ids_BT: Tensor | None, scale: float, tile: int = TILE
) -> Tensor:
    """Softmax(scale q k^T) v over earlier positions of the same segment: [B, T, H, V] in the inputs' type.

    segment_ids_BT: int32; None: one segment. Shapes must be static.
    """
    return _attention(lambda *qkv: qkv, (q_BTHK, k_BTHK, v_BTHV), segment_ids_BT, scale, tile)


def recomputed_attention(
    project: Callable[..., tuple[Tensor, Tensor, Tensor]],
    inputs: Sequence[Tensor],
    segment_ids_BT: Tensor | None,
    scale: float,
    tile: int = TILE,
) -> Tensor:
    """`attention(*project(*inputs), …)`, keeping `inputs` instead of queries, keys and values.

    project: to q_BTHK, k_BTHK, v_BTHV; whatever it needs a gradient for must be among `inputs`. Run again in the
    backward pass; the attention itself is not.
    """
    return _attention(project, inputs, segment_ids_BT, scale, tile)


def _attention(
    project: Callable[..., Any], inputs: Sequence[Tensor], segment_ids_BT: Tensor | None, scale: float, tile: int
) -> Tensor:
    @tf.custom_gradient
    def attend(*inputs: Tensor) -> Any:
        qkv = project(*inputs)
        length = qkv[0].shape[1]
        size = _tile_size(length, tile)
        segments = None if segment_ids_BT is None else _tiled(segment_ids_BT[..., None, None], size)[:, :, 0, :, 0]
        o_nBHbV, lse_nBHb1 = _forward(*_prepared(qkv, scale, size), segments)
        o_BTHV = _untiled(o_nBHbV, length)

        def gradient(do_BTHV: Tensor) -> Any:
            with tf.control_dependencies([do_BTHV]):
                again = [tf.identity(value) for value in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                qkv = project(*again)
            do_nBHbV = _tiled(do_BTHV, size)
            delta_BTH1 = tf.reduce_sum(
                tf.cast(do_BTHV, tf.float32) * tf.cast(o_BTHV, tf.float32), axis=-1, keepdims=True
            )
            dq, dk, dv = _backward(
                *_prepared(qkv, scale, size), segments, lse_nBHb1, do_nBHbV, _tiled(delta_BTH1, size)
            )
            dtype = do_BTHV.dtype
            dqkv = [tf.cast(_untiled(d, length), dtype) for d in (dq * scale, dk, dv)]
            return tape.gradient(qkv, again, dqkv)

        return o_BTHV, gradient

    return attend(*inputs)


def _tile_size(length: int, tile: int) -> int:
    """The least size that needs no more tiles than `tile` does."""
    return -(-length // -(-length // tile))


def _tiled(x_BTHW: Tensor, size: int) -> Tensor:
    """[B, T, H, W] as [n, B, H, b, W], zeros after the last position."""
    batch, length, heads, width = x_BTHW.shape
    tiles = -(-length // size)
    if tiles * size > length:
        x_BTHW = tf.pad(x_BTHW, [[0, 0], [0, tiles * size - length], [0, 0], [0, 0]])
    return tf.transpose(tf.reshape(x_BTHW, [batch, tiles, size, heads, width]), [1, 0, 3, 2, 4])


def _untiled(x_nBHbW: Tensor, length: int) -> Tensor:
    """The inverse of `_tiled`."""
    tiles, batch, heads, size, width = x_nBHbW.shape
    return tf.reshape(tf.transpose(x_nBHbW, [1, 0, 3, 2, 4]), [batch, tiles * size, heads, width])[:, :length]


def _prepared(qkv: Sequence[Tensor], scale: float, size: int) -> tuple[Tensor, Tensor, Tensor]:
    q_BTHK, k_BTHK, v_BTHV = qkv
    scaled_BTHK = tf.cast(tf.cast(q_BTHK, tf.float32) * scale, q_BTHK.dtype)
    return _tiled(scaled_BTHK, size), _tiled(k_BTHK, size), _tiled(v_BTHV, size)


def _causal(size: int) -> Tensor:
    return tf.constant(np.triu(np.full([size, size], _NEVER, np.float32), 1))


def _scores(q_BHbK: Tensor, k_BHbK: Tensor, segments: tuple[Tensor, Tensor] | None, causal: Tensor | None) -> Tensor:
    """Scores of a tile, float32 [B, H, b, b]: rows queries, columns keys."""
    s_BHbb = matmul(q_BHbK, k_BHbK, transpose_b=True, dtype=tf.float32)
    if segments is not None:
        apart_Bbb = segments[0][:, :, None] != segments[1][:, None, :]
        bias = tf.cast(apart_Bbb, tf.float32)[:, None] * _NEVER
        return s_BHbb + (bias if causal is None else tf.minimum(bias, causal))
    return s_BHbb if causal is None else s_BHbb + causal


def _loop(first: Any, end: Any, body: Callable[..., Any], state: Sequence[Any]) -> Any:
    """State after body(i, *state) for i in [first, end), one after another."""
    done = tf.while_loop(
        lambda i, *_: i < end,
        lambda i, *state: (i + 1, *body(i, *state)),
        (tf.convert_to_tensor(first), *state),
        parallel_iterations=1,
    )
    return done[1:]


def _array(tiles: int, like_nX: Tensor) -> Any:
    return tf.TensorArray(tf.float32, tiles, element_shape=like_nX.shape[1:], clear_after_read=False)


def _forward(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output [n, B, H, b, V] in v's type and lse [n, B, H, b, 1] float32 from tiled inputs, q scaled."""
    tiles, size = q.shape[0], q.shape[3]
    causal = _causal(size)

    def pair(i: Any, j: Any) -> tuple[Tensor, Tensor] | None:
        return None if segments is None else (segments[i], segments[j])

    def product(p_BHbb: Tensor, j: Any) -> Tensor:
        return matmul(tf.cast(p_BHbb, v.dtype), v[j], dtype=tf.float32)

    def row(i: Any, outputs: Any, lses: Any) -> Any:
        # The tile on the diagonal first: there each row sees itself, so that m is a score from the start.
        q_i = q[i]
        s = _scores(q_i, k[i], pair(i, i), causal)
        m = tf.reduce_max(s, axis=-1, keepdims=True)
        p = tf.exp(s - m)
        start = (m, tf.reduce_sum(p, axis=-1, keepdims=True), product(p, i))

        def column(j: Any, m: Tensor, l: Tensor, a: Tensor) -> Any:  # noqa: E741
            s = _scores(q_i, k[j], pair(i, j), None)
            higher = tf.maximum(m, tf.reduce_max(s, axis=-1, keepdims=True))
            p = tf.exp(s - higher)
            shrink = tf.exp(m - higher)
            return higher, l * shrink + tf.reduce_sum(p, axis=-1, keepdims=True), a * shrink + product(p, j)

        m, l, a = _loop(0, i, column, start)  # noqa: E741
        return outputs.write(i, a / l), lses.write(i, m + tf.math.log(l))

    outputs, lses = _loop(0, tiles, row, (_array(tiles, v), _array(tiles, q[..., :1])))
    return tf.cast(outputs.stack(), v.dtype), lses.stack()


def _backward(
    q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, lse: Tensor, do: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to the scaled q, to k and to v, tiled and float32."""
    tiles, size = q.shape[0], q.shape[3]
    causal = _causal(size)

    def tile(i: Any, j: Any, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What tile (i, j) adds to dq_i, dk_j and dv_j."""
        q_i, k_j, do_i = q[i], k[j], do[i]
        s = _scores(q_i, k_j, None if segments is None else (segments[i], segments[j]), mask)
        p = tf.exp(s - lse[i])
        ds = p * (matmul(do_i, v[j], transpose_b=True, dtype=tf.float32) - delta[i])
        p, ds = tf.cast(p, q.dtype), tf.cast(ds, q.dtype)
        return (
            matmul(ds, k_j, dtype=tf.float32),
            matmul(ds, q_i, transpose_a=True, dtype=tf.float32),
            matmul(p, do_i, transpose_a=True, dtype=tf.float32),
        )

    def column(j: Any, dqs: Any, dks: Any, dvs: Any) -> Any:
        dq, dk, dv = tile(j, j, causal)
        # Tile j of dq is complete but for this addition, as columns before j have been met.
        dqs = dqs.write(j, dqs.read(j) + dq)

        def row(i: Any, dqs: Any, dk: Tensor, dv: Tensor) -> Any:
            more_q, more_k, more_v = tile(i, j, None)
            return dqs.write(i, dqs.read(i) + more_q), dk + more_k, dv + more_v

        dqs, dk, dv = _loop(j + 1, tiles, row, (dqs, dk, dv))
        return dqs, dks.write(j, dk), dvs.write(j, dv)

    zeros = _array(tiles, q).unstack(tf.zeros(q.shape))
    dqs, dks, dvs = _loop(0, tiles, column, (zeros, _array(tiles, k), _array(tiles, v)))
    return dqs.stack(), dks.stack(), dvs.stack()
