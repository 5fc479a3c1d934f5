"""How tokens reach the experts and come back.

N: tokens, D: model width, E: experts, K: experts a token; a slot is a token and one of its choices, token K + choice.
M: rows that reach the e experts held here, padding included where an exchange pads.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.model.linear import Tensor


class Dispatched(NamedTuple):
    """What reaches the experts.

    rows: [M, D], one held expert after another. sizes: rows of each, int32 [e], or ints where they are static.
    state: what `combine` needs. left_out: int32 scalar, slots that found no place: unless it is 0, nothing computed
    from here on may be used; the int 0 where all find one always.
    """

    rows: Tensor
    sizes: Tensor | list[int]
    state: Any
    left_out: Tensor | int


class Exchange(Protocol):
    """The place for expert parallelism, and for static shapes."""

    def held(self, experts: int) -> range:
        """Which of a layer's experts this process holds."""
        ...

    def dispatch(self, x_ND: Tensor, experts_NK: Tensor, experts: int) -> Dispatched:
        """Every token to its experts. Differentiable in x."""
        ...

    def combine(self, rows_MD: Tensor, weights_NK: Tensor, state: Any) -> Tensor:
        """float32 [N, D]: sum over K of weight times the expert's row. Differentiable in rows and weights."""
        ...


class Places(NamedTuple):
    """Where slots stand in rows, both ways.

    slots: int32 [M], of each row. rows: int32 [N, K], of each slot. real: bool [M], False for rows that are padding,
    whatever slot they name; None: no row is.
    """

    slots: Tensor
    rows: Tensor
    real: Tensor | None


def send(x_ND: Tensor, places: Places) -> Tensor:
    """[M, D], zeros in padding. Forward and gradient are gathers, never scatters."""
    top = places.rows.shape[1]

    @tf.custom_gradient
    def send(x_ND: Tensor) -> Any:
        def gradient(drows_MD: Tensor) -> Tensor:
            return tf.cast(tf.add_n(_by_choice(tf.cast(drows_MD, tf.float32), places.rows)), x_ND.dtype)

        return _without_padding(tf.gather(x_ND, places.slots // top), places), gradient

    return send(x_ND)


def receive(rows_MD: Tensor, weights_NK: Tensor, places: Places) -> Tensor:
    """As `Exchange.combine`; as `send`, gathers alone. The gradient of padding is 0."""

    @tf.custom_gradient
    def receive(rows_MD: Tensor, weights_NK: Tensor) -> Any:
        weights_N1 = tf.split(weights_NK, weights_NK.shape[1], axis=1)

        def gradient(dy_ND: Tensor) -> tuple[Tensor, Tensor]:
            dy_MD = tf.gather(dy_ND, places.slots // weights_NK.shape[1])
            weight_M1 = _without_padding(tf.gather(tf.reshape(weights_NK, [-1, 1]), places.slots), places)
            dots_M = tf.reduce_sum(dy_MD * tf.cast(rows_MD, tf.float32), axis=-1)
            return tf.cast(dy_MD * weight_M1, rows_MD.dtype), tf.gather(dots_M, places.rows)

        chosen = _by_choice(rows_MD, places.rows)
        y_ND = tf.add_n([tf.cast(r, tf.float32) * w for r, w in zip(chosen, weights_N1, strict=True)])
        return y_ND, gradient

    return receive(rows_MD, weights_NK)


def _by_choice(rows_MD: Tensor, row_NK: Tensor) -> list[Tensor]:
    """For each of the K choices, the rows [N, D] the tokens' experts made."""
    return [tf.gather(rows_MD, row_N) for row_N in tf.unstack(row_NK, axis=1)]


def _without_padding(rows_MW: Tensor, places: Places) -> Tensor:
    if places.real is None:
        return rows_MW
    return tf.where(places.real[:, None], rows_MW, tf.zeros([], rows_MW.dtype))


class LocalExchange:
    """All experts in this process, each with as many rows as it has tokens."""

    def held(self, experts: int) -> range:
        """All of them."""
        return range(experts)

    def dispatch(self, x_ND: Tensor, experts_NK: Tensor, experts: int) -> Dispatched:
        """As `Exchange`; the state is `Places`."""
        ids_M = tf.reshape(experts_NK, [-1])
        by_expert = tf.dynamic_partition(tf.range(tf.size(ids_M)), ids_M, experts)
        slot_M = tf.concat(by_expert, axis=0)
        row_NK = tf.reshape(tf.math.invert_permutation(slot_M), tf.shape(experts_NK))
        places = Places(slot_M, row_NK, None)
        return Dispatched(send(x_ND, places), tf.stack([tf.size(part) for part in by_expert]), places, 0)

    def combine(self, rows_MD: Tensor, weights_NK: Tensor, state: Any) -> Tensor:
        """As `Exchange`."""
        return receive(rows_MD, weights_NK, state)
