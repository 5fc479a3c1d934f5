"""One component's held-out records as a `tf.data` stream of tokens: once, in file order, every hosts-th for a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader.decoding import AT_ONCE, Format, Tensor, decode, open_shards, read_rows
from loader.files import OpenShards
from schemas.permutation import IntArray


@dataclass(frozen=True)
class ValidationReading:
    """What one host reads of a component. rows: records of each of its files; shard: the number of the first file."""

    number: int  # of the component
    rows: Sequence[int]
    shard: int
    host: int
    hosts: int

    @property
    def records(self) -> int:
        """Records this host reads."""
        return len(range(self.host, sum(self.rows), self.hosts))

    def component(self, index: Tensor) -> Tensor:
        """The component of the host's index-th records: int32, -1 after the last. index: int64 tensor."""
        return tf.where(index < self.records, tf.constant(self.number, tf.int32), -1)

    def slot(self, index: int) -> tuple[int, int]:
        """(shard, row) of the host's index-th record."""
        record = self.host + index * self.hosts
        ends = np.cumsum(self.rows)
        file = int(np.searchsorted(ends, record, side="right"))
        return self.shard + file, int(record - (ends[file] - self.rows[file]))

    def slots(self, step: int) -> tuple[IntArray, IntArray]:
        """(shard, first row), each int64 [1], of a file; none after the last."""
        there = np.arange(step, min(step + 1, len(self.rows)), dtype=np.int64)
        return self.shard + there, np.zeros_like(there)

    def shards(self) -> IntArray:
        """The shards in the order they are read: int64, ascending."""
        return np.arange(self.shard, self.shard + len(self.rows), dtype=np.int64)

    @property
    def touched(self) -> IntArray:
        """Every shard this host ever reads: int64, ascending."""
        return self.shards()


def validation_blocks(reading: ValidationReading, opened: OpenShards, form: Format, batch: int) -> tf.data.Dataset:
    """The host's tokens: matrices [batch, T], the last one with fewer rows."""
    rows = tf.constant([*reading.rows, 0], tf.int64)

    @tf.autograph.experimental.do_not_convert
    def read_file(step: Tensor) -> tf.data.Dataset:
        paths, firsts = open_shards(opened, reading.slots, step, 1)
        return read_rows(paths[0], firsts[0], rows[step])

    def why(index: np.int64) -> bytes:
        return opened.explain(*reading.slot(int(index))).encode()

    @tf.autograph.experimental.do_not_convert
    def tokens(number: Tensor, serialized_B: Tensor) -> Tensor:
        def explain(bad: Tensor) -> Tensor:
            return tf.numpy_function(why, [number * batch + bad], tf.string)

        return decode(form, serialized_B, explain)

    # The last step reads nothing and lets go of the last file.
    records = tf.data.Dataset.range(len(reading.rows) + 1).flat_map(read_file).shard(reading.hosts, reading.host)
    return records.batch(batch).enumerate().map(tokens, num_parallel_calls=AT_ONCE, deterministic=True)
