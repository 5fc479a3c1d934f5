"""What a training config refuses, and what it takes from the view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from loader import Shards
from schemas.errors import Refused
from tests.conftest import ROOT
from tests.trainer.training.configs import MODEL, content
from trainer.training.config import RunConfig, load_run_config, model_config


def written(tmp_path: Path, view: Path, **changes: Any) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(content(view, tmp_path / "out", **changes)))
    return path


def ramp(**changes: Any) -> dict[str, Any]:
    size = {"kind": "ramp", "start": 8, "end": 16, "tokens": 1000, "multiple": 4} | changes
    return {"learning_rate": {"kind": "constant", "value": 0.1}, "batch_size": size}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"precison": "float32"},
            ["unknown key precison; did you mean 'precision'?", "allowed here: data, cache, output"],
        ),
        ({"precision": "float16"}, ["precision: ", "'float32'", "'bfloat16'"]),
        ({"model": {"hidden_size": 8}}, ["model: needs a preset"]),
        ({"model": {"preset": "tinny"}}, ["unknown model preset 'tinny'; did you mean 'tiny'?"]),
        ({"model": {**MODEL, "hiden_size": 8}}, ["model: unknown key hiden_size; did you mean 'hidden_size'?"]),
        ({"model": {**MODEL, "yarn": {"facto": 4.0}}}, ["model: ", "unknown key yarn.facto; did you mean 'factor'?"]),
        ({"stop": {}}, ["stop: give steps or tokens, one of the two"]),
        ({"stop": {"steps": 1, "tokens": 1}}, ["stop: give steps or tokens, one of the two"]),
        ({"stop": {"steps": 0}}, ["stop.steps: ", "greater than or equal to 1"]),
        ({"microbatch": 3}, ["microbatch (3) must divide every batch; 8 sequences are one"]),
        ({"mesh": {"data": 3}}, ["3 processes must divide every batch; 8 sequences are one"]),
        ({"mesh": {"data": 4}, "microbatch": 4}, ["microbatch (4)", "8 sequences are one, 2 of a process"]),
        ({"schedules": ramp(), "microbatch": 8}, ["microbatch (8) must divide every batch; 12 sequences are one"]),
        ({"schedules": ramp(multiple=3)}, ["schedules.batch_size: start (8) must be a multiple of multiple (3)"]),
        ({"schedules": ramp(ends=3)}, ["unknown key schedules.batch_size.ends; did you mean 'end'?", "multiple)"]),
        ({"schedules": ramp(kind="rampe")}, ["schedules.batch_size: ", "'constant', 'ramp'"]),
        ({"validation": {"every": True}}, ["validation.every: ", "valid integer"]),
        ({"optimizer": {"beta2": 0.999}}, ["optimizer: beta1 and beta2 must be at most", "float32"]),
    ],
)
def test_a_sentence_names_the_file_the_key_and_what_is_allowed(
    tmp_path: Path, changes: dict[str, Any], told: list[str]
) -> None:
    path = written(tmp_path, tmp_path, **changes)
    with pytest.raises(Refused) as caught:
        load_run_config(path)
    for part in told:
        assert part in str(caught.value)
    if "preset" not in told[0]:
        assert str(caught.value).startswith(f"{path}: ")


def test_the_example_configs_are_valid_and_read_back_as_they_were_written(tmp_path: Path) -> None:
    for path in sorted((ROOT / "configs").glob("train_*.yaml")):
        config = load_run_config(path)
        (tmp_path / "again.yaml").write_text(config.dump_yaml())
        assert load_run_config(tmp_path / "again.yaml") == config


def test_options_take_the_place_of_keys(tmp_path: Path) -> None:
    path = written(tmp_path, tmp_path)
    config = load_run_config(path, data="elsewhere", output=None)
    assert (config.data, config.output) == ("elsewhere", str(tmp_path / "out"))


def test_the_view_decides_vocabulary_and_special_ids(small_run: Path, tmp_path: Path) -> None:
    shards = Shards(small_run / "shards/64")
    found = model_config(load_run_config(written(tmp_path, small_run / "shards/64")), shards)
    info = shards.tokenizer
    assert (found.vocab_size, found.bos_token_id, found.eos_token_id) == (info.vocab_size, info.begin, info.end)


@pytest.mark.parametrize(
    ("model", "view", "told"),
    [
        ({"vocab_size": 799}, "64", ["model.vocab_size is 799", "tokens up to 799", "800 or more"]),
        ({"max_position_embeddings": 200}, "256", ["max_position_embeddings is 200", "sequences of 256"]),
    ],
)
def test_what_does_not_fit_the_view_is_refused(
    small_run: Path, tmp_path: Path, model: dict[str, int], view: str, told: list[str]
) -> None:
    path = small_run / "shards" / view
    config = RunConfig.model_validate_json(
        load_run_config(written(tmp_path, path, model=MODEL | model)).model_dump_json()
    )
    with pytest.raises(Refused) as caught:
        model_config(config, Shards(path))
    for part in told:
        assert part in str(caught.value)
