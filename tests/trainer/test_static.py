"""Experts with static shapes: the exchange against the dropless one, overflow, and the whole step compiled by XLA."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.trainer.numeric import relative
from tests.trainer.test_step import CONFIG, batch, state
from tests.trainer.training.configs import MODEL, content
from trainer.config import ModelConfig
from trainer.model import Model
from trainer.model.dispatch import LocalExchange
from trainer.model.static import StaticExchange, capacities
from trainer.optimizer import OptimizerConfig
from trainer.precision import linear_for
from trainer.step import TrainStep, optimizer_of
from trainer.training.config import RunConfig
from trainer.training.loop import run

# One layer, with experts: XLA takes ten seconds to compile its step.
SMALL: ModelConfig = CONFIG.model_copy(
    update={"num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0}
)
MICROBATCH = 2
# Of a microbatch: 2 x 24 tokens with 2 of 8 experts each.
LEAST, ALL = 24, 48


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(2, 64))
def test_capacities_rise_from_twice_the_mean_to_all_tokens(tokens: int, top: int, experts: int) -> None:
    top = min(top, experts)
    found = capacities(tokens, top, experts)
    assert found[-1] == tokens
    assert found[0] >= min(tokens, 2 * tokens * top / experts)
    assert all(one < other <= 2 * one for one, other in pairwise(found))


def both(exchange: Any, x: Any, weights: Any, chosen: Any, experts: int) -> tuple[Any, ...]:
    """Expert i multiplies by i + 1: y, gradients of x and weights, sizes, rows, slots without a place."""
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        sent = exchange.dispatch(x, chosen, experts)
        factors = tf.repeat(tf.range(1.0, experts + 1.0), tf.convert_to_tensor(sent.sizes))
        y = exchange.combine(sent.rows * factors[:, None], weights, sent.state)
        value = tf.reduce_sum(tf.sin(y))
    return y, *tape.gradient(value, [x, weights]), np.asarray(sent.sizes), sent.rows.numpy(), int(sent.left_out)


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(2, 8), st.integers(1, 4), st.integers(0, 999), st.booleans())
def test_places_are_those_of_the_dropless_exchange(n: int, experts: int, top: int, seed: int, skewed: bool) -> None:
    top, rng = min(top, experts), np.random.default_rng(seed)
    order = np.argsort(rng.random([n, experts]), axis=1)[:, :top]
    chosen = tf.constant(np.tile(np.arange(top), [n, 1]) if skewed else order, tf.int32)
    x, weights = (tf.constant(rng.standard_normal(shape), tf.float32) for shape in ([n, 3], [n, top]))
    exact = both(LocalExchange(), x, weights, chosen, experts)
    most = exact[3].max()
    for capacity in {most, most + 3, n}:
        exchange = StaticExchange()
        with exchange.within(int(capacity)):
            found = both(exchange, x, weights, chosen, experts)
        for one, other in zip(found[:3], exact[:3], strict=True):
            np.testing.assert_array_equal(one, other)
        assert found[5] == 0
        begin = 0
        for rows, size in zip(found[4].reshape([experts, capacity, 3]), exact[3], strict=True):
            np.testing.assert_array_equal(rows[:size], exact[4][begin : begin + size])
            assert not rows[size:].any()
            begin += size
    for capacity in range(1, most):
        exchange = StaticExchange()
        with exchange.within(capacity):
            assert both(exchange, x, weights, chosen, experts)[5] == np.maximum(exact[3] - capacity, 0).sum()


@pytest.mark.parametrize("policy", ["bfloat16", "fp8_block"])
def test_padding_changes_no_scale_and_no_gradient(policy: Any) -> None:
    """Tiles of 128 rows reach into the padding; zeros leave their largest magnitude as it is."""
    data = {name: value for name, value in batch(1).items() if name != "component"}
    model = Model(SMALL, seed=4, linear=linear_for(policy), exchange=StaticExchange())

    def gradients() -> Any:
        with tf.GradientTape() as tape:
            losses = model.loss(**data, balance_weight=0.1)
        return losses.total, *map(tf.convert_to_tensor, tape.gradient(losses.total, model.variables_in_order))

    exact = gradients()
    with model.exchange.within(data["tokens"].shape[0] * LEAST):
        padded = gradients()
    for found, expected in zip(padded, exact, strict=True):
        assert relative(found, expected) < 1e-5


def make(exchange: Any = None, config: ModelConfig = SMALL) -> TrainStep:
    model = Model(config, seed=3, exchange=exchange)
    return TrainStep(model, optimizer_of(model, OptimizerConfig()), MICROBATCH, components=3)


def agree(found: TrainStep, exact: TrainStep, steps: int) -> None:
    """Steps of both give the same numbers, and leave the same state, to rounding."""
    for number in range(steps):
        one, other = (step(batch(number), 1e-3, 1e-3, 0.3) for step in (found, exact))
        assert bool(one.applied)
        assert bool(other.applied)
        assert int(one.losses.left_out) == 0
        np.testing.assert_allclose(one.losses.total, other.losses.total, rtol=1e-5)
        np.testing.assert_allclose(one.norm, other.norm, rtol=1e-4)
        np.testing.assert_array_equal(one.losses.expert_counts, other.losses.expert_counts)
    for one, other in zip(found.model.variables_in_order, exact.model.variables_in_order, strict=True):
        assert relative(one, other) < 1e-3
    for one, other in zip(found.model.router_biases, exact.model.router_biases, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


@pytest.fixture(scope="module")
def compiled() -> TrainStep:
    return make(StaticExchange())


@pytest.fixture(scope="module")
def dropless() -> TrainStep:
    return make()


def arguments(number: int = 0) -> list[Any]:
    return [batch(number), *(tf.constant(value) for value in (1e-3, 1e-3, 0.3, np.inf, np.inf))]


def test_compiled_steps_are_those_without_static_shapes(compiled: TrainStep, dropless: TrainStep) -> None:
    agree(compiled, dropless, 5)
    assert compiled._step.experimental_get_tracing_count() == 1  # nothing overflowed


def test_overflow_commits_nothing_and_the_next_capacity_does(compiled: TrainStep, dropless: TrainStep) -> None:
    """A bias sends every token to the same two experts; the last capacity holds them all."""
    fresh = make()
    fresh.model.router_biases[0].assign([0.0, 0.0, 100.0, 100.0, 0.0, 0.0, 0.0, 0.0])
    for step in (compiled, dropless):
        for mine, theirs in zip(_variables(step), _variables(fresh), strict=True):
            mine.assign(theirs)
    before = state(compiled)
    output = compiled._step(*arguments(), capacity=LEAST)
    assert int(output.losses.left_out) == 2 * 2 * (ALL - LEAST)  # microbatches, experts
    assert not bool(output.applied)
    assert state(compiled) == before
    agree(compiled, dropless, 3)
    assert compiled._step.experimental_get_tracing_count() == 2


def _variables(step: TrainStep) -> list[Any]:
    return [*step.model.variables_in_order, *step.model.router_biases, *step.optimizer.state.values()]


def test_the_compiled_step_asks_nothing_of_its_host(compiled: TrainStep) -> None:
    """Neither in the graph, nor in the program XLA is given: no call out of it, nothing sent or fed."""
    graph = compiled._step.get_concrete_function(*arguments(), capacity=LEAST).graph.as_graph_def()
    functions = [node.op for function in graph.library.function for node in function.node_def]
    operations = {*functions, *(node.op for node in graph.node)}
    assert "MatMul" in operations
    assert not {each for each in operations if re.search("PyFunc|Host|Send|Recv|Print|Infeed|Outfeed|Dataset", each)}
    hlo = compiled._step.experimental_get_compiler_ir(*arguments(), capacity=LEAST)(stage="hlo")
    found = set(re.findall(r"^ *(?:ROOT )?%\S+ = .*? ([a-z][a-z-]*)\(", hlo, re.MULTILINE))
    assert {"dot", "while", "conditional", "sort"} <= found
    assert not found & {"infeed", "outfeed", "send", "recv", "send-done", "recv-done"}
    targets = set(re.findall(r'custom_call_target="([^"]*)"', hlo))
    assert targets <= {"TopK"}, "TopK is XLA's own; each compiler replaces it"
    # Every shape is a number: a bound on a size that is known later only would be written <=.
    assert "<=" not in hlo


@pytest.mark.slow
def test_a_model_of_all_kinds_of_layers_compiles() -> None:
    """A dense layer, one with experts, an MTP module; recomputing is the model's own affair."""
    agree(make(StaticExchange(), CONFIG), make(None, CONFIG), 3)


