"""RMSNorm (arXiv 1910.07467): x / sqrt(mean(x^2) + eps) * weight, in float32.

N: rows, D: features.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, dtype: Any) -> Tensor:
    """x [..., D] in any float type, normalised over its last dimension; same shape, in `dtype`.

    The gradient is written out: it keeps x and one number a row, and goes over the rows fewer times than the gradient
    of the separate operations.
    """

    @tf.custom_gradient
    def norm(x: Tensor, weight_D: Tensor) -> Any:
        x_ND = tf.reshape(tf.cast(x, tf.float32), [-1, x.shape[-1]])
        r_N1 = tf.math.rsqrt(tf.reduce_mean(tf.square(x_ND), axis=-1, keepdims=True) + eps)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            back_ND = tf.reshape(tf.cast(x, tf.float32), [-1, x.shape[-1]])
            dy_ND = tf.reshape(tf.cast(dy, tf.float32), [-1, x.shape[-1]])
            # With u = dy x: dweight = sum_n u r, and dx = r w dy - x r^3 mean_d(u w).
            u_ND = dy_ND * back_ND
            dweight_D = tf.reshape(tf.matmul(r_N1, u_ND, transpose_a=True), [-1])
            along_N1 = tf.matmul(u_ND, weight_D[:, None]) * (r_N1 * r_N1 * r_N1 / x.shape[-1])
            dx_ND = dy_ND * weight_D * r_N1 - back_ND * along_N1
            return tf.cast(tf.reshape(dx_ND, tf.shape(x)), x.dtype), dweight_D

        return tf.cast(tf.reshape(x_ND * r_N1 * weight_D, tf.shape(x)), dtype), gradient

    return norm(x, tf.convert_to_tensor(weight_D))
