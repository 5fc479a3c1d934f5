"""A model written in Hugging Face's format: config.json, sharded safetensors, and their index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from schemas.errors import Refused
from trainer.hf.config import to_hf
from trainer.hf.fp8 import SCALES, is_projection, to_blocks
from trainer.hf.load import INDEX, SINGLE, tensors_of
from trainer.hf.names import BIAS, repeats
from trainer.model import Model

Stored = Literal["float32", "bfloat16", "fp8"]
_DTYPES: dict[Stored, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "fp8": ml_dtypes.bfloat16}


def save_pretrained(
    model: Model,
    folder: str | Path,
    dtype: Stored = "float32",
    shard_bytes: int = 5_000_000_000,
    values: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the model into `folder`, which must be empty or not there: weights as dtype, router biases as float32.

    dtype: fp8 is V3's own form (`trainer.hf.fp8`), with the values that the policy fp8_block multiplies by.

    shard_bytes: a file's tensors take at most this, a single larger tensor aside. values: what `Mesh.gathered` gave,
    where the model's experts are spread over processes. Raises Refused if the folder holds anything, or if values are
    needed and not given.
    """
    folder = Path(folder)
    experts = model.config.n_routed_experts
    if values is None and len(model.exchange.held(experts)) != experts:
        raise Refused("a model whose experts are spread over processes is exported with values=mesh.gathered(model)")
    if folder.exists() and any(folder.iterdir()):
        raise Refused(f"{folder}: is not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _planned(model, values, dtype, shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [_part(number, len(shards)) for number in range(1, len(shards) + 1)]
    stream = _all_tensors(model, values, dtype)
    for name, members in zip(names, shards, strict=True):
        save_file(dict(next(stream) for _ in members), folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(size for members in shards for _, size in members)},
        "weight_map": {tensor: name for name, members in zip(names, shards, strict=True) for tensor, _ in members},
    }
    _write_json(folder / INDEX, index)
    # Last: a folder with a config.json is whole.
    _write_json(folder / "config.json", to_hf(model.config, dtype))


def _part(number: int, of: int) -> str:
    return f"model-{number:05d}-of-{of:05d}.safetensors"


def _all_tensors(
    model: Model, values: Mapping[str, np.ndarray] | None, dtype: Stored
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the files, as they are stored; what MTP modules share stands once more at the end for each."""
    for name, value in tensors_of(model, values):
        if dtype == "fp8" and is_projection(name):
            yield from zip((name, f"{name}{SCALES}"), to_blocks(value), strict=True)
            continue
        yield name, np.ascontiguousarray(value if name.endswith(BIAS) else value.astype(_DTYPES[dtype]))
    shared = values or {"model.embed_tokens.weight": model.embedding.numpy(), "lm_head.weight": model.head.numpy()}
    for copy, original in repeats(model.config).items():
        yield copy, shared[original].astype(_DTYPES[dtype])


def _planned(
    model: Model, values: Mapping[str, np.ndarray] | None, dtype: Stored, shard_bytes: int
) -> list[list[tuple[str, int]]]:
    """Names and sizes of each file's tensors."""
    shards: list[list[tuple[str, int]]] = [[]]
    filled = 0
    for name, value in _all_tensors(model, values, dtype):
        if shards[-1] and filled + value.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, value.nbytes))
        filled += value.nbytes
    return shards


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
