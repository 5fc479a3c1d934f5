"""Expert parallelism without token loss: rows go to the processes that hold their experts, and come back.

N: tokens here, D: model width, E: experts, K: experts a token, M = N K rows made here; P: processes of the group,
e = E / P: experts held by each, C: rows from one process to one other, with padding; R: rows that arrive here.

Each process tells all others how many rows it has for each expert. So all know the largest number between any two;
C is that, rounded up a little (`run_time_size`), and every message has C rows. Rows stand by expert within a message,
so counts alone say what is where. What pads a message is never read. Four messages a layer and step: rows and results,
and the gradients of both the other way. All four are in the type of the activations; both gradients are gathers, never
scatters of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.mesh.collectives import Collectives, run_time_size
from trainer.model.dispatch import Dispatched
from trainer.model.linear import Tensor


class _Plan(NamedTuple):
    """Where rows stand in messages; all int32.

    variant: of the messages' shape. sent: [P, C], rows sent, as token K + choice. places: [N, K], where a token's rows
    stand in messages sent, as process C + row. order: [R], rows that arrive by held expert, as process C + row. rows:
    [P, C], the number of each in that order, any number for padding.
    """

    variant: Tensor
    sent: Tensor
    places: Tensor
    order: Tensor
    rows: Tensor


class ExpertExchange:
    """An `Exchange` over a group of processes, each holding as many experts as any other, in order."""

    def __init__(self, group: Collectives) -> None:
        self._group = group

    def held(self, experts: int) -> range:
        """As `Exchange`."""
        each = experts // self._group.size
        return range(self._group.index * each, (self._group.index + 1) * each)

    def dispatch(self, x_ND: Tensor, experts_NK: Tensor, experts: int) -> Dispatched:
        """As `Exchange`; the state is the plan of the messages."""
        plan, counts_e = self._plan(experts_NK, experts)
        token_PC = plan.sent // experts_NK.shape[1]

        @tf.custom_gradient
        def send(x_ND: Tensor) -> Any:
            def gradient(drows_RD: Tensor) -> Tensor:
                back_D = self._back(drows_RD, plan)
                return tf.cast(tf.add_n([tf.cast(d, tf.float32) for d in _by_choice(back_D, plan)]), x_ND.dtype)

            return self._there(tf.gather(x_ND, token_PC), plan), gradient

        return Dispatched(send(x_ND), counts_e, plan, 0)

    def combine(self, rows_RD: Tensor, weights_NK: Tensor, state: Any) -> Tensor:
        """As `Exchange`."""
        plan: _Plan = state

        @tf.custom_gradient
        def receive(rows_RD: Tensor, weights_NK: Tensor) -> Any:
            back_D = self._back(rows_RD, plan)

            def gradient(dy_ND: Tensor) -> tuple[Tensor, Tensor]:
                weight_PC1 = tf.gather(tf.reshape(weights_NK, [-1]), plan.sent)[..., None]
                dy_PCD = tf.cast(tf.gather(dy_ND, plan.sent // weights_NK.shape[1]) * weight_PC1, rows_RD.dtype)
                dots_N = [tf.reduce_sum(dy_ND * tf.cast(row, tf.float32), axis=-1) for row in _by_choice(back_D, plan)]
                return self._there(dy_PCD, plan), tf.stack(dots_N, axis=1)

            weights_N1 = tf.split(weights_NK, weights_NK.shape[1], axis=1)
            chosen = [tf.cast(row, tf.float32) for row in _by_choice(back_D, plan)]
            return tf.add_n([row * weight for row, weight in zip(chosen, weights_N1, strict=True)]), gradient

        return receive(rows_RD, weights_NK)

    def _there(self, sent_PCD: Tensor, plan: _Plan) -> Tensor:
        """Messages out: what arrives, [R, D] by held expert."""
        arrived_PCD = self._group.all_to_all(sent_PCD, plan.variant)
        return tf.gather(tf.reshape(arrived_PCD, [-1, sent_PCD.shape[-1]]), plan.order)

    def _back(self, rows_RD: Tensor, plan: _Plan) -> Tensor:
        """Messages home from [R, D]: what comes back, [P C, D]."""
        width = rows_RD.shape[-1]
        # Padding repeats some row, so there must be one.
        rows_RD = tf.cond(tf.shape(rows_RD)[0] > 0, lambda: rows_RD, lambda: tf.zeros([1, width], rows_RD.dtype))
        return tf.reshape(self._group.all_to_all(tf.gather(rows_RD, plan.rows), plan.variant), [-1, width])

    def _plan(self, experts_NK: Tensor, experts: int) -> tuple[_Plan, Tensor]:
        """The plan, and int32 [e], the rows that arrive for each held expert."""
        size, index = self._group.size, self._group.index
        ids_M = tf.reshape(experts_NK, [-1])
        by_expert = tf.dynamic_partition(tf.range(tf.size(ids_M)), ids_M, experts)
        slot_M = tf.concat(by_expert, axis=0)
        counts_E = tf.stack([tf.size(part) for part in by_expert])
        counts_PPe = tf.reshape(self._group.all_gather(counts_E), [size, size, experts // size])
        rows_PP = tf.reduce_sum(counts_PPe, axis=2)
        capacity, variant = run_time_size(tf.reduce_max(rows_PP))

        # Sent: the rows for process p are those sorted rows that begin at first_P[p].
        first_P = tf.cumsum(rows_PP[index], exclusive=True)
        last = tf.size(ids_M) - 1
        sent_PC = tf.gather(slot_M, tf.minimum(first_P[:, None] + tf.range(capacity), last))
        place_M = tf.range(last + 1) + tf.repeat(tf.range(size) * capacity - first_P, rows_PP[index])
        place_NK = tf.gather(place_M, tf.reshape(tf.math.invert_permutation(slot_M), tf.shape(experts_NK)))

        # Arrived: from process p, rows_PP[p, index] rows in the order of held experts.
        counts_Pe = counts_PPe[:, index]
        place_R = tf.cast(tf.where(tf.reshape(tf.sequence_mask(rows_PP[:, index], capacity), [-1]))[:, 0], tf.int32)
        held_R = tf.repeat(tf.tile(tf.range(experts // size), [size]), tf.reshape(counts_Pe, [-1]))
        order_R = tf.concat(tf.dynamic_partition(place_R, held_R, experts // size), axis=0)
        row_PC = tf.scatter_nd(order_R[:, None], tf.range(tf.size(order_R)), [size * capacity])
        plan = _Plan(variant, sent_PC, place_NK, order_R, tf.reshape(row_PC, [size, capacity]))
        return plan, tf.reduce_sum(counts_Pe, axis=0)


def _by_choice(rows_D: Tensor, plan: _Plan) -> list[Tensor]:
    """For each of the K choices, the rows [N, D] that came back for the tokens."""
    return [tf.gather(rows_D, place_N) for place_N in tf.unstack(plan.places, axis=1)]
