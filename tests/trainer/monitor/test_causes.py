"""Alerts whose causes are brought about in a real training. Windows are shortened; test_clean.py has the defaults."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.trainer.monitor.conftest import SECRET, Server
from tests.trainer.monitor.driven import Driven, slowed, trainer_on
from trainer.checkpoint import arrays
from trainer.monitor.config import AlertsConfig, MonitorConfig
from trainer.monitor.performance import PerformanceRecord
from trainer.training.saving import Checkpoints
from trainer.training.trainer import Trainer

SHORT = AlertsConfig(recent=1.0, no_step=2.0, interval=0.1)


@pytest.fixture(scope="module")
def trainer(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    made = trainer_on(small_run / "shards/64", tmp_path_factory.mktemp("causes") / "run")
    made.step()
    return made


@pytest.fixture
def healthy(trainer: Trainer) -> Iterator[Trainer]:
    """The trainer, its weights afterwards as they were before."""
    before = [variable.numpy() for variable in trainer.model.variables_in_order]
    yield trainer
    for variable, value in zip(trainer.model.variables_in_order, before, strict=True):
        variable.assign(value)


def head(trainer: Trainer) -> Any:
    return next(v for v in trainer.model.variables_in_order if "head" in v.name)


def test_an_injected_spike_reaches_terminal_file_and_webhook(
    healthy: Trainer, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", server.url)
    config = MonitorConfig(alerts=AlertsConfig(webhook="HOOK"))
    driven = Driven(healthy, config, tmp_path)
    with driven.monitor:
        driven.steps(12)
        assert driven.alerts == []
        head(healthy).assign(head(healthy) * 100)
        driven.step()
        driven.until("LOSS_SPIKE")
    assert [body["kind"] for _, _, body in server.got] == ["LOSS_SPIKE"]
    assert server.got[0][2]["text"] == driven.alerts[0]["text"]
    assert driven.said == [f"ALERT {driven.alerts[0]['text']}"]
    assert driven.alerts[0]["value"] > 2
    # The secret stands in no file and was not said.
    assert SECRET not in config.model_dump_json() + json.dumps(driven.monitor.state()) + "".join(driven.said)
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_weights_that_are_not_finite(healthy: Trainer, tmp_path: Path) -> None:
    driven = Driven(healthy, MonitorConfig(every=1), tmp_path)
    with driven.monitor:
        driven.step()
        before = head(healthy).numpy()
        head(healthy).assign(np.full_like(before, np.nan))
        assert not driven.step().applied
        driven.until("NON_FINITE")
        head(healthy).assign(before)
        driven.steps(3)
    assert driven.states("NON_FINITE") == ["firing", "ended"]  # the end was held back until the close
    json.dumps(driven.monitor.state(), allow_nan=False)


def test_a_slowed_input_and_its_recovery(healthy: Trainer, tmp_path: Path) -> None:
    driven = Driven(healthy, MonitorConfig(alerts=SHORT), tmp_path)
    with driven.monitor:
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:
            driven.step()
        assert driven.alerts == []
        fast = healthy._input._batches
        healthy._input._batches = slowed(fast, 0.15, 10**9)
        driven.until("INPUT_STALL", "THROUGHPUT_DROP", meanwhile=driven.step)
        healthy._input._batches = fast
        driven.until("INPUT_STALL", "THROUGHPUT_DROP", state="ended", meanwhile=driven.step)
    last = [record for record in driven.records if isinstance(record, PerformanceRecord)]
    assert max(record.split["input"] for record in last) > 0.5


def test_no_step(healthy: Trainer, tmp_path: Path) -> None:
    driven = Driven(healthy, MonitorConfig(alerts=SHORT), tmp_path)
    with driven.monitor:
        driven.steps(5)
        assert 1.0 < driven.until("NO_STEP") < 20
        driven.step()
        driven.until("NO_STEP", state="ended")


def test_memory_that_is_taken(healthy: Trainer, tmp_path: Path) -> None:
    memory = psutil.virtual_memory()
    threshold = 1 - memory.available / memory.total + 0.02
    driven = Driven(healthy, MonitorConfig(alerts=AlertsConfig(high_memory=threshold)), tmp_path)
    with driven.monitor:
        driven.step()
        time.sleep(1.5)
        assert driven.alerts == []
        taken = np.ones(int(0.04 * memory.total), np.uint8)
        driven.until("HIGH_MEMORY")
        assert taken[-1] == 1
    assert driven.alerts[0]["value"] > threshold


def test_a_checkpoint_that_cannot_be_written(healthy: Trainer, tmp_path: Path) -> None:
    driven = Driven(healthy, MonitorConfig(alerts=SHORT), tmp_path / "out")
    folder = tmp_path / "checkpoints"
    with driven.monitor, Checkpoints(healthy, str(folder), [driven.monitor]) as checkpoints:
        for bad in (True, False):
            number = driven.step().step
            if bad:
                folder.mkdir(exist_ok=True)
                (folder / f"step-{number:08d}").write_text("in the way")
            checkpoints.save(None, None)

            def go_on() -> None:
                driven.step()
                checkpoints.report()

            driven.until("CHECKPOINT_FAILED", state="firing" if bad else "ended", meanwhile=go_on)
    assert "was not saved" in driven.alerts[0]["message"]


def test_a_checkpoint_on_a_disk_that_hangs(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = {"every": 2, "keep": 2}
    slow = trainer_on(small_run / "shards/64", tmp_path / "run", checkpoints=every)
    config = SHORT.model_copy(update={"checkpoint_late": 1.0, "no_step": 60.0})
    driven = Driven(slow, MonitorConfig(alerts=config), tmp_path / "out")
    write, answers = arrays.write, threading.Event()

    def hangs(*arguments: Any) -> Any:
        answers.wait(60)
        return write(*arguments)

    monkeypatch.setattr(arrays, "write", hangs)
    with driven.monitor, Checkpoints(slow, str(tmp_path / "checkpoints"), [driven.monitor]) as checkpoints:
        driven.steps(2)
        checkpoints.save(None, None)
        driven.until("CHECKPOINT_LATE")
        answers.set()

        def go_on() -> None:
            slow.step()  # the monitor is told of no further step, so that no other is due
            checkpoints.report()

        driven.until("CHECKPOINT_LATE", state="ended", meanwhile=go_on)
    assert {alert["kind"] for alert in driven.alerts} == {"CHECKPOINT_LATE"}


def test_a_machine_that_cannot_be_watched_does_not_end_the_run(healthy: Trainer, tmp_path: Path) -> None:
    driven = Driven(healthy, MonitorConfig(), tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    driven.monitor._system._process = psutil.Process(other.pid)
    other.kill()
    other.communicate()
    with driven.monitor:
        driven.steps(3)
        time.sleep(2.5)
        driven.steps(3)
    # A busy machine may bring about an alert in the meantime.
    warnings = [sentence for sentence in driven.said if not sentence.startswith("ALERT ")]
    assert len(warnings) == 1, driven.said
    assert warnings[0].startswith("WARNING: the monitor failed and may miss alerts: NoSuchProcess")


def test_a_rule_that_fails_does_not_end_the_run(healthy: Trainer, tmp_path: Path) -> None:
    driven = Driven(healthy, MonitorConfig(), tmp_path)
    state = driven.monitor.state()
    state["alerts"]["LOSS_SPIKE"]["losses"] = ["4.0"]
    driven.monitor.restore(state)
    with driven.monitor:
        driven.steps(3)
    [sentence] = driven.said
    assert sentence.startswith("WARNING: the monitor failed and may miss alerts: TypeError")
