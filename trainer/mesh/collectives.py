"""What moves between processes: four collectives over a group, each with its gradient, and nothing else.

P: processes of the group. `Alone` is the group of one, where every collective is the identity; `Group` is any other.

Three things TensorFlow leaves to its user are settled here:

- Keys. A collective is known by its group's key and an instance key, the same on all processes. Instance keys are
  counted as collectives are traced, so processes must trace the same graphs in the same order, which they do as they
  run the same program.
- Shapes. An instance key is bound to the first shape it meets. Where a shape is known at run time only, it is one of
  few (`run_time_size`), and its number makes the key.
- Order. Two collectives in opposite orders on two processes wait for each other for ever. All pass one variable on as
  their ordering token, so each graph, loops and branches in it included, runs them in the order of the program. The
  variable counts those that have ended: the watch reads it.
"""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor

_VARIANTS = 1024  # instance keys of a place in a graph
_STEPS = 5  # bits of a run-time size that are kept


class Collectives(Protocol):
    """Collectives over a group of `size` processes, in which this one is `index`; all must call them, in one order.

    x holds at least one number. variant: int32 scalar in [0, 1024), needed where the static shape of x is not known:
    equal on all processes, and different for different shapes. `run_time_size` makes one.
    """

    @property
    def size(self) -> int:
        """As above."""
        ...

    @property
    def index(self) -> int:
        """As above."""
        ...

    def all_reduce(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """The sum over processes, x's shape; the same bits on all. Its gradient: the sum of the gradients."""
        ...

    def all_gather(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """[P, …] from x […] of each process. Its gradient: reduce_scatter."""
        ...

    def reduce_scatter(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """[…] from x [P, …]: the sum, in float32 for bfloat16, over processes of their x[index]. Gradient: all_gather.

        Made of an all_to_all and a sum, which is as many bytes: there is no reduce_scatter on CPUs.
        """
        ...

    def all_to_all(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """y [P, …] from x [P, …]: y[i] here is x[index] of process i. Its gradient: all_to_all."""
        ...

    def total(self, nest: Any) -> Any:
        """A nest of numbers of static shape, each summed over processes, in one all_reduce of float64; no gradient.

        Integers are exact up to 2^53. The same bits on all processes.
        """
        ...


class Alone:
    """The group of one process: nothing moves."""

    size = 1
    index = 0

    def all_reduce(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """x."""
        return x

    def all_gather(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """[1, …]."""
        return x[None]

    def reduce_scatter(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """[…] from [1, …]."""
        return tf.squeeze(x, 0)

    def all_to_all(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """x."""
        return x

    def total(self, nest: Any) -> Any:
        """The nest itself."""
        return nest


class Line:
    """The one line in which a process's collectives stand, whatever their group.

    ended: how many have ended, an int64 variable, which is their ordering token, too.
    """

    def __init__(self) -> None:
        self.ended = tf.Variable(0, dtype=tf.int64, trainable=False, name="collectives_ended")
        self._places = 0

    def place(self) -> int:
        """A new place in a graph: the first of the instance keys that belong to it."""
        self._places += 1
        return self._places * _VARIANTS


class Group:
    """A group of two or more processes. key: its own among all groups; line: shared by all groups of the process."""

    def __init__(self, key: int, size: int, index: int, line: Line) -> None:
        self.size, self.index = size, index
        self._key, self._line = key, line

    def all_reduce(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """As `Collectives`."""

        @tf.custom_gradient
        def run(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                return self.all_reduce(dy, variant)

            return self._run(tf.raw_ops.CollectiveReduceV2, x, variant, merge_op="Add", final_op="Id"), gradient

        return run(x)

    def all_gather(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """As `Collectives`."""

        @tf.custom_gradient
        def run(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                return self.reduce_scatter(dy, variant)

            # The operation does not take bfloat16; it does not look at the bits either.
            bits = tf.bitcast(x, tf.half) if x.dtype == tf.bfloat16 else x
            y = self._run(tf.raw_ops.CollectiveGatherV2, bits[None], variant)
            y = tf.ensure_shape(y, [self.size, *x.shape])
            return (tf.bitcast(y, tf.bfloat16) if x.dtype == tf.bfloat16 else y), gradient

        return run(tf.convert_to_tensor(x))

    def reduce_scatter(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """As `Collectives`."""

        @tf.custom_gradient
        def run(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                return self.all_gather(dy, variant)

            parts = tf.unstack(self._all_to_all(x, variant), num=self.size)
            if x.dtype == tf.bfloat16:
                parts = [tf.cast(part, tf.float32) for part in parts]
            return tf.cast(tf.add_n(parts), x.dtype), gradient

        return run(x)

    def all_to_all(self, x: Tensor, variant: Tensor | None = None) -> Tensor:
        """As `Collectives`."""

        @tf.custom_gradient
        def run(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                return self.all_to_all(dy, variant)

            return self._all_to_all(x, variant), gradient

        return run(x)

    def total(self, nest: Any) -> Any:
        """As `Collectives`."""
        numbers = [tf.convert_to_tensor(number) for number in tf.nest.flatten(nest)]
        flat = tf.concat([tf.reshape(tf.cast(number, tf.float64), [-1]) for number in numbers], axis=0)
        parts = tf.split(self.all_reduce(flat), [number.shape.num_elements() for number in numbers])
        summed = [tf.cast(tf.reshape(p, n.shape), n.dtype) for p, n in zip(parts, numbers, strict=True)]
        return tf.nest.pack_sequence_as(nest, summed)

    def _all_to_all(self, x: Tensor, variant: Tensor | None) -> Tensor:
        return self._run(tf.raw_ops.CollectiveAllToAllV2, x, variant)

    def _run(self, operation: Any, x: Tensor, variant: Tensor | None, **settings: Any) -> Tensor:
        if variant is None and not x.shape.is_fully_defined():
            raise ValueError(f"{operation.__name__} of {x.shape}: give a variant where the shape is known at run time")
        if 0 in x.shape:
            raise ValueError(f"{operation.__name__} of {x.shape}: TensorFlow crashes where there is nothing to move")
        y = operation(
            input=x,
            group_size=self.size,
            group_key=self._key,
            instance_key=self._line.place() + (0 if variant is None else variant),
            ordering_token=[self._line.ended.handle],
            **settings,
        )
        with tf.control_dependencies([y]):
            self._line.ended.assign_add(1)
        return y


def run_time_size(needed: Tensor) -> tuple[Tensor, Tensor]:
    """(size, variant): int32 scalars; the least size >= needed of a series of few, less than 1/16 above it.

    The sizes are 1 to 32, then 34, 36, … 64, 68, …: numbers of five bits times powers of two. Few, because
    TensorFlow keeps a record of each instance key. needed: int32, up to 2^30.
    """
    needed = tf.maximum(needed, 1)
    powers = tf.constant([1 << (_STEPS + shift) for shift in range(31 - _STEPS)])
    # How many bits too long: by comparing, as logarithms round differently from machine to machine.
    shift = tf.reduce_sum(tf.cast(needed > powers, tf.int32))
    step = tf.bitwise.left_shift(1, shift)
    parts = (needed + step - 1) // step
    return parts * step, shift * (2**_STEPS + 1) + parts
