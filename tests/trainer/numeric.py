"""Plain numpy and TensorFlow forms of what the model computes, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.presets import preset


def tiny(**changes: Any) -> ModelConfig:
    """The preset `tiny` with changes, validated."""
    return ModelConfig.model_validate({**preset("tiny").model_dump(), **changes})


def batch_of(documents: list[list[int]], length: int, seed: int, vocab: int) -> dict[str, tf.Tensor]:
    """Random tokens with segments, positions and loss mask as the loader derives them: a row a list of lengths."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, [len(documents), length])
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, lengths in enumerate(documents):
        at = 0
        for number, size in enumerate(lengths, start=1):
            segments[row, at : at + size], positions[row, at : at + size] = number, np.arange(size)
            at += size
        assert at <= length
    mask = (segments > 0) & (positions > 0)
    found = {"tokens": tokens, "segment_ids": segments, "positions": positions}
    return {name: tf.constant(value, tf.int32) for name, value in found.items()} | {"loss_mask": tf.constant(mask)}


def naive_attention(q: Any, k: Any, v: Any, segments: Any, scale: float) -> Any:
    """Attention with the whole matrix of scores."""
    s = tf.einsum("bqhd,bkhd->bhqk", q, k) * scale
    length = q.shape[1]
    seen = tf.linalg.band_part(tf.ones([length, length]), -1, 0)[None] > 0
    if segments is not None:
        seen &= segments[:, :, None] == segments[:, None, :]
    return tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(tf.where(seen[:, None], s, -np.inf)), v)


def relative(found: Any, expected: Any) -> float:
    """Norm of the difference by the norm of what is expected."""
    found, expected = (np.asarray(tf.convert_to_tensor(value), np.float64) for value in (found, expected))
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / norm) if norm else float(np.abs(found).max(initial=0))


def loss_and_gradients(model: Any, batch: dict[str, Any], graph: bool = False, **weights: Any) -> tuple[Any, list[Any]]:
    """LossOutput and the gradient of its total with respect to the model's variables in order."""

    def step() -> Any:
        with tf.GradientTape() as tape:
            output = model.loss(**batch, **weights)
        gradients = tape.gradient(output.total, model.variables_in_order, unconnected_gradients="zero")
        return output._asdict(), [tf.convert_to_tensor(gradient) for gradient in gradients]

    output, gradients = (tf.function(step) if graph else step)()
    return output, gradients
