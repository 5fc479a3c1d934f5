"""Which Hugging Face tensors each of our variables is made of, and where.

Ours differ in three ways: an expert's matrices stand in one variable for all experts, gate_proj above up_proj in one
gate_up_proj, and MTP modules share embedding and head, which a checkpoint repeats for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.config import ModelConfig

BIAS = "e_score_correction_bias"


@dataclass(frozen=True)
class Piece:
    """A tensor of a checkpoint: rows [start, stop) of our variable's, or of its matrix of `expert`; None: all rows."""

    name: str
    expert: int | None
    rows: tuple[int, int] | None


def pieces(variable: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    """The checkpoint's tensors that make up a variable of ours, in the order they stand in it."""
    stacked = re.fullmatch(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)", variable)
    if stacked:
        for expert in range(shape[0]):
            yield from _split(f"{stacked[1]}.{expert}.{stacked[2]}.weight", expert, shape[1])
    else:
        yield from _split(variable, None, shape[0])


def _split(name: str, expert: int | None, rows: int) -> Iterator[Piece]:
    if ".gate_up_proj." not in name:
        yield Piece(name, expert, None)
        return
    yield Piece(name.replace("gate_up_proj", "gate_proj"), expert, (0, rows // 2))
    yield Piece(name.replace("gate_up_proj", "up_proj"), expert, (rows // 2, rows))


def repeats(config: ModelConfig) -> dict[str, str]:
    """Tensors a checkpoint with MTP modules holds a second time, by the name of what they repeat."""
    first = config.num_hidden_layers
    return {
        f"model.layers.{index}.{copy}": original
        for index in range(first, first + config.num_nextn_predict_layers)
        for copy, original in (
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            ("shared_head.head.weight", "lm_head.weight"),
        )
    }
