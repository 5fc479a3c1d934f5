"""How evenly experts are used with the bias update of the router, and without it.

    python benchmarks/load_balance.py VIEW [--steps 500] [--seeds 3] [--batch 8] [--plot FILE.svg]

Trains preset `tiny` on a view, each seed once with gamma = 0.001 and once with gamma = 0, without the balance loss in
either, so that the bias alone is seen. Prints, for each MoE layer, the coefficient of variation (CV: standard deviation
by mean) of the tokens an expert receives: of the trained model over the 256 records that come next, and in a training
step, as the mean over the last 50. A single step has few tokens, and those of a document are alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

import numpy as np
import tensorflow as tf

from trainer.training.config import RunConfig
from trainer.training.loop import run
from trainer.training.records import Callback, StepRecord, utilisation
from trainer.training.trainer import Trainer

LAST, SAMPLE = 50, 256
GAMMAS = (1e-3, 0.0)


class Spread(Callback):
    """Collects each step's CV by layer."""

    def __init__(self) -> None:
        self.by_step: list[list[float]] = []

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        self.by_step.append([layer.cv for layer in record.experts])


def train(view: str, steps: int, batch: int, seed: int, gamma: float) -> tuple[list[list[float]], list[float]]:
    """CV of each layer in each step; and of the trained model over the next records."""
    spread = Spread()
    with tempfile.TemporaryDirectory() as output:
        config = {
            "data": view,
            "output": output,
            "model": {"preset": "tiny"},
            "seed": seed,
            "schedules": {
                "learning_rate": {"kind": "constant", "value": 1e-3},
                "batch_size": {"kind": "constant", "sequences": batch},
                "bias_speed": {"kind": "constant", "value": gamma},
            },
            "balance_weight": 0.0,
            "stop": {"steps": steps},
            "validation": {"every": steps},
            "log_every": 100,
        }
        trainer = run(RunConfig.model_validate(config), [spread])
    return spread.by_step, [layer.cv for layer in utilisation(counts_after(trainer, batch))]


def counts_after(trainer: Trainer, batch: int) -> np.ndarray:
    """Tokens by layer and expert over the SAMPLE records after those trained on, without training: [L, E]."""
    parts = ("tokens", "segment_ids", "positions", "loss_mask")
    count = tf.function(lambda part: trainer.model.loss(*(part[name] for name in parts)).expert_counts)
    data = trainer.shards.dataset(batch, start=trainer.progress.position).take(-(-SAMPLE // batch))
    total: np.ndarray = sum(count(part).numpy().astype(np.int64) for part in data)
    return total


def main() -> None:
    """Train, print, plot."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("view")
    options.add_argument("--steps", type=int, default=500)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--plot", type=Path)
    chosen = options.parse_args()
    found: dict[tuple[float, int], list[list[float]]] = {}
    for seed in range(chosen.seeds):
        for gamma in GAMMAS:
            found[gamma, seed], after = train(chosen.view, chosen.steps, chosen.batch, seed, gamma)
            row = [statistics.mean(values) for values in zip(*found[gamma, seed][-LAST:], strict=True)]
            shown = [" ".join(f"{cv:.3f}" for cv in layers) for layers in (after, row)]
            print(f"seed {seed}  gamma {gamma:g}  CV by layer: {shown[0]}, in a step: {shown[1]}", flush=True)
    if chosen.plot:
        draw(found, chosen.plot)


def draw(found: dict[tuple[float, int], list[list[float]]], path: Path) -> None:
    """CV over steps: a line a seed and layer."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for (gamma, seed), by_step in found.items():
        for layer, values in enumerate(zip(*by_step, strict=True)):
            label = f"gamma = {gamma:g}" if seed == layer == 0 else None
            axes.plot(values, color="#1f77b4" if gamma else "#d62728", linewidth=0.6, alpha=0.7, label=label)
    axes.axhline(0.2, color="black", linewidth=0.6, linestyle="--", label="0.2")
    axes.set(xlabel="step", ylabel="CV of tokens an expert", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
