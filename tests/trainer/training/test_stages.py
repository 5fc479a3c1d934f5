"""Stages: the same model goes on with longer sequences, is stopped and killed anywhere, and comes to the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from schemas.errors import Refused
from tests.conftest import ROOT
from tests.trainer.training.configs import MODEL, content
from tests.trainer.training.test_resume import same, told
from trainer.checkpoint import open_step
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.evaluate import evaluate_folder
from trainer.training.config import RunConfig
from trainer.training.loop import run
from trainer.training.records import Callback, StageRecord, StepRecord
from trainer.training.stages import stages_of
from trainer.training.trainer import Trainer

BASE, LONG = 4, 5


def config_of(run_folder: Path, output: Path, stage: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """Some steps with sequences of 64, and then some with 256."""
    long = {
        "name": "long",
        "data": str(run_folder / "shards/256"),
        "max_position_embeddings": 256,
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
        "schedules": {
            "learning_rate": {"kind": "constant", "value": 0.001},
            "batch_size": {"kind": "constant", "sequences": 4},
        },
        "stop": {"steps": LONG},
    }
    given: dict[str, Any] = {
        "model": {**MODEL, "max_position_embeddings": 64},
        "stop": {"steps": BASE},
        "checkpoints": {"every": 2},
        "stages": (long | (stage or {}),),
        **changes,
    }
    raw = content(run_folder / "shards/64", output, **given)
    return RunConfig.model_validate_json(json.dumps(raw), strict=True)


class Told(Callback):
    def __init__(self) -> None:
        self.stages: list[StageRecord] = []

    def on_stage_end(self, record: StageRecord) -> None:
        self.stages.append(record)


@pytest.fixture(scope="module")
def whole(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Told, Path]:
    output = tmp_path_factory.mktemp("stages") / "out"
    records = Told()
    return run(config_of(small_run, output), [records]), records, output


def test_a_stage_begins_with_the_state_of_the_one_before(whole: tuple[Trainer, Told, Path]) -> None:
    trainer, records, output = whole
    assert [(each.name, each.step, each.tokens, each.length) for each in records.stages] == [
        ("first", BASE, BASE * 8 * 64, 64),
        ("long", LONG, LONG * 4 * 256, 256),
    ]
    long = output / "stages/long"
    (start,) = told(long, "start")
    assert start["checkpoint"] == str(output / f"checkpoints/step-{BASE:08d}")
    # Steps, positions and tokens are the stage's own; AdamW's count, by which it corrects its moments, goes on.
    assert [line["position"] for line in told(long, "step")] == [4 * step for step in range(1, LONG + 1)]
    assert trainer.optimizer.step.numpy() == BASE + LONG
    # It is the trained model, not a new one: its loss on longer sequences is near the one it had.
    before, after = told(output, "validation")[-1]["loss"], told(long, "validation")[0]["loss"]
    assert after < told(output, "validation")[0]["loss"] - 0.5 * (told(output, "validation")[0]["loss"] - before)
    saved = json.loads((long / "model/config.json").read_text())
    assert saved["max_position_embeddings"] == 256
    assert "factor" in json.dumps(saved)
    assert [line["name"] for folder in (output, long) for line in told(folder, "stage")] == ["first", "long"]
    stored = yaml.safe_load((output / "config.yaml").read_text())
    assert stored["stages"][0]["name"] == "long"


def test_frequencies_are_stretched_from_the_original_ones(whole: tuple[Trainer, Told, Path]) -> None:
    trainer, _, _ = whole
    yarn = trainer.model.config.yarn
    assert yarn is not None
    assert (yarn.factor, yarn.original_max_position_embeddings) == (4.0, 64)


def test_without_a_checkpoint_of_its_own_it_begins_again_with_the_state_before(
    whole: tuple[Trainer, Told, Path],
) -> None:
    trainer, _, output = whole
    kept = [np.asarray(each.variable.read_value()).copy() for each in trainer.owned()]
    progress = trainer.progress
    trainer.begin_again()
    saved = open_step(str(output / "checkpoints"), BASE)
    for each in trainer.owned():
        np.testing.assert_array_equal(np.asarray(each.variable.read_value()), saved.read(each.name))
    assert trainer.progress.step == trainer.progress.position == 0
    for each, value in zip(trainer.owned(), kept, strict=True):
        each.variable.assign(value)
    trainer.progress = progress


class Crash(Callback):
    """Ends the process's work without a save: at the end of a stage, or after a step of the second."""

    def __init__(self, stage: str | None, step: int | None) -> None:
        self._stage, self._step = stage, step
        self._first = True

    def on_step_end(self, record: StepRecord) -> None:
        if self._step is not None and record.sequences == 4 and record.step == self._step:
            raise KeyboardInterrupt

    def on_stage_end(self, record: StageRecord) -> None:
        if record.name == self._stage:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("stage", "step"), [("first", None), (None, 1), (None, 3), ("long", None)], ids=str)
