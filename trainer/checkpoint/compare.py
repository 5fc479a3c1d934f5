"""Two checkpoints, array by array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.checkpoint.load import ArrayInfo, Checkpoint

BLOCK = 1 << 24  # elements compared at a time


@dataclass(frozen=True, slots=True)
class Difference:
    """An array that is not the same in both, bit by bit.

    elements: how many differ; largest: the greatest absolute difference (NaN where one of the two is). Both None when
    the arrays cannot be compared: `first` or `second` is None where there is none, or they are of two kinds.
    """

    name: str
    first: ArrayInfo | None
    second: ArrayInfo | None
    elements: int | None = None
    largest: float | None = None


def compare(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """The arrays that differ, in order of names."""
    mine, others = first.arrays, second.arrays
    for name in sorted(mine.keys() | others.keys()):
        a, b = mine.get(name), others.get(name)
        if a is None or a != b:
            yield Difference(name, a, b)
            continue
        count, largest = 0, 0.0
        for index in _blocks(a.shape):
            found = _differences(first.read(name, index), second.read(name, index))
            count += found.size
            largest = max(largest, float(np.max(found, initial=0.0)), key=_nan_last)
        if count:
            yield Difference(name, a, b, count, largest)


def compare_meta(first: dict[str, Any], second: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Entries of the two metas that differ: dotted key, value in the first, value in the second (None: absent)."""
    for key in sorted(first.keys() | second.keys()):
        a, b = first.get(key), second.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from ((f"{key}.{below}", x, y) for below, x, y in compare_meta(a, b))
        elif a != b:
            yield key, a, b


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The array in slices of its first axis, of about BLOCK elements."""
    if not shape:
        yield ()
        return
    rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], rows):
        yield (slice(begin, begin + rows), *[slice(None)] * (len(shape) - 1))


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| in float64 where the bits differ."""
    bits = f"u{a.dtype.itemsize}"
    unlike = np.ravel(a).view(bits) != np.ravel(b).view(bits)
    return np.abs(np.ravel(a)[unlike].astype(np.float64) - np.ravel(b)[unlike].astype(np.float64))


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
