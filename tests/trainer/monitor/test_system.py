"""What is measured of the machine, of time, and of weights: against what was done to each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.trainer.monitor.records import step
from trainer.mesh import Mesh
from trainer.monitor.performance import Clock, Norms
from trainer.monitor.system import DeviceRecord, Devices, System, within
from trainer.optimizer import AdamW, OptimizerConfig
from trainer.training.sinks import scalars


def test_a_sample_sees_memory_that_was_taken_and_a_busy_processor() -> None:
    system = System()
    before = system.sample(3)
    taken = np.ones(300_000_000, np.uint8)
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        pass
    after = system.sample(4)
    assert after.memory_own - before.memory_own > 0.95 * taken.nbytes
    assert before.memory_available > 0
    assert after.memory_used + after.memory_available == after.memory_total <= psutil.virtual_memory().total
    assert 100 / (psutil.cpu_count() or 1) * 0.5 < after.cpu_percent <= 100
    assert after.used_shares == {"host memory": pytest.approx(after.memory_used / after.memory_total)}
    content = json.loads(json.dumps(after.as_json(), allow_nan=False))
    assert (content["kind"], content["step"], content["devices"]) == ("system", 4, [])
    assert dict(scalars("system", content))["system/memory_own"] == after.memory_own


def write_group(folder: Path, limit: str, current: int, inactive: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")
    return folder


def test_a_control_groups_limit_is_the_memory_there_is(tmp_path: Path) -> None:
    assert within(tmp_path / "none", 100, 60) == (100, 60)
    assert within(write_group(tmp_path, "max", 30, 10), 100, 60) == (100, 60)
    assert within(write_group(tmp_path, "200", 30, 10), 100, 60) == (100, 60)
    assert within(write_group(tmp_path, "50", 30, 10), 100, 60) == (50, 30)
    assert within(write_group(tmp_path, "50", 30, 10), 100, 20) == (50, 20)
    assert within(write_group(tmp_path, "50", 51, 0), 100, 20) == (50, 0)


class Library:
    """Answers as nvidia-ml-py's documentation says. No GPU was at hand: this shows the arithmetic, not the library."""

    NVML_TEMPERATURE_GPU = 0

    def __getattr__(self, name: str) -> Any:
        return {
            "nvmlDeviceGetCount": lambda: 3,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetHandleByUUID": lambda uuid: 2,
            "nvmlDeviceGetName": lambda handle: f"H{handle}",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=30 + handle, total=40),
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=75, memory=10),
            "nvmlDeviceGetTemperature": lambda handle, sensor: 60 + handle + sensor,
        }[name]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["H0", "H1", "H2"]),
        ("1", ["H1"]),
        ("2, 0", ["H2", "H0"]),
        ("GPU-8f3", ["H2"]),
        ("0,9,1", ["H0"]),
        ("", []),
    ],
)
def test_devices_are_those_this_process_may_use(visible: str | None, names: list[str]) -> None:
    found = Devices(Library(), visible).sample()
    assert [device.name for device in found] == names
    assert [device.index for device in found] == list(range(len(names)))
    for device in found:
        handle = int(device.name[1:])
        assert device == DeviceRecord(device.index, f"H{handle}", 0.75, 60.0 + handle, 30 + handle, 40, None)
        assert device.used_share == (30 + handle) / 40
    assert DeviceRecord(0, "H", 0.5, 60.0, 39, 40, 10).used_share == 0.25  # what tensors use, not what was reserved


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_norms_are_those_of_weights_and_of_their_change(moments: Any) -> None:
    random = np.random.default_rng(0)
    shapes: list[list[int]] = [[40, 30], [50], [3, 8, 8]]
    weights = {f"w{i}": tf.Variable(random.normal(size=shape).astype(np.float32)) for i, shape in enumerate(shapes)}
    optimizer = AdamW(weights, OptimizerConfig(moments=moments))
    update, norms = tf.function(optimizer.update, autograph=False), Norms(optimizer, Mesh())
    assert norms(0.1)[1] == pytest.approx(  # before the first step: decay alone
        0.1 * 0.1 / 0.99 * np.sqrt(sum((w.numpy() ** 2).sum() for w in weights.values() if len(w.shape) > 1)), rel=1e-3
    )
    for number in range(6):
        before = [w.numpy().astype(np.float64) for w in weights.values()]
        gradients = [tf.constant(random.normal(size=w.shape).astype(np.float32)) for w in weights.values()]
        rate = 0.05 * (number + 1)
        update(gradients, tf.constant(rate, tf.float32))
        after = [w.numpy() for w in weights.values()]
        found = norms(rate)
        assert found[0] == pytest.approx(np.sqrt(sum((w.astype(np.float64) ** 2).sum() for w in after)), rel=1e-5)
        change = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
        assert found[1] == pytest.approx(change, rel=1e-4 if moments == "float32" else 5e-3)


def test_the_clock_splits_what_passed() -> None:
    clock = Clock()
    clock.lap()
    clock.step(step(1, input_seconds=0.01, step_seconds=0.05), 1000, traced=True)
    clock.step(step(2, input_seconds=0.01, step_seconds=0.03), 1000, traced=False)
    clock.step(step(3, input_seconds=0.01, step_seconds=0.03, applied=False), 1000, traced=False)
    clock.spent("checkpoint", 0.04)
    clock.spent("validation", 0.02)
    time.sleep(0.4)
    seconds, split, wall_rate, rate = clock.lap()
    assert seconds >= 0.4
    assert sum(split.values()) == pytest.approx(1.0)
    assert {name: share * seconds for name, share in split.items() if name != "other"} == pytest.approx(
        {"input": 0.03, "training": 0.11, "validation": 0.02, "checkpoint": 0.04}
    )
    assert wall_rate == pytest.approx(3000 / seconds)
    assert rate == pytest.approx(3000 / 0.14)
    assert clock.lap()[1]["other"] == pytest.approx(1.0)
    content = {"step": 3, "split": split}
    assert {name for name, _ in scalars("performance", content)} == {f"performance/split/{name}" for name in split}
    # Of 0.4 s and a little, the step that was neither traced nor left out.
    assert clock.productive <= 0.03 / 0.4
    assert clock.state()["productive_seconds"] == 0.03


def test_lost_steps_and_stops_count_as_time_but_not_as_productive() -> None:
    clock = Clock()
    clock.step(step(1, step_seconds=0.1), 1000, traced=False)
    state = json.loads(json.dumps(clock.state()))
    clock.step(step(2, step_seconds=0.1), 1000, traced=False)  # lost: a kill comes before the next save
    time.sleep(0.4)
    again = Clock()
    again.restore(state)
    assert again.productive == pytest.approx(0.1 / (time.time() - state["began"]), rel=0.05)
    again.step(step(2, step_seconds=0.1), 1000, traced=False)
    assert again.productive <= 0.2 / 0.4