def test_killed_anywhere_it_comes_to_the_same_bits(
    whole: tuple[Trainer, Told, Path], small_run: Path, tmp_path: Path, stage: str | None, step: int | None
) -> None:
    _, _, output = whole
    config = config_of(small_run, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(config, [Crash(stage, step)])
    records = Told()
    run(config, [records])
    assert [each.name for each in records.stages] == (["first", "long"] if stage == "first" else ["long"])
    same(output / "stages/long", tmp_path / "out/stages/long", LONG)
    # The run proper is done and is not trained again.
    assert len(told(tmp_path / "out", "start")) == (2 if stage == "first" else 1)


def test_evaluated_before_and_after_at_all_lengths(
    whole: tuple[Trainer, Told, Path], small_run: Path, tmp_path: Path
) -> None:
    """As the command does afterwards; and it changes nothing of what is trained."""
    size = {"records": 8, "depths": 2, "samples": 1}
    config = config_of(small_run, tmp_path / "out", evaluation=size)
    with pytest.raises(KeyboardInterrupt):
        run(config, [Crash(None, 1)])
    long = tmp_path / "out/stages/long"
    first = (long / "evaluation_begin.json").read_bytes()
    assert not (long / "evaluation.json").exists()
    run(config)
    assert (long / "evaluation_begin.json").read_bytes() == first  # is not made again
    same(whole[2] / "stages/long", long, LONG)
    assert not (tmp_path / "out/evaluation_begin.json").exists()  # there is nothing to say of an untrained model
    as_the_command_does(long, small_run, tmp_path, size)
    # The same weights at the border, with positions stretched and without.
    begin, before = json.loads(first), evaluated(tmp_path / "out/evaluation.json")
    assert begin["yarn"]["factor"] == 4.0 and before["yarn"] is None
    assert begin["model"] == str(tmp_path / f"out/checkpoints/step-{BASE:08d}")
    assert begin["views"][1]["loss"] == pytest.approx(before["views"][1]["loss"], rel=0.05)
    assert begin["views"][1]["loss"] != before["views"][1]["loss"]
    assert (long / "evaluation.html").exists() and (long / "evaluation_begin.html").exists()


@pytest.mark.slow
def test_evaluated_by_two_processes(small_run: Path, tmp_path: Path) -> None:
    size = {"records": 6, "depths": 2, "samples": 2}  # neither fills the last batch of two processes
    output = tmp_path / "out"
    config = config_of(small_run, output, evaluation=size, mesh={"data": 2, "timeout": 60})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    command = [sys.executable, "-m", "trainer", "launch", str(path), "--processes", "2"]
    subprocess.run(command, cwd=ROOT, check=True)
    as_the_command_does(output / "stages/long", small_run, tmp_path, size)


def evaluated(path: Path) -> dict[str, Any]:
    """What an evaluation at both lengths wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    assert [view["sequence_length"] for view in content["views"]] == [64, 256]
    return content


def as_the_command_does(stage: Path, small_run: Path, tmp_path: Path, size: dict[str, int]) -> None:
    """Assert that a stage's evaluation at its end is what the command finds afterwards, in one process."""
    inside = evaluated(stage / "evaluation.json")
    views = [str(small_run / "shards" / length) for length in ("64", "256")]
    evaluate_folder(str(stage), views, str(tmp_path / "after"), EvaluationConfig(**size))
    after = evaluated(tmp_path / "after/evaluation.json")
    assert inside["step"] == LONG
    for one, other in zip(inside["views"], after["views"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["retrieval"] == other["retrieval"]


def test_views_of_two_runs_that_were_given_one_tokenizer(small_run: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((small_run / "config.yaml").read_text())
    content["tokenizer"] = {"model": str(small_run / "tokenizer/tokenizer.model")}
    content["shard"]["sequence_lengths"] = [256]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        str(tmp_path / "config.yaml"),
        "--output",
        str(tmp_path / "run"),
    ]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    data = str(tmp_path / "run/shards/256")
    first, second = stages_of(config_of(small_run, tmp_path / "out", {"data": data}))
    assert second.shards.folder == data
    assert first.shards.tokenizer.fingerprint != second.shards.tokenizer.fingerprint  # they say who made it, not what


def test_what_does_not_fit_is_refused_before_anything_is_trained(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"stages\.long\.max_position_embeddings is 128, but .*256 has sequences of 256"):
        run(config_of(small_run, tmp_path / "out", {"max_position_embeddings": 128}))
    with pytest.raises(Refused, match=r"stages\.long.*yarn is set, but max_position_embeddings"):
        stretched = {"factor": 4.0, "original_max_position_embeddings": 256}
        run(config_of(small_run, tmp_path / "out", {"yarn": stretched}))
    with pytest.raises(Refused, match=r"stages\.long.*microbatch \(3\)"):
        run(config_of(small_run, tmp_path / "out", {"microbatch": 3}))
    shutil.copytree(small_run / "shards/256", tmp_path / "other")
    manifest = json.loads((tmp_path / "other/manifest.json").read_text())
    manifest["tokenizer"]["fingerprint"] = "0" * 64
    (tmp_path / "other/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refused, match=r"stages\.long\.data: .* was cut with another tokenizer"):
        run(config_of(small_run, tmp_path / "out", {"data": str(tmp_path / "other")}))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="every stage needs a name of its own; these are long, long"):
        config = config_of(small_run, tmp_path / "out")
        RunConfig.model_validate_json(
            json.dumps(config.model_dump(mode="json") | {"stages": [config.stages[0].model_dump(mode="json")] * 2})
        )


def test_the_run_before_a_stage_that_has_begun_cannot_grow(
    whole: tuple[Trainer, Told, Path], small_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole[2], tmp_path / "out")
    with pytest.raises(Refused, match="stage long has begun, but stage first before it is not done"):
        run(config_of(small_run, tmp_path / "out", stop={"steps": BASE + 1}))
    # The stage itself may.
    longer = run(config_of(small_run, tmp_path / "out", {"stop": {"steps": LONG + 1}}))
    assert longer.progress.step == LONG + 1


def test_checkpoints_in_a_bucket_lie_beside_those_of_the_run(small_run: Path, tmp_path: Path) -> None:
    config = config_of(small_run, tmp_path / "out", checkpoints={"directory": "gs://bucket/run/"})
    assert [each.saves for each in stages_of(config)] == ["gs://bucket/run/", "gs://bucket/run-long"]
