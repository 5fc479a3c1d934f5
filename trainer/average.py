"""An exponential moving average of the weights in host memory (DeepSeek-V3, arXiv 2412.19437, section 3.2.3).

After update t = 1, 2, … of weights p_t, with decay d:

    a_t = a_(t-1) + (1 - d) / (1 - d^t) (p_t - a_(t-1))

which is the mean of p_1 … p_t with weights d^(t-i), without the first weights: the bias correction of Adam
(arXiv 1412.6980, section 3), made as it goes.

The weights are copied when an update ends; a thread then moves the average while the device makes the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from pydantic import Field

from trainer.config import Strict
from trainer.optimizer import Variable


class AverageConfig(Strict):
    """decay: d; the average is over about the last 1 / (1 - d) updates."""

    decay: float = Field(default=0.999, gt=0, lt=1)


class HostArray:
    """Float32 numbers in host memory, read and assigned as a variable is."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.values = np.zeros(shape, np.float32)
        self.shape, self.dtype = shape, self.values.dtype

    def read_value(self) -> np.ndarray:
        """The numbers themselves, not a copy."""
        return self.values

    def assign(self, value: Any) -> None:
        """Take over numbers of the same shape."""
        np.copyto(self.values, value)


class Average:
    """The average of some float32 variables, by their names."""

    def __init__(self, parameters: Mapping[str, Variable], decay: float) -> None:
        self._parameters, self._decay = list(parameters.values()), decay
        shapes = [tuple(parameter.shape) for parameter in self._parameters]
        self._arrays = [HostArray(shape) for shape in shapes]
        self._copies = [np.zeros(shape, np.float32) for shape in shapes]
        self._thread = ThreadPoolExecutor(1, "average")
        self._pending: Future[None] | None = None

    @property
    def arrays(self) -> list[HostArray]:
        """In the order of the parameters, once the last update is in them."""
        self._wait()
        return self._arrays

    def update(self, t: int) -> None:
        """Take up the parameters as they are now, after update t >= 1; returns when they may change again."""
        self._wait()
        for copy, parameter in zip(self._copies, self._parameters, strict=True):
            np.copyto(copy, np.asarray(parameter.read_value()))
        self._pending = self._thread.submit(self._move, np.float32((1 - self._decay) / (1 - self._decay**t)))

    def _move(self, rate: np.float32) -> None:
        for array, copy in zip(self._arrays, self._copies, strict=True):
            np.subtract(copy, array.values, out=copy)
            np.multiply(copy, rate, out=copy)
            np.add(array.values, copy, out=array.values)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
