"""The optimizer's state shared out over the replicas of each parameter (ZeRO stage 1, arXiv 1910.02054, section 5.1).

A parameter without experts is the same in all processes; a stack of experts is the same in those of one expert index.
Of such R replicas each owns R-th part of the rows: of axis 0, or of axis 1 where axis 0 counts experts. It receives
the gradients of its rows from all replicas, added up in float32; keeps their moments; moves them; and sends the moved
rows to all. So every replica has the same bits after a step, whatever it had before.

Rows, rather than ranges of one long vector of all parameters, because every part is then a box of one named tensor:
what a checkpoint stores, and what another mesh reads. Parts travel in buckets of many, so that small tensors do not
wait for a message each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.average import Average
from trainer.mesh.collectives import Collectives
from trainer.mesh.mesh import Mesh
from trainer.model import Model
from trainer.model.linear import Tensor
from trainer.optimizer import AdamW, Variable

_BUCKET = 1 << 24  # float32 numbers, 64 MiB

AVERAGE = "ema"
"""Before the names of the averages of parameters, as m and v are before those of moments."""


@dataclass(frozen=True)
class Rows:
    """The rows of an axis of `size` that replica `index` of `replicas` owns: [start, stop), the last ones fewer."""

    size: int
    replicas: int
    index: int

    @property
    def each(self) -> int:
        """Rows of the first replica, and of every part with its padding."""
        return -(-self.size // self.replicas)

    @property
    def start(self) -> int:
        """First row owned."""
        return min(self.index * self.each, self.size)

    @property
    def stop(self) -> int:
        """One beyond the last row owned."""
        return min(self.start + self.each, self.size)


@dataclass(frozen=True)
class Owned:
    """A variable of this process as a box of a tensor of the whole run.

    name: of the tensor, the same on every mesh. variable: its value here. shape: of the whole tensor. offset: where in
    it the variable's first element stands. written: the part of the variable this process stores, by axis; over all
    processes these parts fill the tensor, each element once. None: another process stores all of it.
    """

    name: str
    variable: Variable
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    written: tuple[slice, ...] | None


@dataclass(frozen=True)
class _Parameter:
    """A model's variable, its group of replicas, the axis that is shared out and the rows owned of it."""

    name: str
    variable: Variable
    group: Collectives
    axis: int
    rows: Rows

    @property
    def part(self) -> tuple[slice, ...]:
        """Of the variable, what is owned."""
        return tuple([slice(None)] * self.axis + [slice(self.rows.start, self.rows.stop)])

    def padded(self, rows: int) -> list[int]:
        """The variable's shape with another number of rows."""
        shape = self.variable.shape.as_list()
        return [*shape[: self.axis], rows, *shape[self.axis + 1 :]]


