"""A run small enough to be traced and trained in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# One dense layer, one with experts, no MTP module.
MODEL = {
    "preset": "tiny",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "q_lora_rank": None,
    "num_nextn_predict_layers": 0,
}


def content(view: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A config as YAML would give it, for 6 steps of 8 sequences."""
    return {
        "data": str(view),
        "output": str(output),
        "model": MODEL,
        "schedules": {
            "learning_rate": {"kind": "constant", "value": 0.003},
            "batch_size": {"kind": "constant", "sequences": 8},
        },
        "stop": {"steps": 6},
        "validation": {"every": 4, "records": 8},
        "ema": {"decay": 0.9},
        "log_every": 3,
        **changes,
    }
