"""What collectives and the exchange must give, by numpy; run in each process of a mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from trainer.mesh import Mesh
from trainer.mesh.collectives import run_time_size
from trainer.mesh.exchange import ExpertExchange


def check_collectives(mesh: Mesh) -> None:
    """Values and gradients of all four, over all groups of a 2 x 2 mesh, at shapes known when they run."""
    peers = {"all": [0, 1, 2, 3], "data": [mesh.expert_index, mesh.expert_index + 2]}
    peers["expert"] = [2 * mesh.data_index, 2 * mesh.data_index + 1]
    groups = {"all": mesh.all, "data": mesh.data, "expert": mesh.expert}
    for name, group in groups.items():
        ranks, me = peers[name], group.index
        assert (group.size, ranks[me]) == (len(ranks), mesh.rank)
        for dtype in (tf.float32, tf.bfloat16):
            graph = collectives_of(group, dtype)
            for rows in (3, 1, 70, 3):
                x = [values(rank, [len(ranks), rows, 2], rows) for rank in ranks]
                dy = [values(rank, [len(ranks), rows, 2], rows + 1) for rank in ranks]
                found = [tf.cast(value, tf.float32).numpy() for value in graph(x[me], dy[me])]
                expected = [
                    np.sum(x, 0),
                    np.sum(dy, 0),
                    np.stack([each[0] for each in x]),
                    np.sum([each[me] for each in dy], 0),
                    np.sum([each[me] for each in x], 0),
                    np.stack([each[0] for each in dy]),
                    np.stack([each[me] for each in x]),
                    np.stack([each[me] for each in dy]),
                    5 * np.sum(x, 0),
                ]
                for number, (one, other) in enumerate(zip(found, expected, strict=True)):
                    np.testing.assert_array_equal(one, other, f"{name} {dtype.name} {rows} rows, output {number}")
    nest = {"a": tf.constant([2**40 + mesh.rank], tf.int64), "b": (tf.constant(0.5), tf.constant([[mesh.rank]]))}
    summed = tf.function(mesh.all.total, autograph=False)(nest)
    assert summed["a"].numpy().tolist() == [2**42 + 6]
    assert float(summed["b"][0]) == 2.0
    assert summed["b"][1].numpy().tolist() == [[6]]


def values(rank: int, shape: list[int], seed: int) -> np.ndarray:
    """Whole numbers whose sums are exact in bfloat16."""
    return np.random.default_rng([rank, seed]).integers(-9, 10, shape).astype(np.float32)


def collectives_of(group: Any, dtype: Any) -> Any:
    """A graph of each collective and its gradient, and of one in a loop; at any number of rows."""
    spec = tf.TensorSpec([group.size, None, 2], tf.float32)

    @tf.function(autograph=False, input_signature=[spec, spec])
    def graph(x: Any, dy: Any) -> list[Any]:
        x, dy = tf.cast(x, dtype), tf.cast(dy, dtype)
        variant = run_time_size(tf.shape(x)[1])[1]
        found = []
        for collective, whole_in, whole_out in (
            (group.all_reduce, True, True),
            (group.all_gather, False, True),
            (group.reduce_scatter, True, False),
            (group.all_to_all, True, True),
        ):
            with tf.GradientTape() as tape:
                given = x if whole_in else x[0]
                tape.watch(given)
                y = collective(given, variant)
            found += [y, tape.gradient(y, given, dy if whole_out else dy[0])]
        _, looped = tf.while_loop(
            lambda i, _: i < 5,
            lambda i, y: (i + 1, y + tf.cast(group.all_reduce(x, variant), tf.float32)),
            (tf.constant(0), tf.zeros_like(x, tf.float32)),
        )
        return [*found, looped]

    return graph


def check_exchange(mesh: Mesh) -> None:
    """Dispatch, experts that multiply by their number, combine; and the gradients: against the same sums in numpy.

    Among the cases: all tokens to one expert, to the experts of this process alone, to those of the next alone.
    """
    experts, top, tokens, width = 8, 2, 13, 5
    exchange = ExpertExchange(mesh.expert)
    held = exchange.held(experts)
    assert list(held) == list(np.array_split(np.arange(experts), mesh.expert.size)[mesh.expert_index])
    rng = np.random.default_rng([5, mesh.rank])
    other = (held.start + len(held)) % experts
    cases = {
        "even": np.argsort(rng.random([tokens, experts]), axis=1)[:, :top],
        "one expert": np.tile([[2, 7]], [tokens, 1]),
        "one process": np.tile([[1, 3]], [tokens, 1]),
        "own": np.tile([[held.start, held.start + 1]], [tokens, 1]),
        "other": np.tile([[other + 1, other]], [tokens, 1]),
    }
    for dtype, tolerance in ((tf.float32, 1e-6), (tf.bfloat16, 2e-2)):
        graph = exchange_of(exchange, experts, dtype)
        for name, chosen in cases.items():
            x, weights, dy = (rng.standard_normal(shape) for shape in ([tokens, width], [tokens, top], [tokens, width]))
            y, dx, dweights, counts = graph(
                *(tf.constant(value, tf.float32) for value in (x, weights, dy)), tf.constant(chosen, tf.int32)
            )
            factors = chosen + 1.0
            mean = (factors * weights).sum(1, keepdims=True)
            for found, right in ((y, x * mean), (dx, dy * mean), (dweights, factors * (x * dy).sum(1, keepdims=True))):
                np.testing.assert_allclose(
                    found, right, rtol=tolerance, atol=tolerance * 10, err_msg=f"{name} {dtype.name}"
                )
            everyones = mesh.expert.all_gather(tf.constant(np.bincount(chosen.ravel(), minlength=experts), tf.int32))
            np.testing.assert_array_equal(counts, everyones.numpy().sum(0)[held.start : held.stop])


def exchange_of(exchange: ExpertExchange, experts: int, dtype: Any) -> Any:
    """A graph of y, the gradients of x and weights, and the rows each held expert had; expert i multiplies by i + 1."""
    held = exchange.held(experts)

    @tf.function(autograph=False)
    def graph(x: Any, weights: Any, dy: Any, chosen: Any) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            rows, counts, state, _ = exchange.dispatch(tf.cast(x, dtype), chosen, experts)
            assert rows.dtype == dtype
            factors = tf.repeat(tf.range(held.start + 1.0, held.stop + 1.0), counts)
            y = exchange.combine(rows * tf.cast(factors, dtype)[:, None], weights, state)
        return y, *tape.gradient(y, [x, weights], dy), counts

    return graph
