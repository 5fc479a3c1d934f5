"""A run that was stopped, killed, damaged or moved comes to the bits of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import yaml

from schemas.errors import Refused, TokenmillError
from schemas.lock import Lock
from tests.conftest import ROOT
from tests.trainer.training.configs import content
from trainer.checkpoint import open_step
from trainer.checkpoint.compare import compare
from trainer.checkpoint.load import steps
from trainer.exchange import export_model, read_model
from trainer.hf import load_pretrained
from trainer.training import environment
from trainer.training.config import RunConfig
from trainer.training.journal import cut
from trainer.training.loop import run
from trainer.training.records import Callback, CheckpointRecord, StartRecord, StepRecord

SAVES = {"every": 2, "keep": 3}


def config_of(view: Path, output: Path, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(content(view, output, **{"checkpoints": SAVES, **changes}))


def logged(output: Path) -> list[dict[str, Any]]:
    """What a run reported of steps and validations, times aside."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    times = {"input_seconds", "step_seconds", "seconds", "tokens_per_second"}
    return [
        {key: value for key, value in line.items() if key not in times}
        for line in lines
        if line["kind"] in ("step", "validation")
    ]


def told(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def same(one: Path, other: Path, step: int) -> None:
    """Both runs ended in the same state, and reported the same."""
    first, second = (open_step(str(output / "checkpoints"), step) for output in (one, other))
    assert list(compare(first, second)) == []
    ignored = {"config", "environment", "monitor"}  # whose clock goes on
    assert {k: v for k, v in first.meta.items() if k not in ignored} == {
        k: v for k, v in second.meta.items() if k not in ignored
    }
    assert first.meta["monitor"]["alerts"] == second.meta["monitor"]["alerts"]
    assert logged(one) == logged(other)


@pytest.fixture(scope="module")
def whole(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of 6 steps without a stop."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run(config_of(small_run / "shards/64", output))
    return output


class Stopping(Callback):
    """Asks for a stop after step 5, as a scheduler does."""

    def on_step_end(self, record: StepRecord) -> None:
        if record.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def stopped(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The config of a run that has made 5 steps, saved after 2, 4 and 5."""
    config = config_of(small_run / "shards/64", tmp_path_factory.mktemp("half") / "out")
    run(config, [Stopping()])
    return config


@pytest.fixture
def half(stopped: RunConfig, tmp_path: Path) -> RunConfig:
    """That of a copy of it."""
    shutil.copytree(stopped.output, tmp_path / "out")
    return stopped.model_copy(update={"output": str(tmp_path / "out")})


def test_it_goes_on_where_it_stood(whole: Path, half: RunConfig) -> None:
    output = Path(half.output)
    trainer = run(half)
    same(whole, output, 6)
    assert [line["step"] for line in told(output, "start")] == [0, 5]
    assert [line["step"] for line in told(output, "checkpoint")] == [2, 4, 5, 6]
    for one, other in zip(trainer.model.variables_in_order, read_model(whole)[0].variables_in_order, strict=True):
        np.testing.assert_array_equal(one, other)
    # Done is done: nothing is trained or written twice.
    before = (output / "checkpoints/step-00000006/COMMIT.json").read_bytes()
    assert run(half).progress.step == 6
    assert (output / "checkpoints/step-00000006/COMMIT.json").read_bytes() == before
    same(whole, output, 6)


def test_the_average_of_the_weights_is_exported(whole: Path, tmp_path: Path) -> None:
    """Saved after steps 2, 4 and 6; made over all of them."""
    said = export_model(str(whole), str(tmp_path / "averaged"), "float32", 1 << 30, ema=True)
    assert "the average of" in said
    averaged, last = load_pretrained(tmp_path / "averaged"), read_model(whole)[0]
    saved = open_step(str(whole / "checkpoints"), 6)
    for one, other in zip(averaged.variables_in_order, last.variables_in_order, strict=True):
        name = one.name.removesuffix(":0")
        np.testing.assert_array_equal(one, saved.read(f"ema/{name}"))
        assert not np.array_equal(one, other), name
        np.testing.assert_allclose(one, other, atol=0.02)  # six updates of at most 0.003 each
    for one, other in zip(averaged.router_biases, last.router_biases, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_checkpoint_is_put_aside_and_said(whole: Path, half: RunConfig) -> None:
    output = Path(half.output)
    data = next((output / "checkpoints/step-00000005").rglob("float32/c/0"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    run(half)
    same(whole, output, 6)
    start = told(output, "start")[-1]
    assert start["step"] == 4
    ((step, reason),) = start["quarantined"]
    assert step == 5
    assert "float32/c/0" in reason
    assert list((output / "checkpoints").glob("quarantined-step-00000005*"))


def test_tensorboard_forgets_steps_that_are_made_again(half: RunConfig) -> None:
    run(half)
    events = [
        tf.compat.v1.Event.FromString(data.numpy())
        for path in sorted((Path(half.output) / "tensorboard").iterdir())
        for data in tf.data.TFRecordDataset(str(path))
    ]
    starts = [event.step for event in events if event.session_log.status == tf.compat.v1.SessionLog.START]
    assert starts == [6]
    position = [event.session_log.status for event in events].index(tf.compat.v1.SessionLog.START)
    assert {event.step for event in events[position + 1 :] if event.summary.value} == {6}


def test_another_run_is_refused_and_nothing_is_lost(half: RunConfig, small_run: Path, tmp_path: Path) -> None:
    output = Path(half.output)
    before = (output / "metrics.jsonl").read_bytes()
    for key, value in {"balance_weight": 0.5, "seed": 9, "precision": "bfloat16"}.items():
        with pytest.raises(Refused, match=f"was trained with {key} "):
            run(half.model_copy(update={key: value}))
    with pytest.raises(Refused, match="fingerprint"):
        run(half.model_copy(update={"data": str(small_run / "shards/256"), "microbatch": 8}))
    lock = Lock(str(output), "another")
    lock.acquire()
    try:
        with pytest.raises(Refused, match="run another"):
            run(half)
    finally:
        lock.release()
    assert (output / "metrics.jsonl").read_bytes() == before
    assert steps(str(output / "checkpoints")) == [2, 4, 5]


def test_a_trained_model_without_checkpoints_is_not_overwritten(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "out/model").mkdir(parents=True)
    with pytest.raises(Refused, match="no checkpoint to go on from"):
        run(config_of(small_run / "shards/64", tmp_path / "out"))


class Spoiler(Callback):
    """Makes every save impossible after the first: a file stands where its folder would."""

    def __init__(self, output: Path) -> None:
        self.output, self.records = output, list[CheckpointRecord]()

    def on_step_end(self, record: StepRecord) -> None:
        if record.step == 3:
            (self.output / "checkpoints/step-00000004").write_text("in the way")

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        self.records.append(record)


def test_a_save_that_fails_is_told_and_training_goes_on(small_run: Path, tmp_path: Path) -> None:
    spoiler = Spoiler(tmp_path / "out")
    run(config_of(small_run / "shards/64", tmp_path / "out"), [spoiler])
    failed = {record.step: record.error for record in spoiler.records}
    assert failed[2] is None
    assert failed[4] is not None
    assert "step-00000004" in failed[4]
    assert failed[6] is None


class Last(Spoiler):
    def on_step_end(self, record: StepRecord) -> None:
        if record.step == 5:
            (self.output / "checkpoints/step-00000006").write_text("in the way")


def test_a_last_save_that_fails_is_an_error(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenmillError, match=r"the last checkpoint was not saved: .*step-00000006"):
        run(config_of(small_run / "shards/64", tmp_path / "out"), [Last(tmp_path / "out")])


class Started(Callback):
    def __init__(self) -> None:
        self.records: list[StartRecord] = []

    def on_start(self, record: StartRecord) -> None:
        self.records.append(record)


def test_another_environment_is_told(half: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    started = Started()
    run(half, [started])
    assert started.records[0].changed == ["xla_flags was , is --xla_cpu_enable_fast_math=false"]
    assert environment.differences({"a": "1"}, {"a": "1", "b": "2"}) == ["b was not recorded, is 2"]


def test_the_journal_is_cut_where_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kinds = [
        ("start", 0),
        ("validation", 0),
        ("step", 1),
        ("step", 2),
        ("validation", 2),
        ("checkpoint", 1),
        ("step", 3),
    ]
    lines = [json.dumps({"kind": kind, "step": step}) + "\n" for kind, step in kinds]
    path.write_text("".join(lines) + '{"kind": "st')
    assert cut(path, 2, 2) == 1
    assert path.read_text() == "".join(lines[:-1])
    assert cut(path, 2, 0) == 0
    assert path.read_text() == "".join([*lines[:4], lines[5]])
    assert cut(path, 0, None) == 2
    assert path.read_text() == lines[0]
    assert cut(tmp_path / "none", 3, None) == 0


# Across processes


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def begun(path: Path, output: Path, command: str = "run", *options: str) -> subprocess.Popen[str]:
    """A run in a process of its own, once it has made some steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", command, str(path), *options],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_steps(process, output, 1)
    return process


def wait_for_steps(process: subprocess.Popen[str], output: Path, more: int) -> None:
    def made() -> int:
        path = output / "metrics.jsonl"
        return path.read_bytes().count(b'"kind": "step"') if path.exists() else 0

    enough = made() + more
    end = time.monotonic() + 300
    while made() < enough:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_0(small_run: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out"
    given = content(small_run / "shards/64", output, stop={"steps": 100_000}, checkpoints={"every": 100_000})
    process = begun(write(tmp_path / "train.yaml", given), output)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    (saved,) = steps(str(output / "checkpoints"))
    assert f"stopped after step {saved}, which is saved" in said
    assert told(output, "step")[-1]["step"] == saved
    assert not (output / ".lock").exists()


def test_a_step_that_hangs_ends_the_process(small_run: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from trainer.training.config import load_run_config\n"
        "from trainer.training.loop import run\n"
        "from trainer.training.records import Callback\n"
        "class Hang(Callback):\n"
        "    def on_step_end(self, record):\n"
        "        if record.step == 3:\n"
        "            time.sleep(600)\n"
        "run(load_run_config(sys.argv[1]), [Hang()])\n"
    )
    path = write(tmp_path / "train.yaml", content(small_run / "shards/64", tmp_path / "out", step_timeout=15))
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert ended.returncode == 1
    assert "on_step_end" in ended.stderr
    assert time.monotonic() - begin < 120


@pytest.mark.slow
def test_kills_change_nothing(small_run: Path, tmp_path: Path) -> None:
    """TOKENMILL_KILLS=50 is the long form of it."""
    kills = int(os.environ.get("TOKENMILL_KILLS", "12"))
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    shape = {
        "stop": {"steps": 20 * kills},
        "checkpoints": {"every": 3, "keep": 3},
        "validation": {"every": 20, "records": 8},
    }
    given = content(small_run / "shards/64", tmp_path / "killed", **shape)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.trainer.training.killed",
            str(write(tmp_path / "a.yaml", given)),
            str(kills),
            str(seed),
        ],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        timeout=1200,
    )
    assert len(told(tmp_path / "killed", "start")) >= 0.7 * kills  # the others were killed before they began
    run(config_of(small_run / "shards/64", tmp_path / "whole", **shape))
    same(tmp_path / "whole", tmp_path / "killed", 20 * kills)


@pytest.mark.slow
def test_two_processes_one_killed_now_and_then(small_run: Path, tmp_path: Path) -> None:
    """Under `launch`: a lost worker restarts both. Begun by one process, so that the mesh changes on the way, too."""
    view = small_run / "shards/64"
    shape = {"mesh": {"data": 2, "timeout": 60}, "stop": {"steps": 100}, "checkpoints": {"every": 5}}
    for name in ("whole", "killed"):
        run(config_of(view, tmp_path / name, stop={"steps": 3}))
    for name, kills in (("whole", 0), ("killed", 2)):
        output = tmp_path / name
        path = write(tmp_path / f"{name}.yaml", content(view, output, **shape))
        process = begun(path, output, "launch", "--processes", "2")
        for number in range(kills):
            victim = workers(process.pid)[number % 2]
            wait_for_steps(process, output, 8)
            os.kill(victim, signal.SIGKILL)
            wait_for_steps(process, output, 2)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said.count("ended with signal SIGKILL") == kills
    same(tmp_path / "whole", tmp_path / "killed", 100)
    run(config_of(view, tmp_path / "alone", stop={"steps": 8}))
    for first, second in zip(told(tmp_path / "alone", "step"), told(tmp_path / "whole", "step")[:8], strict=True):
        assert first["position"] == second["position"]
        assert first["labels"] == second["labels"]
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)


def workers(launcher: int) -> list[int]:
    """Process ids of a launcher's workers, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children]
