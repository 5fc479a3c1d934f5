"""A model from a folder in Hugging Face's format: config.json and safetensors, one file or sharded. No pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from schemas.errors import Refused, TokenmillError
from trainer.hf.config import from_hf
from trainer.hf.fp8 import SCALES, from_blocks, read_e4m3
from trainer.hf.names import BIAS, pieces, repeats
from trainer.model import Linear, Model

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_FLOATS = {np.dtype(kind) for kind in (np.float32, np.float16, np.float64, ml_dtypes.bfloat16)}


def load_pretrained(folder: str | Path, linear: Linear | None = None, recompute: bool = False) -> Model:
    """The model stored in `folder`, its weights as float32. linear, recompute: as in `Model`.

    MTP modules the checkpoint lacks, as transformers writes it, are left out of the model; part of one is an error.
    Raises Refused naming the tensor that is missing, unexpected or of another shape, and TokenmillError for a damaged
    file.
    """
    folder = Path(folder)
    config = from_hf(_json(folder / "config.json"), str(folder / "config.json"))
    with ExitStack() as files:
        found = _Tensors(folder, files)
        mtp = f"model.layers.{config.num_hidden_layers}."
        if config.num_nextn_predict_layers and not any(name.startswith(mtp) for name in found.names()):
            config = config.model_copy(update={"num_nextn_predict_layers": 0})
        model = Model(config, linear=linear, recompute=recompute)
        variables = [*model.variables_in_order, *model.router_biases]
        wanted = {
            piece.name: variable.name
            for variable in variables
            for piece in pieces(_plain(variable.name), tuple(variable.shape))
        }
        copies = repeats(config)
        scales = {f"{name}{SCALES}" for name in wanted if found.is_e4m3(name)}
        _refuse_differences(folder, wanted.keys() | scales, found.names() - copies.keys())
        for variable in variables:
            variable.assign(_value(found, _plain(variable.name), tuple(variable.shape)))
        for copy, original in copies.items():
            # Ours share them, as the paper's: a copy with values of its own is another model.
            if copy in found.names() and not np.array_equal(found.read(copy), found.read(original)):
                raise Refused(f"{folder}: {copy} differs from {original}, which MTP modules share")
    return model


def _plain(name: str) -> str:
    return name.removesuffix(":0")


def _value(found: _Tensors, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A variable's value, put together."""
    value = np.empty(shape, np.float32)
    for piece in pieces(name, shape):
        place = value if piece.expert is None else value[piece.expert]
        target = place if piece.rows is None else place[slice(*piece.rows)]
        tensor = found.read(piece.name)
        if tensor.shape != target.shape:
            raise Refused(
                f"{found.folder}: {piece.name} has shape {list(tensor.shape)}, but config.json makes it "
                f"{list(target.shape)}"
            )
        target[...] = tensor
    return value


def _refuse_differences(folder: Path, wanted: Any, there: Any) -> None:
    for kind, names in (("missing", wanted - there), ("unexpected", there - wanted)):
        if names:
            first = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise Refused(f"{folder}: {kind} tensor {first}{more}; is config.json that of these weights?")


class _Tensors:
    """The tensors of a checkpoint by name, read one at a time."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self.folder = folder
        index = folder / INDEX
        parts = sorted(set(_json(index).get("weight_map", {}).values())) if index.exists() else [SINGLE]
        self._file_of: dict[str, Any] = {}
        self._path_of: dict[str, Path] = {}
        for part in parts:
            # A name is joined to the folder: it must not lead out of it.
            if Path(part).name != part:
                raise Refused(f"{index}: names a file outside the folder: {part!r}")
            path = folder / part
            if not path.exists():
                raise Refused(f"{folder}: there is no {part}; weights must be safetensors")
            try:
                opened = files.enter_context(safe_open(path, framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise TokenmillError(f"{path}: no sound safetensors file ({error}); fetch it again") from None
            self._file_of |= dict.fromkeys(opened.keys(), opened)
            self._path_of |= dict.fromkeys(opened.keys(), path)

    def names(self) -> set[str]:
        return set(self._file_of)

    def is_e4m3(self, name: str) -> bool:
        return name in self._file_of and self._file_of[name].get_slice(name).get_dtype() == "F8_E4M3"

    def read(self, name: str) -> np.ndarray:
        """A tensor; one of FP8 as the float32 it means."""
        if self.is_e4m3(name):
            values = read_e4m3(self._path_of[name], name)
            return from_blocks(values, self.read(f"{name}{SCALES}"), f"{self.folder}: {name}")
        try:
            tensor: np.ndarray = self._file_of[name].get_tensor(name)
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise Refused(f"{self.folder}: {name} cannot be read ({error}); convert it to bfloat16 first") from None
        if tensor.dtype not in _FLOATS:
            raise Refused(f"{self.folder}: {name} is {tensor.dtype}; convert it to bfloat16 or float32 first")
        if name.endswith(BIAS) and tensor.dtype != np.float32:
            # Its steps of 0.001 vanish in bfloat16; a bias of 0.5 or more would stand still.
            raise Refused(f"{self.folder}: {name} is {tensor.dtype}, but must be float32")
        return tensor


def _json(path: Path) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path.parent}: there is no {path.name}; is it a folder in Hugging Face's format?") from None
    except ValueError as error:
        raise Refused(f"{path}: is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise Refused(f"{path}: holds no mapping")
    return value


def tensors_of(model: Model, values: Mapping[str, np.ndarray] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the model's checkpoint with its float32 value, in order; no copies of shared ones.

    values: of all variables by name, whole, where the model itself holds a part; None: the model's own.
    """
    for variable in [*model.variables_in_order, *model.router_biases]:
        name = _plain(variable.name)
        value = variable.numpy() if values is None else values[name]
        for piece in pieces(name, value.shape):
            place = value if piece.expert is None else value[piece.expert]
            yield piece.name, place if piece.rows is None else place[slice(*piece.rows)]
