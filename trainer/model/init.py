"""Variables and their first values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor


class Variables:
    """Makes a model's variables, in the order they are asked for, each with a name of its own.

    Weights are drawn from N(0, std), each variable (each expert of a stack) from a stream of its own keyed by the seed
    and its name: neither other variables nor which experts a process holds change a value.
    """

    def __init__(self, seed: int, std: float) -> None:
        self._seed, self._std = seed, std
        self.trainable: list[tf.Variable] = []
        self.expert_names: set[str] = set()
        self.router_biases: list[tf.Variable] = []

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """A float32 matrix drawn from N(0, std)."""
        return self._add(name, self._draw(name, shape))

    def experts(self, name: str, held: range, shape: Sequence[int]) -> Tensor:
        """Float32 [len(held), *shape], one matrix for each expert held here."""
        values = np.empty([len(held), *shape], np.float32)
        for row, expert in enumerate(held):
            values[row] = self._draw(f"{name}.{expert}", shape)
        self.expert_names.add(name)
        return self._add(name, values)

    def norm(self, name: str, width: int) -> Tensor:
        """Float32 ones [width]."""
        return self._add(name, np.ones([width], np.float32))

    def router_bias(self, name: str, experts: int) -> Tensor:
        """Float32 zeros [experts], outside the optimizer."""
        bias = tf.Variable(np.zeros([experts], np.float32), trainable=False, name=name)
        self.router_biases.append(bias)
        return bias

    def _add(self, name: str, value: np.ndarray) -> Tensor:
        variable = tf.Variable(value, name=name)
        self.trainable.append(variable)
        return variable

    def _draw(self, name: str, shape: Sequence[int]) -> np.ndarray:
        digest = hashlib.sha256(name.encode()).digest()
        words = np.frombuffer(digest[:16], "<u4")
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, *words.tolist()])))
        return stream.standard_normal(list(shape), np.float32) * np.float32(self._std)
