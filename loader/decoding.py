"""Parts of a graph that both splits read with: opening checked shards, rows of a file, tokens of records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader.files import OpenShards
from schemas.errors import TokenmillError
from schemas.manifest import ShardManifest
from schemas.permutation import IntArray
from schemas.record import encode_example

Tensor = Any  # TensorFlow has no type stubs

AT_ONCE = 2  # blocks or batches made at a time, and as many waiting: bounds memory on any machine
_BUFFER_BYTES = 1 << 18
_RECORD = tf.TensorSpec([], tf.string)


@dataclass(frozen=True)
class Format:
    """How the records of a view are stored, and the ids that structure them.

    capacity: tokens a record. head: the bytes before the tokens, alike in every record. padding: a record of padding.
    """

    capacity: int
    dtype: str
    end: int
    pad: int
    head: bytes
    padding: bytes

    @classmethod
    def of(cls, view: ShardManifest) -> Format:
        """The format a manifest states."""
        capacity = view.sequence_length + 1
        padding = encode_example(np.full(capacity, view.tokenizer.pad, view.token_dtype))
        head = padding[: len(padding) - capacity * np.dtype(view.token_dtype).itemsize]
        return cls(capacity, view.token_dtype, view.tokenizer.end, view.tokenizer.pad, head, padding)


def open_shards(
    opened: OpenShards, find: Callable[[int], tuple[IntArray, IntArray]], step: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """(paths, first rows), string and int64 [width], of the shards `find` gives for a step, acquired and checked.

    This is the one call into Python, once a step. find may give no shards: then all that were held are let go.
    InvalidArgumentError, with the sentence, when a shard is not as the manifest says.
    """

    def turn(step: np.int64) -> tuple[bytes, list[bytes], IntArray]:
        numbers, firsts = find(int(step))
        nothing = np.zeros(width - len(numbers), np.int64)
        try:
            paths = [path.encode() for path in opened.turn(numbers.tolist())]
            problem = b""
        except TokenmillError as error:
            paths, problem = [b""] * len(numbers), str(error).encode()
        return problem, [*paths, *[b""] * len(nothing)], np.concatenate((firsts, nothing))

    problem, paths, firsts = tf.numpy_function(turn, [step], [tf.string, tf.string, tf.int64])
    with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
        return tf.ensure_shape(paths, [width]), tf.ensure_shape(firsts, [width])


def read_rows(path: Tensor, offset: Tensor, count: Tensor) -> tf.data.Dataset:
    """`count` serialized records of a file from the byte `offset` on; from one that cannot be read on, empty strings.

    Seeking by the raw op's byte offset, which the public class lacks, costs the same from any row; skipping costs about
    5 µs a record, and a shard has thousands.
    """
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path], compression_type="", buffer_size=_BUFFER_BYTES, byte_offsets=[offset]
    )
    records = tf.data.experimental.from_variant(variant, _RECORD)
    # TFRecord tells of damage without the file's name, so the error is passed over here and told by the batch. But a
    # file that cannot be opened would be tried for ever: reading one byte first makes that an error of its own.
    there = tf.data.experimental.from_variant(
        tf.raw_ops.FixedLengthRecordDatasetV2(
            filenames=[path], header_bytes=0, record_bytes=1, footer_bytes=0, buffer_size=1, compression_type=""
        ),
        _RECORD,
    )
    lost = tf.data.Dataset.from_tensors("").repeat()
    return there.take(1).skip(1).concatenate(records.ignore_errors()).concatenate(lost).take(count)


def decode(form: Format, serialized_B: Tensor, explain: Callable[[Tensor], Tensor]) -> Tensor:
    """The tokens of serialized Examples as they are stored: uint16 or int32 [B, T].

    The Example's envelope is the same in all records of a view, so it is compared and cut off, not parsed. Where it
    differs, or a record is empty, InvalidArgumentError is raised with the string tensor explain(index of the first).
    """
    size = len(form.padding) - len(form.head)
    heads_B = tf.strings.substr(serialized_B, 0, len(form.head))
    sound_B = (tf.strings.length(serialized_B) == len(form.padding)) & (heads_B == form.head)
    sound = tf.reduce_all(sound_B)
    bad = tf.argmin(tf.cast(sound_B, tf.int32))
    told = tf.cond(sound, lambda: tf.constant(""), lambda: explain(bad))
    with tf.control_dependencies([tf.debugging.Assert(sound, [told])]):
        serialized_B = tf.identity(serialized_B)
    values_B = tf.strings.substr(serialized_B, len(form.head), size)
    tokens_BT = tf.io.decode_raw(values_B, tf.dtypes.as_dtype(form.dtype), fixed_length=size)
    return tf.ensure_shape(tokens_BT, [None, form.capacity])
