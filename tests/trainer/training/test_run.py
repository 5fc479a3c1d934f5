"""A real run on a real view: what is trained, reported and left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import yaml

from loader import Shards
from pipelines.tokenizer import Tokenizer
from schemas.errors import Refused
from tests.conftest import ROOT
from tests.trainer.mesh.launch import finish, start
from tests.trainer.training.configs import content
from trainer.exchange import export_model, import_model
from trainer.generate import choose, generate
from trainer.hf import load_pretrained
from trainer.model import label_weights
from trainer.text import Text
from trainer.training.config import RunConfig
from trainer.training.loop import run
from trainer.training.records import Callback, StepRecord, ValidationRecord, utilisation
from trainer.training.sinks import scalars
from trainer.training.trainer import Trainer


class Told(Callback):
    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.validations: list[ValidationRecord] = []

    def on_step_end(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_validation(self, record: ValidationRecord) -> None:
        self.validations.append(record)


@pytest.fixture(scope="module")
def finished(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Told, Path]:
    """A run whose batches grow from 8 to 12 sequences after two steps, in microbatches of 4."""
    output = tmp_path_factory.mktemp("training") / "out"
    schedules = {
        "learning_rate": {"kind": "constant", "value": 0.003},
        "batch_size": {"kind": "ramp", "start": 8, "end": 12, "tokens": 1024, "multiple": 4},
    }
    told = Told()
    config = RunConfig.model_validate(
        content(small_run / "shards/64", output, schedules=schedules, microbatch=4, monitor={"every": 2}, ema=None)
    )
    return run(config, [told]), told, output


def test_positions_and_tokens_follow_the_batches(finished: tuple[Trainer, Told, Path]) -> None:
    _, told, _ = finished
    assert [record.step for record in told.steps] == [1, 2, 3, 4, 5, 6]
    assert [record.sequences for record in told.steps] == [8, 8, 12, 12, 12, 12]
    assert [record.position for record in told.steps] == np.cumsum([8, 8, 12, 12, 12, 12]).tolist()
    assert all(record.tokens == record.position * 64 for record in told.steps)


def test_the_loss_falls_and_components_add_up_to_it(finished: tuple[Trainer, Told, Path]) -> None:
    trainer, told, _ = finished
    assert told.steps[-1].loss < told.steps[0].loss
    first, *_, last = told.validations
    assert last.loss < first.loss
    # What the first step says, made again from the records themselves.
    batch = next(iter(trainer.shards.dataset(8, start=0)))
    weights_BT = label_weights(batch["segment_ids"], batch["loss_mask"], 0)[0].numpy()
    assert told.steps[0].labels == int(weights_BT.sum())
    shares = {
        name: weights_BT[batch["component"].numpy() == index].sum()
        for index, name in enumerate(trainer.shards.components)
    }
    mean = sum((told.steps[0].components[name] or 0) * share for name, share in shares.items()) / weights_BT.sum()
    assert mean == pytest.approx(told.steps[0].loss, rel=1e-5)


def test_validation_reads_the_held_out_records_of_each_component(finished: tuple[Trainer, Told, Path]) -> None:
    trainer, told, _ = finished
    assert [record.step for record in told.validations] == [0, 4, 6]
    last, shards = told.validations[-1], trainer.shards
    assert set(last.components) == set(shards.validation)
    name = shards.components[0]
    batches = -(-min(8, shards.validation[name]) // 4)
    summed = labels = 0.0
    for batch in shards.dataset(4, split="validation", component=name).take(batches):
        logits = trainer.model(batch["tokens"][:, :-1], batch["segment_ids"][:, :-1], batch["positions"][:, :-1]).logits
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["tokens"][:, 1:], logits).numpy()
        weights = label_weights(batch["segment_ids"], batch["loss_mask"], 0)[0].numpy()
        summed += float((each * weights).sum())
        labels += float(weights.sum())
    assert last.labels[name] == labels
    assert last.components[name] == pytest.approx(summed / labels, rel=1e-5)
    weights_of = dict(zip(shards.components, shards.order.weights, strict=True))
    met = last.components
    assert last.loss == pytest.approx(sum(met[c] * weights_of[c] for c in met) / sum(weights_of[c] for c in met))


def test_files_hold_what_was_reported(finished: tuple[Trainer, Told, Path]) -> None:
    _, told, output = finished
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if line["kind"] == "step"] == [record.loss for record in told.steps]
    assert [line["components"] for line in lines if line["kind"] == "validation"] == [
        dict(record.components) for record in told.validations
    ]
    assert Shards(told_data(output)).sequence_length == 64
    events = [
        value
        for path in (output / "tensorboard").iterdir()
        for data in tf.data.TFRecordDataset(str(path))
        for value in tf.compat.v1.Event.FromString(data.numpy()).summary.value
    ]
    losses = [tf.make_ndarray(value.tensor).item() for value in events if value.tag == "train/loss"]
    assert losses == pytest.approx([record.loss for record in told.steps])
    assert {value.metadata.plugin_data.plugin_name for value in events} == {"scalars"}


def told_data(output: Path) -> str:
    return str(yaml.safe_load((output / "config.yaml").read_text())["data"])


def test_the_model_left_behind_is_the_trained_one(finished: tuple[Trainer, Told, Path]) -> None:
    trainer, _, output = finished
    again = load_pretrained(output / "model")
    for one, other in zip(trainer.model.variables_in_order, again.variables_in_order, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one, other)


def test_exported_and_imported_weights_begin_another_run(
    finished: tuple[Trainer, Told, Path], small_run: Path, tmp_path: Path
) -> None:
    trainer, _, output = finished
    assert "MTP" in export_model(str(output), str(tmp_path / "hf"), "float32", 100_000)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    assert (tmp_path / "hf/tokenizer.model").read_bytes() == (output / "model/tokenizer.model").read_bytes()
    import_model(str(tmp_path / "hf"), str(tmp_path / "taken"))
    with pytest.raises(Refused, match="is not empty"):
        import_model(str(tmp_path / "hf"), str(tmp_path / "taken"))
    config = RunConfig.model_validate(content(small_run / "shards/64", tmp_path, initial=str(tmp_path / "taken")))
    again = Trainer(config, trainer.shards, trainer.model.config)
    for one, other in zip(trainer.model.variables_in_order, again.model.variables_in_order, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(Refused, match="holds no average of the weights"):
        export_model(str(output), str(tmp_path / "averaged"), "float32", 100_000, ema=True)
    with pytest.raises(Refused, match="has vocab_size 800, the config's model has 900"):
        Trainer(config, trainer.shards, trainer.model.config.model_copy(update={"vocab_size": 900}))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"expert": 2}], ids=str)
def test_two_processes_report_what_one_does(
    finished: tuple[Trainer, Told, Path], small_run: Path, tmp_path: Path, mesh: dict[str, int]
) -> None:
    trainer, told, output = finished
    path = tmp_path / "train.yaml"
    given = yaml.safe_load((output / "config.yaml").read_text())
    path.write_text(yaml.safe_dump(given | {"output": str(tmp_path / "out"), "mesh": mesh, "microbatch": 2}))
    finish(start("trainer", 2, "run", str(path)))
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["position"] for line in steps] == [record.position for record in told.steps]
    assert [line["labels"] for line in steps] == [record.labels for record in told.steps]
    assert steps[0]["loss"] == pytest.approx(told.steps[0].loss, rel=1e-6)
    np.testing.assert_allclose([line["loss"] for line in steps], [record.loss for record in told.steps], rtol=1e-4)
    validations = [line["loss"] for line in lines if line["kind"] == "validation"]
    np.testing.assert_allclose(validations, [record.loss for record in told.validations], rtol=1e-4)
    first = next(line for line in lines if line["kind"] == "validation")
    assert first["labels"] == dict(told.validations[0].labels)
    before = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for norm in ("parameter_norm", "update_norm"):
        one, two = ([line[norm] for line in every if line["kind"] == "performance"] for every in (before, lines))
        assert len(one) == 3
        np.testing.assert_allclose(two, one, rtol=1e-3)
    again = load_pretrained(tmp_path / "out/model")
    for one, other in zip(trainer.model.variables_in_order, again.variables_in_order, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_prompts_are_encoded_as_documents_were(finished: tuple[Trainer, Told, Path], small_run: Path) -> None:
    text = Text.load(finished[2] / "model")
    codec = Tokenizer.load(small_run / "tokenizer/tokenizer.model")
    for sample in (
        "def main():\n\treturn 1",
        " two  spaces ",
        "\u2581 and \u2581\u2581",
        "</s><pad>",
        "日本 é \x00",
        "",
    ):
        assert text.encode(sample) == codec.encode(sample).tolist()
        assert text.decode(text.encode(sample)) == sample


def test_generation_follows_the_model(finished: tuple[Trainer, Told, Path]) -> None:
    trainer, _, output = finished
    text = Text.load(output / "model")
    made = list(generate(trainer.model, text, "def ", 5, temperature=0))
    ids = [text.info.begin, *text.encode("def ")]
    for token in made:
        logits = trainer.model(tf.constant([ids], tf.int32)).logits[0, -1].numpy()
        assert token == int(np.argmax(logits))
        ids.append(token)
    assert list(generate(trainer.model, text, "def ", 5, 1.0, seed=3)) == list(
        generate(trainer.model, text, "def ", 5, 1.0, seed=3)
    )
    with pytest.raises(Refused, match="the model has 256"):
        next(generate(trainer.model, text, "def ", 300))


def test_choices_have_the_softmax_probabilities() -> None:
    random, logits = np.random.default_rng(0), np.array([0.0, 1.0, 3.0])
    counts = np.bincount([choose(logits, 2.0, random) for _ in range(4000)], minlength=3) / 4000
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    np.testing.assert_allclose(counts, expected, atol=0.03)
    assert choose(logits, 0, random) == 2


def test_utilisation_of_a_known_load() -> None:
    even, one = utilisation(np.array([[5, 5, 5, 5], [8, 0, 0, 0]]))
    assert (even.cv, even.least, even.most, even.dead) == (0, 1, 1, 0)
    assert (one.cv, one.least, one.most, one.dead) == (pytest.approx(3**0.5), 0, 4, 3)


def test_scalars_are_named_by_their_place() -> None:
    found = dict(scalars("a", {"step": 3, "x": 1, "kind": "step", "y": [{"z": True}, {"z": 2.5}], "n": None}))
    assert found == {"a/x": 1.0, "a/y/0/z": 1.0, "a/y/1/z": 2.5}


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_commands_print_what_was_made_and_refuse_with_a_sentence(
    finished: tuple[Trainer, Told, Path], tmp_path: Path
) -> None:
    output = finished[2]
    made = command("generate", output, "--prompt", "import ", "--tokens", 4, "--temperature", 0)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("import ")
    refused = command("generate", tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (f"error: {tmp_path}: there is no config.json; is it a folder in Hugging Face's format?\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text("stop: {steps: 1}\n")
    assert command("run", bad).returncode == 2
    assert not any(path.name != "bad.yaml" for path in tmp_path.iterdir())
