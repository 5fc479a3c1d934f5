"""FP8 weights as DeepSeek-V3's own checkpoint has them: E4M3, and a float32 scale for each block of 128 x 128.

A projection's `weight` is float8_e4m3fn [O, I], its `weight_scale_inv` float32 [ceil(O / 128), ceil(I / 128)]; the
weight is value times scale. Embedding, head, norms, router and the join of MTP modules stay bfloat16.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from schemas.errors import Refused
from trainer.precision.quantise import BLOCK, SIDE, quantise

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
SCALES = "_scale_inv"
CONFIG: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [SIDE, SIDE],
}
"""`quantization_config` of a config.json."""
_PROJECTIONS = re.compile(
    r"\.(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|gate_proj|up_proj|down_proj)\.weight$"
)


def is_projection(name: str) -> bool:
    """Whether a tensor of a checkpoint is one that V3 keeps in FP8."""
    return _PROJECTIONS.search(name) is not None


def check_config(given: Any, origin: str) -> None:
    """Raise Refused unless a `quantization_config` is None or says what this module reads."""
    wanted = {key: value for key, value in CONFIG.items() if key != "activation_scheme"}
    if given and (not isinstance(given, dict) or any(given.get(key) != value for key, value in wanted.items())):
        raise Refused(f"{origin}: quantization_config is {given}; only {wanted} is read, convert others to bfloat16")


def to_blocks(w_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, E4M3 [O, I], and scales, as the policy fp8_block multiplies by them."""
    values, scales = quantise(w_OI, BLOCK)
    return values.numpy(), scales.numpy()


def from_blocks(values_OI: np.ndarray, scales_oi: np.ndarray, name: str) -> np.ndarray:
    """Float32 [O, I]. Raises Refused, naming the tensor, if the scales are of another shape or type."""
    blocks = tuple(-(-size // SIDE) for size in values_OI.shape)
    if scales_oi.shape != blocks or scales_oi.dtype != np.float32:
        raise Refused(
            f"{name}{SCALES} is {scales_oi.dtype} {list(scales_oi.shape)}; {name} of {list(values_OI.shape)} needs "
            f"float32 {list(blocks)}"
        )
    rows, columns = values_OI.shape
    scales_OI = scales_oi.repeat(SIDE, axis=0)[:rows].repeat(SIDE, axis=1)[:, :columns]
    return values_OI.astype(np.float32) * scales_OI


def read_e4m3(path: Path, name: str) -> np.ndarray:
    """An E4M3 tensor of a safetensors file that was opened, so that its header is sound.

    Read here because safetensors gives numpy no FP8 (0.8.0).
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(size))[name]
        begin, end = about["data_offsets"]
        file.seek(8 + size + begin)
        return np.frombuffer(file.read(end - begin), E4M3).reshape(about["shape"])
