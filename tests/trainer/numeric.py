"""Plain numpy and TensorFlow forms of what the model computes, to compare with."""

from __future__ import annotations

from typing import Any

import ml_dtypes
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


def quantised(x: Any, tile: tuple[int | None, int | None], power_of_two: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """E4M3 values of x [N, K] and float32 scales [n, k], a tile at a time, by ml_dtypes' cast."""
    x = np.asarray(x, np.float32)
    rows, columns = (side or max(1, size) for side, size in zip(tile, x.shape, strict=True))
    values = np.zeros(x.shape, ml_dtypes.float8_e4m3fn)
    scales = np.zeros([-(-x.shape[0] // rows), -(-x.shape[1] // columns)], np.float32)
    for i, j in np.ndindex(*scales.shape):
        place = np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        scale = np.maximum(np.abs(x[place]).max(), np.float32(1e-4)) / np.float32(448)
        if power_of_two:
            scale = np.exp2(np.ceil(np.log2(scale.astype(np.float64)))).astype(np.float32)
        values[place] = np.clip(x[place] / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
        scales[i, j] = scale
    return values, scales


def meaning(values: np.ndarray, scales: np.ndarray, tile: tuple[int | None, int | None]) -> np.ndarray:
    """Value times scale: float32 [N, K]."""
    rows, columns = (side or max(1, size) for side, size in zip(tile, values.shape, strict=True))
    each = np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)
    return values.astype(np.float32) * each[: values.shape[0], : values.shape[1]]
