"""Whether collectives give what numpy gives: run when a mesh is joined, before anything depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from schemas.errors import TokenmillError
from trainer.mesh.collectives import Collectives, run_time_size

# A collective and the one that makes its gradient.
_GRADIENTS = {
    "all_reduce": "all_reduce",
    "all_gather": "reduce_scatter",
    "reduce_scatter": "all_gather",
    "all_to_all": "all_to_all",
}
# Sums of a few whole numbers below this are exact in bfloat16, too.
_HIGHEST, _ROWS, _WIDTH = 12, 3, 5


class _Check(NamedTuple):
    """One collective over one group: what goes in here, and what numpy makes of it; dy: the gradient that comes in."""

    name: str
    group: Collectives
    collective: str
    dtype: Any
    x: np.ndarray
    dy: np.ndarray
    right_y: np.ndarray
    right_dx: np.ndarray


def self_test(groups: Mapping[str, tuple[Collectives, Sequence[int]]]) -> None:
    """Every collective and its gradient, in float32 and bfloat16, over each group; `groups` by name, with its ranks.

    Raises:
        TokenmillError: a collective gave other values than numpy; names it.
    """
    checks = [
        _check(name, group, ranks, collective, dtype)
        for name, (group, ranks) in groups.items()
        for dtype in (tf.float32, tf.bfloat16)
        for collective in _GRADIENTS
    ]
    spec = [(tf.TensorSpec([None] * c.x.ndim, c.dtype), tf.TensorSpec([None] * c.dy.ndim, c.dtype)) for c in checks]

    @tf.function(autograph=False, input_signature=[spec])
    def graph(inputs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        found = []
        for check, (x, dy) in zip(checks, inputs, strict=True):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = getattr(check.group, check.collective)(x, run_time_size(tf.shape(x)[-2])[1])
            found.append((y, tape.gradient(y, x, dy)))
        return found

    found = graph([(tf.cast(check.x, check.dtype), tf.cast(check.dy, check.dtype)) for check in checks])
    for check, (y, dx) in zip(checks, found, strict=True):
        what = f"{check.collective} over `{check.name}`"
        _compare(what, check.dtype, y, check.right_y)
        _compare(f"the gradient of {what}", check.dtype, dx, check.right_dx)


def _check(name: str, group: Collectives, ranks: Sequence[int], collective: str, dtype: Any) -> _Check:
    x = [_values(collective, rank, len(ranks), salt=0) for rank in ranks]
    dy = [_values(_GRADIENTS[collective], rank, len(ranks), salt=1) for rank in ranks]
    right = _expected(collective, x, group.index), _expected(_GRADIENTS[collective], dy, group.index)
    return _Check(name, group, collective, dtype, x[group.index], dy[group.index], *right)


def _values(collective: str, rank: int, size: int, salt: int) -> np.ndarray:
    shape = [_ROWS, _WIDTH] if collective in ("all_reduce", "all_gather") else [size, _ROWS, _WIDTH]
    return np.random.default_rng([rank, salt]).integers(-_HIGHEST, _HIGHEST, shape).astype(np.float32)


def _expected(collective: str, values: Sequence[np.ndarray], index: int) -> np.ndarray:
    """What process `index` of a group gets, whose members give `values` in order."""
    if collective == "all_reduce":
        return np.sum(values, axis=0)
    if collective == "all_gather":
        return np.stack(values)
    if collective == "reduce_scatter":
        return np.sum([value[index] for value in values], axis=0)
    return np.stack([value[index] for value in values])


def _compare(what: str, dtype: Any, found: Any, right: np.ndarray) -> None:
    found = tf.cast(found, tf.float32).numpy()
    # bfloat16 sums over hundreds of processes are rounded.
    near = found.shape == right.shape and np.abs(found - right).max() <= np.abs(right).max() * (
        0 if dtype == tf.float32 else 2**-5
    )
    if not near:
        raise TokenmillError(
            f"{what} in {dtype.name} gave {_brief(found)} where {_brief(right)} is right; this TensorFlow, its "
            f"settings or the network between these processes cannot be trained with"
        )


def _brief(values: np.ndarray) -> str:
    return f"{list(values.shape)} {np.array2string(values.ravel()[:6], separator=' ')}"
