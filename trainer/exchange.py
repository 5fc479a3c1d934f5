"""Models in and out: a folder in Hugging Face's format checked and taken over, a run's model written for others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from schemas.errors import Refused
from trainer.hf import load_pretrained, save_pretrained
from trainer.model import Model
from trainer.text import INFO, MODEL

MODEL_FOLDER = "model"


def model_folder(directory: str | Path) -> Path:
    """Where the model of a directory is: in a run's output folder, or the directory itself."""
    inside = Path(directory) / MODEL_FOLDER
    return inside if inside.is_dir() else Path(directory)


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


def export_model(directory: str, target: str, dtype: Literal["float32", "bfloat16"], shard_bytes: int) -> str:
    """Write the model of a run in Hugging Face's format, with its tokenizer; what was done. Raises as above."""
    _refuse_filled(target)
    source = model_folder(directory)
    model = load_pretrained(source)
    save_pretrained(model, target, dtype, shard_bytes)
    for name in (MODEL, INFO):
        if (source / name).exists():
            shutil.copyfile(source / name, Path(target) / name)
    return f"{source}: {_about(model)}; written to {target} as {dtype}"


def _refuse_filled(target: str) -> None:
    if Path(target).exists() and (not Path(target).is_dir() or any(Path(target).iterdir())):
        raise Refused(f"{target}: is not empty; choose another folder")


def _about(model: Model) -> str:
    weights = sum(int(np.prod(variable.shape)) for variable in model.variables_in_order)
    return f"{weights:,} weights in {model.config.num_hidden_layers} layers and {len(model.mtp)} MTP modules"