@pytest.mark.slow
def test_a_run_may_change_from_static_shapes_to_dynamic_ones(small_run: Path, tmp_path: Path) -> None:
    """Two steps with static shapes, two with dynamic ones from its checkpoint: the losses of a run without."""
    model = {**MODEL, "num_hidden_layers": 1, "first_k_dense_replace": 0}
    losses: dict[str, list[float]] = {}
    for name, parts in {"plain": [("dynamic", 4)], "changed": [("static", 2), ("dynamic", 4)]}.items():
        for shapes, steps in parts:
            given = content(small_run / "shards/64", tmp_path / name, model=model, shapes=shapes, stop={"steps": steps})
            trainer = run(RunConfig.model_validate(given))
            assert isinstance(trainer.model.exchange, StaticExchange) == (shapes == "static")
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in lines if line["kind"] in ("step", "validation")]
    assert len(losses["plain"]) == 4 + 2  # validated before the first step and after the fourth
    assert len(losses["changed"]) == 4 + 3
    np.testing.assert_allclose(losses["changed"][:3], losses["plain"][:3], rtol=1e-4)
    np.testing.assert_allclose(losses["changed"][-3:], losses["plain"][-3:], rtol=1e-4)


def test_several_processes_are_refused() -> None:
    config = content(Path("view"), Path("out"), shapes="static")
    assert RunConfig.model_validate(config).shapes == "static"
    with pytest.raises(ValidationError, match="one process"):
        RunConfig.model_validate({**config, "mesh": {"data": 2}})
