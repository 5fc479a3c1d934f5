"""Cross-entropy without the logits: the head's product and the loss, a chunk of rows at a time.

N: rows, D: model width, V: vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor, matmul

ROWS = 512


def head_loss(x_ND: Tensor, head_VD: Tensor, labels_N: Tensor, weights_N: Tensor, rows: int = ROWS) -> Any:
    """sum over rows of weight * cross-entropy of softmax(x head^T) at the label; float32.

    x_ND: after the final norm, in the type the products are made in; head_VD: float32; labels_N: int32, any valid id
    where the weight is 0; weights_N: float32, no gradient.
    Returns the sum, and the unweighted cross-entropy of each row, float32 [N], which has no gradient.

    Of the logits, `rows` rows exist at a time. The gradient is made in the same pass, since a loss is the end of the
    graph: its logits need not be made again. Where no gradient is asked for, a tf.function leaves that out.
    """

    @tf.custom_gradient
    def total(x_ND: Tensor, head_VD: Tensor) -> Any:
        cast_VD = tf.cast(head_VD, x_ND.dtype)
        losses: list[Tensor] = []
        dxs: list[Tensor] = []
        dhead_VD = None
        for start in range(0, x_ND.shape[0], rows):
            part = slice(start, min(start + rows, x_ND.shape[0]))
            # One chunk after another: otherwise the logits of all could be made before any is used.
            with tf.control_dependencies(losses[-1:]):
                x, label, weight = x_ND[part], labels_N[part], weights_N[part][:, None]
                logits = matmul(x, cast_VD, transpose_b=True, dtype=tf.float32)
                p = tf.nn.softmax(logits)
                # log sum exp = max(logits) - log(max(p)), and max(p) >= 1 / V.
                highest = tf.reduce_max(logits, axis=-1) - tf.math.log(tf.reduce_max(p, axis=-1))
                losses.append(highest - tf.gather(logits, label, batch_dims=1))
                at = tf.stack([tf.range(tf.size(label)), label], axis=1)
                d = tf.cast(tf.tensor_scatter_nd_sub(p, at, tf.ones_like(losses[-1])), x.dtype)
                dxs.append(matmul(d, cast_VD, dtype=tf.float32) * weight)
                weighted = tf.cast(tf.cast(x, tf.float32) * weight, x.dtype)
                dhead = matmul(d, weighted, transpose_a=True, dtype=tf.float32)
                dhead_VD = dhead if dhead_VD is None else dhead_VD + dhead
        each_N = tf.concat(losses, axis=0)

        def gradient(dsum: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            return tf.cast(tf.concat(dxs, axis=0) * dsum, x_ND.dtype), dhead_VD * dsum

        return (tf.reduce_sum(each_N * weights_N), each_N), gradient

    summed, each_N = total(x_ND, tf.convert_to_tensor(head_VD))
    return summed, tf.stop_gradient(each_N)
