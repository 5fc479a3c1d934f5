"""Whether collectives give what numpy gives: run when a mesh is joined, before anything depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from schemas.errors import TokenmillError
from trainer.mesh.collectives import Group, run_time_size

_NAMES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
# Sums of these are exact in bfloat16, too: whole numbers below 256.
_HIGHEST, _ROWS, _WIDTH = 12, 3, 5


def self_test(groups: Mapping[str, tuple[Group, Sequence[int]]], rank: int) -> None:
    """Every collective and its gradient, in float32 and bfloat16, over each group; `groups` by name, with its ranks.

    Raises:
        TokenmillError: a collective gave other values than numpy; names it.
    """
    for name, (group, ranks) in groups.items():
        for dtype in (tf.float32, tf.bfloat16):
            for collective in _NAMES:
                values = [_values(collective, each, len(ranks), salt=0) for each in ranks]
                slopes = [_values(_GRADIENTS[collective], each, len(ranks), salt=1) for each in ranks]
                y, dx = _run(group, collective, dtype, values[group.index], slopes[group.index])
                _compare(f"{collective} over `{name}`", dtype, y, expected(collective, values, group.index))
                gradient = expected(_GRADIENTS[collective], slopes, group.index)
                _compare(f"the gradient of {collective} over `{name}`", dtype, dx, gradient)


# A collective's gradient is this collective of the gradients.
_GRADIENTS = {
    "all_reduce": "all_reduce",
    "all_gather": "reduce_scatter",
    "reduce_scatter": "all_gather",
    "all_to_all": "all_to_all",
}


def expected(collective: str, values: Sequence[np.ndarray], index: int) -> np.ndarray:
    """What process `index` of a group gets, whose members give `values` in order."""
    if collective == "all_reduce":
        return np.sum(values, axis=0)
    if collective == "all_gather":
        return np.stack(values)
    if collective == "reduce_scatter":
        return np.sum([value[index] for value in values], axis=0)
    return np.stack([value[index] for value in values])


def _values(collective: str, rank: int, size: int, salt: int) -> np.ndarray:
    shape = [_ROWS, _WIDTH] if collective in ("all_reduce", "all_gather") else [size, _ROWS, _WIDTH]
    return np.random.default_rng([rank, salt]).integers(-_HIGHEST, _HIGHEST, shape).astype(np.float32)


def _run(group: Group, collective: str, dtype: Any, value: np.ndarray, slope: np.ndarray) -> tuple[Any, Any]:
    @tf.function(input_signature=[tf.TensorSpec([None] * value.ndim, dtype), tf.TensorSpec([None] * slope.ndim, dtype)])
    def graph(x: Any, dy: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = getattr(group, collective)(x, run_time_size(tf.shape(x)[-2])[1])
        return y, tape.gradient(y, x, dy)

    return graph(tf.cast(value, dtype), tf.cast(slope, dtype))


def _compare(what: str, dtype: Any, found: Any, right: np.ndarray) -> None:
    found = tf.cast(found, tf.float32).numpy()
    if found.shape != right.shape or not np.array_equal(found, right):
        raise TokenmillError(
            f"{what} in {dtype.name} gave {_brief(found)} where {_brief(right)} is right; this TensorFlow, its "
            f"settings or the network between these processes cannot be trained with"
        )


def _brief(values: np.ndarray) -> str:
    return f"{list(values.shape)} {np.array2string(values.ravel()[:6], separator=' ')}"
