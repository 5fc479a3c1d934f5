"""The train split as a `tf.data` stream of tokens, in the order of training.

A group step is read by one graph function: the host's W = lanes / hosts files of that step side by side, each from its
row, a few records of each in turn; files are found by arithmetic when their step comes. So the graph is the same
whatever the number of lanes, files and epochs. Row by row the order wants the lanes turned by the diagonal
(`schemas.order`): that is put right in blocks of whole rows, after decoding, where a record is one copy.

A record that cannot be read comes as an empty string, and so does the rest of its file: nothing moves up, and the block
that would hold it is refused by name (`decode`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader.decoding import AT_ONCE, Format, Tensor, decode, open_shards, read_rows
from loader.files import OpenShards
from schemas.order import Order
from schemas.permutation import IntArray

_ENDLESS = np.iinfo(np.int64).max // 2


@dataclass(frozen=True)
class TrainReading:
    """What one host reads from position `start` on. size: framed bytes of a record; epochs: None without end."""

    order: Order
    start: int
    host: int
    hosts: int
    epochs: int | None
    size: int

    @property
    def lanes(self) -> int:
        """W: the lanes this host reads."""
        return self.order.lanes // self.hosts

    @property
    def records(self) -> int:
        """Records this host reads."""
        if self.epochs is None:
            return _ENDLESS
        return (self.epochs * self.order.records - self.start) // self.hosts

    @property
    def first_step(self) -> int:
        """The group step of the start, counted through all epochs."""
        return self.start // self.order.group_records

    @property
    def steps(self) -> int:
        """One past the last group step."""
        return self.epochs * self.order.groups if self.epochs is not None else _ENDLESS // self.order.group_records

    @property
    def skipped(self) -> int:
        """Records of the host's first row of lanes that stand before `start`."""
        return self.start % self.order.lanes // self.hosts

    @property
    def first_row(self) -> int:
        """The row of lanes the start is in, counted through all groups and epochs."""
        return self.start // self.order.lanes

    def component(self, index: Tensor) -> Tensor:
        """The component of the host's index-th records: int32, -1 after the last. index: int64 tensor."""
        order = self.order
        row = self.first_row + (index + self.skipped) // self.lanes
        place = (index + self.skipped) % self.lanes
        # In row j of a group lane v is read at place (v - j) mod V of the row; the host's first is below `hosts`.
        position = row * order.lanes + (self.host - row % order.rows) % self.hosts + place * self.hosts
        pattern = order.component_at(np.arange(order.tile)).astype(np.int32)
        return tf.where(index < self.records, tf.gather(tf.constant(pattern), position % order.tile), -1)

    def turned(self, row: Tensor, count: Tensor) -> Tensor:
        """Where the records of `count` rows from `row` on stand, in their order, when they are given lane by lane:
        int64 [count·W]."""
        rows = tf.range(count)
        # The first of the host's lanes that is at or after lane j mod V: there row j of a group begins.
        first = -(-((row + rows) % self.order.rows % self.order.lanes - self.host) // self.hosts)
        lane = (first[:, None] + tf.range(self.lanes, dtype=tf.int64)) % self.lanes
        return tf.reshape(lane * count + rows[:, None], [-1])

    def slot(self, row: int, lane: int) -> tuple[int, int]:
        """(shard, row in it) of the record of the host's lane-th lane, in a row counted through groups and epochs."""
        step, row = divmod(row, self.order.rows)
        shards, firsts = self.slots(step)
        return int(shards[lane]), int((firsts[lane] + row) % self.order.rows)

    def slots(self, step: int) -> tuple[IntArray, IntArray]:
        """(shard, first row), each int64 [W], of the host's lanes, ascending, at a group step; none after the last."""
        if step == self.steps:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        lanes = np.arange(self.host, self.order.lanes, self.hosts, dtype=np.int64)
        return self.order.locate(step * self.order.group_records + lanes)  # place u of a group's row 0 is in lane u

    def shards(self) -> Iterator[int]:
        """The shards in the order they are read."""
        for step in range(self.first_step, self.steps):
            yield from self.slots(step)[0].tolist()

    @property
    def touched(self) -> IntArray:
        """Every shard this host ever reads: int64, ascending."""
        shards = np.arange(self.order.lanes * self.order.groups, dtype=np.int64)
        return shards[shards % self.order.lanes % self.hosts == self.host]


def train_blocks(reading: TrainReading, opened: OpenShards, form: Format, batch: int) -> tf.data.Dataset:
    """The host's tokens from `start` to the end of the last epoch, in order: matrices [any number, T].

    A block is as many rows of the host's lanes as a batch of `batch` records needs, fewer at the end of a group.
    """
    width, rows = reading.lanes, reading.order.rows
    block_rows = -(-batch // width)

    @tf.autograph.experimental.do_not_convert
    def read_step(step: Tensor) -> tf.data.Dataset:
        paths, firsts = open_shards(opened, reading.slots, step, width)
        row = tf.where(step == reading.first_step, np.int64(reading.first_row % rows), np.int64(0))
        left = rows - row

        @tf.autograph.experimental.do_not_convert
        def read_lane(lane: Tensor) -> tf.data.Dataset:
            begin = (firsts[lane] + row) % rows
            before_end = tf.minimum(left, rows - begin)
            wrapped = read_rows(paths[lane], np.int64(0), left - before_end)
            return read_rows(paths[lane], begin * reading.size, before_end).concatenate(wrapped).batch(block_rows)

        there = tf.where(step == reading.steps, np.int64(0), np.int64(width))
        lanes = tf.data.Dataset.range(there).interleave(read_lane, cycle_length=width, block_length=1)
        blocks_from = tf.data.Dataset.range(step * rows + row, step * rows + row + left, block_rows)
        return tf.data.Dataset.zip(lanes.batch(width), blocks_from)

    @tf.autograph.experimental.do_not_convert
    def put_in_order(serialized_WR: Tensor, row: Tensor) -> Tensor:
        count = tf.shape(serialized_WR, tf.int64)[1]

        def why(row: np.int64, lane: np.int64) -> bytes:
            return opened.explain(*reading.slot(int(row), int(lane))).encode()

        def explain(bad: Tensor) -> Tensor:
            return tf.numpy_function(why, [row + bad % count, bad // count], tf.string)

        tokens_BT = decode(form, tf.reshape(serialized_WR, [-1]), explain)
        order_B = reading.turned(row, count)
        return tf.gather(tokens_BT, order_B[tf.where(row == reading.first_row, reading.skipped, 0) :])

    steps = tf.data.Dataset.range(reading.first_step, reading.steps + 1)  # the last one reads nothing and lets go
    blocks = steps.flat_map(read_step).prefetch(AT_ONCE)
    return blocks.map(put_in_order, num_parallel_calls=AT_ONCE, deterministic=True)
