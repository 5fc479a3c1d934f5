"""Multi-token prediction (arXiv 2412.19437, eqs. 21-23).

Module k (from 1) joins, at position i, the hidden state of the module before it and the embedding of token i + k, runs
one MoE layer, and predicts token i + k + 1 through the shared head. The embedding comes first in the concatenation, as
in published weights (the paper prints the hidden state first); the main model's hidden state is the one before its
final norm.

B: sequences, T: positions, D: model width.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.init import Variables
from trainer.model.linear import PlainLinear, Tensor
from trainer.model.norm import rms_norm


class Join(tf.Module):
    """eh_proj(concat(enorm(embedding), hnorm(hidden))), its product in `dtype` under every precision: published FP8
    weights leave eh_proj in bfloat16.
    """

    def __init__(self, config: ModelConfig, prefix: str, variables: Variables, dtype: Any) -> None:
        super().__init__()
        self._eps, self._linear = config.rms_norm_eps, PlainLinear(dtype)
        width = config.hidden_size
        self.enorm = variables.norm(f"{prefix}.enorm.weight", width)
        self.hnorm = variables.norm(f"{prefix}.hnorm.weight", width)
        self.projection = variables.weight(f"{prefix}.eh_proj.weight", [width, 2 * width])

    def __call__(self, embedding_BTD: Tensor, hidden_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """float32 [B, T, D]; both inputs are 0 where valid_BT (bool) is not: nothing passes between documents."""
        valid_BT1 = valid_BT[..., None]
        dtype = self._linear.dtype
        parts = [
            rms_norm(tf.where(valid_BT1, embedding_BTD, 0.0), self.enorm, self._eps, dtype),
            rms_norm(tf.where(valid_BT1, hidden_BTD, 0.0), self.hnorm, self._eps, dtype),
        ]
        return tf.cast(self._linear(tf.concat(parts, axis=-1), self.projection), tf.float32)


def same_segment(segment_ids_BL: Tensor, ahead: int, length: int) -> Tensor:
    """bool [B, length]: whether position i and position i + ahead are real and of one segment.

    segment_ids_BL: int32, 0 for padding; beyond its end there is none.
    """
    padded = tf.pad(segment_ids_BL, [[0, 0], [0, max(0, ahead + length - segment_ids_BL.shape[1])]])
    return (padded[:, :length] == padded[:, ahead : ahead + length]) & (padded[:, :length] != 0)


def shifted(values_BL: Tensor, ahead: int, length: int) -> Tensor:
    """[B, length]: the value at position i + ahead, 0 (or False) beyond the end."""
    padding = [[0, 0], [0, max(0, ahead + length - values_BL.shape[1])]]
    return tf.pad(values_BL, padding)[:, ahead : ahead + length]
