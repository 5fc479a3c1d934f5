"""Models in and out: a folder in Hugging Face's format checked and taken over, a run's model written for others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from schemas import yaml_config
from schemas.errors import Refused, TokenmillError
from trainer.checkpoint import Damaged, open_step
from trainer.checkpoint.config import CheckpointConfig
from trainer.checkpoint.load import steps
from trainer.hf import load_pretrained, save_pretrained
from trainer.hf.save import Stored
from trainer.model import Model
from trainer.text import INFO, MODEL
from trainer.training.state import model_of

MODEL_FOLDER, CONFIG = "model", "config.yaml"


class _Places(BaseModel):
    """What a run's config says of where its checkpoints are."""

    checkpoints: CheckpointConfig = CheckpointConfig()


def read_model(directory: str | Path, step: int | None = None, ema: bool = False) -> tuple[Model, Path, str]:
    """A model, the folder its tokenizer is in, and where it was read.

    directory: the output folder of a run, of which the trained model is taken, or its newest checkpoint where there is
        none; or the folder of a model. step: the checkpoint of this step instead. ema: the average of the weights, of
        that checkpoint or the newest.

    Raises:
        Refused: there is no model, no such checkpoint, or no average in it.
        TokenmillError: it is damaged.
    """
    directory = Path(directory)
    inside, config = directory / MODEL_FOLDER, directory / CONFIG
    if step is None and not ema and inside.is_dir():
        return load_pretrained(inside), inside, str(inside)
    places = yaml_config.load(_Places, config) if config.exists() else _Places()
    checkpoints = places.checkpoints.below(directory)
    saved = steps(checkpoints)
    if step is None and not saved:
        if ema:
            raise Refused(f"{directory}: has no checkpoint, and only there is the average of the weights")
        return load_pretrained(directory), directory, str(directory)
    chosen = saved[-1] if step is None else step
    if chosen not in saved:
        known = ", ".join(map(str, saved[-10:])) or "none"
        raise Refused(f"{directory}: has no checkpoint of step {chosen}; the newest are: {known}")
    try:
        checkpoint = open_step(checkpoints, chosen)
    except Damaged as error:
        raise TokenmillError(f"damaged: {error}; `checkpoints verify` tells which steps are good") from None
    return model_of(checkpoint, ema), directory, checkpoint.path


def import_model(source: str, target: str) -> str:
    """Read a model in Hugging Face's format, check every tensor, and write it as float32 for `initial`; what was done.

    Raises:
        Refused: it is no such model, a tensor is missing, unexpected or of another shape, or target is not empty.
        TokenmillError: a file is damaged.
    """
    _refuse_filled(target)
    model = load_pretrained(source)
    save_pretrained(model, target)
    return f"{source}: {_about(model)}; written to {target}, which a config names as `initial`"


def export_model(
    directory: str,
    target: str,
    dtype: Stored,
    shard_bytes: int,
    step: int | None = None,
    ema: bool = False,
) -> str:
    """Write a model that `read_model` finds in Hugging Face's format, with its tokenizer; what was done."""
    _refuse_filled(target)
    model, folder, origin = read_model(directory, step, ema)
    save_pretrained(model, target, dtype, shard_bytes)
    for name in (MODEL, INFO):
        if (folder / name).exists():
            shutil.copyfile(folder / name, Path(target) / name)
    what = f"the average of {_about(model)}" if ema else _about(model)
    return f"{origin}: {what}; written to {target} as {dtype}"


def _refuse_filled(target: str) -> None:
    if Path(target).exists() and (not Path(target).is_dir() or any(Path(target).iterdir())):
        raise Refused(f"{target}: is not empty; choose another folder")


def _about(model: Model) -> str:
    weights = sum(int(np.prod(variable.shape)) for variable in model.variables_in_order)
    return f"{weights:,} weights in {model.config.num_hidden_layers} layers and {len(model.mtp)} MTP modules"
