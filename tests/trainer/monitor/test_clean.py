"""With the defaults: 500 steps of a healthy training raise nothing, and each cause is told within a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.trainer.monitor.driven import Driven, slowed, trainer_on
from trainer.held_out import HeldOut
from trainer.mesh import Mesh
from trainer.monitor.config import MonitorConfig
from trainer.monitor.performance import PerformanceRecord
from trainer.monitor.system import SystemRecord
from trainer.training.saving import Checkpoints
from trainer.training.validation import Validation

STEPS = 500

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clean(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    """After 500 steps of 32 sequences, validated and saved every 100, with the monitor still at work."""
    folder = tmp_path_factory.mktemp("clean")
    schedules = {
        "learning_rate": {"kind": "constant", "value": 0.001},
        "batch_size": {"kind": "constant", "sequences": 32},
    }
    saves = {"every": 100, "keep": 2}
    trainer = trainer_on(small_run / "shards/64", folder / "run", schedules=schedules, checkpoints=saves)
    driven = Driven(trainer, MonitorConfig(system=1.0, peak_flops=1e11), folder / "out")
    validation = Validation(trainer.model, HeldOut(trainer.shards, Mesh(), 8, 8, True, driven.monitor.alive))
    with driven.monitor, Checkpoints(trainer, str(folder / "checkpoints"), [driven.monitor]) as checkpoints:
        for number in range(1, STEPS + 1):
            driven.step()
            if number % 100 == 0:
                found = validation(number, trainer.progress.position, trainer.progress.tokens)
                assert found is not None
                driven.monitor.on_validation(found)
                checkpoints.save(number, found.loss)
            checkpoints.report()
        for outcome in checkpoints._saver.wait():
            assert outcome.error is None
        yield driven


def test_a_healthy_run_raises_nothing(clean: Driven) -> None:
    assert clean.trainer.progress.step >= STEPS
    assert (clean.alerts, clean.said) == ([], [])
    performance = [record for record in clean.records if isinstance(record, PerformanceRecord)]
    assert [record.step for record in performance] == list(range(10, STEPS + 1, 10))
    for record in performance:
        assert sum(record.split.values()) == pytest.approx(1.0)
        assert record.mfu is not None and 0 < record.mfu < 1
        assert 0 < record.update_norm < record.parameter_norm
        assert record.parameters == sum(v.shape.num_elements() for v in clean.trainer.model.variables_in_order)
    assert all(record.split["validation"] > 0 for record in performance if record.step % 100 == 10 and record.step > 10)
    assert 0.2 < performance[-1].productive < 1
    samples = [record for record in clean.records if isinstance(record, SystemRecord)]
    assert len(samples) > 5
    assert all(record.memory_own > 1e8 for record in samples)


def test_a_skewed_router(clean: Driven) -> None:
    bias = clean.trainer.model.router_biases[0]
    before = bias.numpy()
    bias.assign(before + np.array([9.0, 9.0] + [0.0] * (len(before) - 2), np.float32))  # two of eight get all tokens
    seconds = clean.until("EXPERT_IMBALANCE", "DEAD_EXPERT", meanwhile=clean.step)
    assert seconds < 60
    bias.assign(before)


def test_a_leak_and_a_slowed_input_and_then_no_step(clean: Driven) -> None:
    rate, stop, leaked = 3 * psutil.virtual_memory().available / 1800, threading.Event(), list[np.ndarray]()

    def leak() -> None:
        while not stop.wait(0.1):
            leaked.append(np.ones(int(rate / 10), np.uint8))

    fast, thread = clean.trainer._input._batches, threading.Thread(target=leak)
    usual = float(np.median([clean.step().step_seconds for _ in range(20)]))
    begun = time.monotonic()
    thread.start()
    try:
        clean.trainer._input._batches = slowed(fast, 4 * usual, 10**9)
        assert clean.until("INPUT_STALL", "THROUGHPUT_DROP", meanwhile=clean.step) < 60
        clean.trainer._input._batches = fast
        clean.until("MEMORY_RUNS_OUT", meanwhile=clean.step)
        assert time.monotonic() - begun < 60
    finally:
        stop.set()
        thread.join()
    assert clean.states("MEMORY_RUNS_OUT")[0] == "firing"
    assert 30 < clean.until("NO_STEP") < 60
