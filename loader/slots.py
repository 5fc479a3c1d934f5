"""Which record is meant: from a position, a batch's row, a shard's row or a validation row to the record's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from loader.view import View
from schemas.errors import Refused

_END = 1 << 62  # positions are int64


@dataclass(frozen=True)
class Slot:
    """A record's place, and what the order puts there.

    shard: its number in the view; row: in the shard. position: at which it is read, and the epoch; None in validation,
    which has no epochs. sequence: number of the packed sequence among its component's, in this split; repeat: how many
    records hold the same sequence before this one.
    """

    split: Literal["train", "validation"]
    component: str
    shard: int
    row: int
    position: int | None
    epoch: int | None
    sequence: int
    repeat: int


def position_in_batch(step: int, global_batch: int, row: int) -> int:
    """The position of a row of a global batch, batches of `global_batch` records being read from position 0 on.

    Raises:
        Refused: there is no such batch or row.
    """
    if global_batch < 1:
        raise Refused(f"a global batch has at least 1 record, not {global_batch}")
    if not 0 <= row < global_batch:
        raise Refused(
            f"there is no row {row} in a global batch of {global_batch}: its rows are 0 to {global_batch - 1}"
        )
    if step < 0:
        raise Refused(f"steps are counted from 0; there is no step {step}")
    return step * global_batch + row


def at_position(view: View, position: int) -> Slot:
    """The record read at a position, in any epoch.

    Raises:
        Refused: the position is negative or beyond 2^62.
    """
    order = view.order
    if not 0 <= position < _END:
        raise Refused(
            f"there is no position {position}: positions are counted from 0, and epoch 0 ends at {order.records - 1}"
        )
    shard, row = order.locate(position)
    return _train(view, int(shard), int(row), position)


def in_shard(view: View, name: str, row: int) -> Slot:
    """The record in a row of a shard, given by file name; of a train shard, at its position in epoch 0.

    Raises:
        Refused: the view has no such shard, or the shard no such row.
    """
    number = next((k for k, shard in enumerate(view.shards) if shard.file.path == name), None)
    if number is None:
        first = view.shards[0].file.path
        raise Refused(f"{view.folder}: has no shard {name}; it has {len(view.shards):,}, the first is {first}")
    shard = view.shards[number]
    _check_row(row, shard.file.records, name)
    if shard.component < 0:
        return _train(view, number, row, int(view.order.position_of(number, row)))
    component = view.order.names[shard.component]
    return Slot("validation", component, number, row, None, None, shard.first + row, 0)


def in_validation(view: View, component: str, row: int) -> Slot:
    """A component's held-out record, counted over its validation shards.

    Raises:
        Refused: the component has no validation records, or not so many.
    """
    names = view.order.names
    known = [name for c, name in enumerate(names) if view.held_out(c)]
    if component not in known:
        raise Refused(
            f"{view.folder}: {component} has no validation records; components that have: {', '.join(known) or 'none'}"
        )
    c = names.index(component)
    last = view.shards[view.held_out(c)[-1]]
    _check_row(row, last.first + last.file.records, f"the validation split of {component}")
    shard, within = (int(value) for value in view.locate_held_out(c, row))
    return Slot("validation", component, shard, within, None, None, row, 0)


def _train(view: View, shard: int, row: int, position: int) -> Slot:
    component, sequence, repeat = (int(value) for value in view.order.sequence_of_slot(np.int64(shard), np.int64(row)))
    name = view.order.names[component]
    return Slot("train", name, shard, row, position, position // view.order.records, sequence, repeat)


def _check_row(row: int, records: int, where: str) -> None:
    if not 0 <= row < records:
        raise Refused(f"there is no row {row} in {where}: it has {records:,} records, rows 0 to {records - 1}")
