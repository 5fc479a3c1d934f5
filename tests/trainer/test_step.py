"""The whole step on a real model: microbatches, what a refused step leaves, router biases, the same bits twice."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from trainer.accumulation import accumulate
from trainer.config import ModelConfig
from trainer.model import Model, count, label_weights, update_router_bias
from trainer.optimizer import OptimizerConfig
from trainer.presets import preset
from trainer.step import TrainStep, optimizer_of

ROWS, LENGTH = 4, 25
# One dense layer, one with experts, one MTP module: small, so that it is traced quickly.
CONFIG: ModelConfig = preset("tiny").model_copy(
    update={"num_hidden_layers": 2, "vocab_size": 64, "hidden_size": 32, "q_lora_rank": None}
)
PARTS = ("tokens", "segment_ids", "positions", "loss_mask")


def batch(seed: int = 0) -> dict[str, Any]:
    """Two documents a record, the second row nearly all padding, as the loader makes them."""
    rng = np.random.default_rng(seed)
    segments = np.ones([ROWS, LENGTH], np.int32)
    segments[:, 10:] = 2
    segments[1, 4:] = 0
    positions = np.tile(np.r_[0:10, 0 : LENGTH - 10].astype(np.int32), (ROWS, 1))
    positions[1, 4:] = 0
    return {
        "tokens": tf.constant(rng.integers(0, 64, [ROWS, LENGTH]), tf.int32),
        "segment_ids": tf.constant(segments),
        "positions": tf.constant(positions),
        "loss_mask": tf.constant((segments > 0) & (positions > 0)),
        "component": tf.constant([0, 2, 2, 0], tf.int32),
    }


def make(microbatch: int) -> TrainStep:
    model = Model(CONFIG, seed=3)
    return TrainStep(model, optimizer_of(model, OptimizerConfig()), microbatch, components=3)


def state(step: TrainStep) -> list[bytes]:
    variables = [*step.model.variables_in_order, *step.model.router_biases, *step.optimizer.state.values()]
    return [variable.numpy().tobytes() for variable in variables]


@pytest.fixture(scope="module")
def trained() -> TrainStep:
    """One traced step for all tests that only need some state to go on from."""
    return make(2)


def test_the_optimizer_has_the_models_names_and_no_router_bias(trained: TrainStep) -> None:
    names = list(trained.optimizer.parameters)
    assert names[0] == "model.embed_tokens.weight"
    assert len(names) == len(trained.model.variables_in_order) == len(set(names))
    assert not any("e_score_correction_bias" in name for name in names)


def test_the_loss_falls_and_its_parts_add_up(trained: TrainStep) -> None:
    found = [trained(batch(), 3e-3, 1e-3, 0.3) for _ in range(12)]
    assert all(bool(output.applied) for output in found)
    assert float(found[-1].losses.main) < 0.8 * float(found[0].losses.main)
    losses = found[-1].losses
    assert float(losses.total) == pytest.approx(
        float(losses.main) + 0.3 * float(losses.mtp) + 1e-4 * float(losses.balance), rel=1e-6
    )
    labels = int(tf.math.count_nonzero(batch()["loss_mask"]))
    assert int(losses.tokens) == labels == int(tf.reduce_sum(losses.component_tokens))
    assert losses.component_tokens.numpy()[1] == 0
    assert float(tf.reduce_sum(losses.component_losses)) / labels == pytest.approx(float(losses.main), rel=1e-5)


def test_router_biases_move_by_the_counts_of_the_whole_batch(trained: TrainStep) -> None:
    before = [tf.identity(bias) for bias in trained.model.router_biases]
    losses = trained(batch(1), 1e-3, 0.01, 0.3).losses
    real = int(tf.math.count_nonzero(batch()["segment_ids"][:, :-1]))
    assert int(tf.reduce_sum(losses.expert_counts[0])) == real * CONFIG.num_experts_per_tok
    for old, bias, counts in zip(before, trained.model.router_biases, losses.expert_counts, strict=True):
        np.testing.assert_array_equal(bias, update_router_bias(old, counts, 0.01))
        assert np.abs(bias - old).max() > 0.009


@pytest.mark.parametrize("limit", [{"max_loss": 0.01}, {"max_norm": 1e-6}, {"max_loss": float("nan")}], ids=str)
def test_above_a_limit_everything_stays(trained: TrainStep, limit: dict[str, float]) -> None:
    before = state(trained)
    output = trained(batch(2), 1e-3, 0.01, 0.3, **limit)
    assert not bool(output.applied)
    assert state(trained) == before
    assert np.isfinite(float(output.norm))


def test_a_loss_that_is_not_finite_changes_nothing(trained: TrainStep) -> None:
    norm = trained.model.norm
    good = norm.numpy()
    norm.assign(good * np.float32("nan"))
    before = state(trained)
    assert not bool(trained(batch(), 1e-3, 0.01, 0.3).applied)
    assert state(trained) == before
    norm.assign(good)
    assert bool(trained(batch(), 1e-3, 0.01, 0.3).applied)


def test_microbatches_have_the_gradients_of_the_batch() -> None:
    data, model = batch(), Model(CONFIG, seed=3)
    normalizers = count(data["segment_ids"], label_weights(data["segment_ids"], data["loss_mask"], len(model.mtp)))

    def loss_sums(part: dict[str, Any]) -> tuple[Any, Any]:
        # A large weight, so that the balance loss is seen in the gradients.
        found = model.loss(*(part[name] for name in PARTS), mtp_weight=0.3, balance_weight=0.1, normalizers=normalizers)
        counts = tf.ensure_shape(found.expert_counts, [len(model.router_biases), CONFIG.n_routed_experts])
        return found.total, (found.total, counts)

    with tf.GradientTape() as tape:
        whole = model.loss(*(data[name] for name in PARTS), mtp_weight=0.3, balance_weight=0.1)
    expected = tape.gradient(whole.total, model.variables_in_order)
    found = tf.function(lambda: accumulate(loss_sums, model.variables_in_order, data, 1))()
    np.testing.assert_allclose(found.sums[0], whole.total, rtol=1e-5)
    np.testing.assert_array_equal(found.sums[1], whole.expert_counts)
    for one, other in zip(expected, found.gradients, strict=True):
        dense = tf.convert_to_tensor(one)
        assert float(tf.norm(other - dense)) <= 1e-4 * float(tf.norm(dense)) + 1e-9


def test_twenty_steps_in_two_processes_give_the_same_bits() -> None:
    command = [sys.executable, "-m", "tests.trainer.test_step"]
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (run.communicate()[0].split() for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert len(first) == 2
    assert first == second
    assert first[0] != first[1]


def main() -> None:
    """Print a digest of parameters, biases and moments after 10 and 20 steps."""
    step = make(2)
    for number in range(20):
        step(batch(number), 1e-3, 1e-3, 0.3)
        if number in (9, 19):
            print(hashlib.sha256(b"".join(state(step))).hexdigest())


if __name__ == "__main__":
    main()