class Shards:
    """The parts of a model's parameters that this process owns, and how gradients and moved rows reach their places.

    parameters: by the model's names in the model's order, what the optimizer moves: the model's own variables where
    they have one replica, else copies of the owned rows, made afresh before each update.
    """

    def __init__(self, mesh: Mesh, model: Model) -> None:
        self.mesh, self.model = mesh, model
        self._parameters = []
        for variable in model.variables_in_order:
            name = variable.name.removesuffix(":0")
            group, axis = (mesh.data, 1) if name in model.expert_names else (mesh.all, 0)
            rows = Rows(variable.shape[axis], group.size, group.index)
            self._parameters.append(_Parameter(name, variable, group, axis, rows))
        self.parameters: dict[str, Variable] = {
            p.name: p.variable
            if p.group.size == 1
            else tf.Variable(p.variable[p.part], trainable=False, name=f"owned/{p.name}")
            for p in self._parameters
        }
        self._buckets = list(_buckets(self._parameters))

    def reduce(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """From each process's gradients of the model's variables: those of the owned rows, summed over replicas."""
        owned = list(gradients)
        for bucket in self._buckets:
            group = self._parameters[bucket[0]].group
            pieces = [_cut(self._parameters[i], gradients[i]) for i in bucket]
            summed = group.reduce_scatter(tf.concat(pieces, axis=1))
            for i, part in zip(bucket, tf.split(summed, [piece.shape[1] for piece in pieces]), strict=True):
                p = self._parameters[i]
                slab = tf.reshape(part, p.padded(p.rows.each))
                owned[i] = slab[(*p.part[:-1], slice(0, p.rows.stop - p.rows.start))]
        return owned

    def take(self) -> None:
        """Make `parameters` what the model's variables are."""
        for p in self._parameters:
            if p.group.size > 1:
                self.parameters[p.name].assign(p.variable[p.part])

    def give(self) -> None:
        """Make the model's variables what their owners' `parameters` are."""
        for bucket in self._buckets:
            group = self._parameters[bucket[0]].group
            parts = []
            for i in bucket:
                p = self._parameters[i]
                missing = p.rows.each - (p.rows.stop - p.rows.start)
                part = _pad(tf.convert_to_tensor(self.parameters[p.name]), p.axis, missing)
                parts.append(tf.reshape(part, [-1]))
            sizes = [part.shape[0] for part in parts]
            everyones = tf.split(group.all_gather(tf.concat(parts, axis=0)), sizes, axis=1)
            for i, pieces in zip(bucket, everyones, strict=True):
                self._parameters[i].variable.assign(_join(self._parameters[i], pieces))

    def owned(self, optimizer: AdamW, average: Average | None = None) -> list[Owned]:
        """The run's tensors as this process holds them: parameters, router biases, the step count, both moments, and
        the parameters' average where there is one.
        """
        found = []
        for p in self._parameters:
            shape, offset = self._whole(p)
            found.append(Owned(p.name, p.variable, shape, offset, p.part))
        first = () if self.mesh.rank == 0 else None
        for variable in (*self.model.router_biases, optimizer.step):
            shape = tuple(variable.shape)
            name = variable.name.removesuffix(":0")
            found.append(Owned(name, variable, shape, (0,) * len(shape), first))
        by_kind = {"m": optimizer.m, "v": optimizer.v} | ({AVERAGE: average.arrays} if average else {})
        for kind, variables in by_kind.items():
            for p, variable in zip(self._parameters, variables, strict=True):
                shape, at = self._whole(p)
                offset = (*at[: p.axis], at[p.axis] + p.rows.start, *at[p.axis + 1 :])
                found.append(Owned(f"{kind}/{p.name}", variable, shape, offset, ()))
        return found

    def _whole(self, p: _Parameter) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape of the whole parameter, and where the model's variable begins in it."""
        shape = tuple(p.variable.shape)
        if p.name not in self.model.expert_names:
            return shape, (0,) * len(shape)
        experts = self.model.config.n_routed_experts
        return (experts, *shape[1:]), (self.model.exchange.held(experts).start, *[0] * (len(shape) - 1))


def _buckets(parameters: Sequence[_Parameter]) -> Iterator[list[int]]:
    """Indices of parameters that travel together: of one group with replicas, in order, up to _BUCKET numbers."""
    open_ones: dict[int, tuple[list[int], int]] = {}
    for i, p in enumerate(parameters):
        if p.group.size == 1:
            continue
        numbers = p.variable.shape.num_elements()
        members, filled = open_ones.get(id(p.group), ([], 0))
        if members and filled + numbers > _BUCKET:
            yield members
            members, filled = [], 0
        open_ones[id(p.group)] = ([*members, i], filled + numbers)
    for members, _ in open_ones.values():
        yield members


def _pad(x: Tensor, axis: int, rows: int) -> Tensor:
    return tf.pad(x, [[0, rows if i == axis else 0] for i in range(len(x.shape))]) if rows else x


def _cut(p: _Parameter, gradient: Tensor) -> Tensor:
    """[R, numbers of a part]: the parts of all owners, padded to the same size."""
    replicas, each = p.rows.replicas, p.rows.each
    whole = _pad(gradient, p.axis, replicas * each - p.rows.size)
    if p.axis == 1:
        shape = whole.shape.as_list()
        whole = tf.transpose(tf.reshape(whole, [shape[0], replicas, each, -1]), [1, 0, 2, 3])
    return tf.reshape(whole, [replicas, -1])


def _join(p: _Parameter, pieces: Tensor) -> Tensor:
    """The reverse of `_cut`."""
    replicas, each = p.rows.replicas, p.rows.each
    if p.axis == 1:
        pieces = tf.transpose(tf.reshape(pieces, [replicas, p.variable.shape[0], each, -1]), [1, 0, 2, 3])
    whole: Any = tf.reshape(pieces, p.padded(replicas * each))
    return whole[(*[slice(None)] * p.axis, slice(0, p.rows.size))]
