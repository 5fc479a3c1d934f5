"""From a host's tokens to its batches."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf  # type: ignore[import-untyped]

from loader.decoding import AT_ONCE, Format, Tensor
from loader.fields import segments
from loader.train_input import TrainReading
from loader.validation_input import ValidationReading


def batches(
    blocks: tf.data.Dataset,
    reading: TrainReading | ValidationReading,
    form: Format,
    batch: int,
    count: int | None,
    fields: Sequence[str],
    document_masking: bool,
) -> tf.data.Dataset:
    """`count` batches of `batch` records (None: without end), filled up with padding, as dicts of `fields`.

    blocks: the tokens of the records `reading` describes, matrices of any number of rows.
    """

    @tf.autograph.experimental.do_not_convert
    def derive(number: Tensor, stored_BT: Tensor) -> dict[str, Tensor]:
        tokens_BT = tf.cast(tf.ensure_shape(stored_BT, [batch, form.capacity]), tf.int32)
        index_B = number * batch + tf.range(batch, dtype=tf.int64)
        found = {"tokens": tokens_BT, "component": reading.component(index_B)}
        if not found.keys() >= set(fields):
            found |= segments(form, tokens_BT, document_masking)
        return {name: found[name] for name in fields}

    if count is not None:
        padding = tf.fill([1, form.capacity], tf.constant(form.pad, form.dtype))
        blocks = blocks.concatenate(tf.data.Dataset.from_tensors(padding).repeat(count * batch - reading.records))
    stream = blocks.rebatch(batch).enumerate().prefetch(AT_ONCE)
    return stream.map(derive, num_parallel_calls=AT_ONCE, deterministic=True).prefetch(AT_ONCE)
