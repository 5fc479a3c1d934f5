"""A TensorFlow trainer for DeepSeek-V3-style mixture-of-experts: `trainer.run(config, callbacks)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

# Read when TensorFlow is loaded. By itself it uses oneDNN only on processors with AVX-512; with AVX2 alone a step takes
# half as long again without it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    from trainer.training.config import RunConfig
    from trainer.training.loop import Trainer
    from trainer.training.records import Callback


def run(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Train as `config` (`trainer.training.config.load_run_config`) says; see `trainer.training.loop.run`."""
    from trainer.training.loop import run as run_  # noqa: PLC0415  (TensorFlow takes seconds to load)

    return run_(config, callbacks)
