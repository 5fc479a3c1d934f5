"""A trace of the steps asked for, once, whatever the run goes on from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf
from pydantic import ValidationError
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from tests.trainer.monitor.records import step
from tests.trainer.training.configs import content
from trainer.monitor.config import MonitorConfig, ProfileConfig
from trainer.monitor.profiler import Profiler
from trainer.training.config import RunConfig
from trainer.training.loop import run
from trainer.training.records import RollbackRecord, StartRecord


def traces(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.xplane.pb"))


def steps(folder: Path, begin: int, made: Sequence[int], ended: bool = True) -> Profiler:
    """What a process that begins after step `begin` tells a profiler of steps 3 and 4."""
    profiler = Profiler(ProfileConfig(from_step=3, steps=2), folder)
    profiler.on_start(StartRecord(begin, None, (), (), {}))
    for number in made:
        tf.linalg.matmul(tf.ones([8, 8]), tf.ones([8, 8]))
        profiler.on_step_end(step(number))
    if ended:
        profiler.close()
    return profiler


@pytest.mark.parametrize(("begin", "made"), [(0, [1, 2, 3, 4, 5]), (2, [3, 4, 5]), (3, [4]), (0, [1, 2, 3])])
def test_one_trace_wherever_the_process_begins_or_ends(tmp_path: Path, begin: int, made: list[int]) -> None:
    steps(tmp_path, begin, made)
    (trace,) = traces(tmp_path)
    assert trace.relative_to(tmp_path).parts[:3] == ("steps-3-4", "plugins", "profile")
    steps(tmp_path, 0, [1, 2, 3, 4, 5])
    assert traces(tmp_path) == [trace]


@pytest.mark.parametrize(("begin", "made"), [(4, [5, 6]), (0, [1])])
def test_no_trace_where_the_steps_are_not_met(tmp_path: Path, begin: int, made: list[int]) -> None:
    steps(tmp_path, begin, made)
    assert traces(tmp_path) == []


def test_going_back_ends_the_trace(tmp_path: Path) -> None:
    profiler = steps(tmp_path, 0, [1, 2, 3], ended=False)
    assert traces(tmp_path) == []
    profiler.on_rollback(RollbackRecord(3, 24, 1, None, (), (), ()))
    (trace,) = traces(tmp_path)
    for number in (2, 3, 4, 5):
        profiler.on_step_end(step(number))
    profiler.close()
    assert traces(tmp_path) == [trace]


def test_a_run_traces_its_steps(small_run: Path, tmp_path: Path) -> None:
    """Two of them; the same run goes on and does not again."""
    given = content(
        small_run / "shards/64", tmp_path / "out", monitor={"profile": {"from_step": 2, "steps": 2}}, stop={"steps": 4}
    )
    run(RunConfig.model_validate(given))
    (trace,) = traces(tmp_path / "out" / "profile")
    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    names = {each.name for plane in space.planes for each in plane.event_metadata.values()}
    assert any("MatMul" in name for name in names)
    run(RunConfig.model_validate({**given, "stop": {"steps": 5}}))
    assert traces(tmp_path / "out" / "profile") == [trace]


def test_a_first_step_is_needed() -> None:
    assert MonitorConfig().profile is None
    with pytest.raises(ValidationError, match="from_step"):
        MonitorConfig.model_validate({"profile": {"steps": 2}})
