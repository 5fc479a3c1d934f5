"""Peak memory of loss and gradients by sequence length: of one sequence, or of batches of a fixed number of tokens.

    python benchmarks/context_memory.py [--lengths 1024 … 32768] [--tokens N] [--preset tiny] [--recompute]

A process for each length (float32, one traced step and one more). Prints peaks, the line a + b T through them (least
squares), the largest distance from it, and what the scores of one layer alone would take if they existed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

import numpy as np

from trainer.presets import preset

MIB = 1 << 20


def measure(name: str, length: int, sequences: int, recompute: bool) -> None:
    """Make loss and gradients twice; print this process's peak in MiB."""
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415

    from trainer.determinism import keep_sums_in_order  # noqa: PLC0415
    from trainer.model import Model  # noqa: PLC0415

    keep_sums_in_order()
    config = preset(name).model_copy(update={"max_position_embeddings": length})
    model = Model(config, recompute=recompute)
    tokens = tf.constant(np.random.default_rng(0).integers(0, config.vocab_size, [sequences, length + 1]), tf.int32)
    ones, places = tf.ones_like(tokens), tf.range(length + 1)[None] + tf.zeros_like(tokens)

    @tf.function
    def norm() -> tf.Tensor:
        with tf.GradientTape() as tape:
            total = model.loss(tokens, ones, places, places > 0, mtp_weight=0.3, balance_weight=1e-4).total
        return tf.linalg.global_norm(tape.gradient(total, model.variables_in_order))

    for _ in range(2):
        assert np.isfinite(float(norm()))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure every length, then fit."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    options.add_argument("--tokens", type=int, help="of a batch, a multiple of each length (default: one sequence)")
    options.add_argument("--preset", default="tiny")
    options.add_argument("--recompute", action="store_true")
    options.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        sequences = chosen.tokens // chosen.measure if chosen.tokens else 1
        return measure(chosen.preset, chosen.measure, sequences, chosen.recompute)
    peaks = []
    for length in chosen.lengths:
        command = [sys.executable, __file__, "--preset", chosen.preset, "--measure", str(length)]
        command += ["--tokens", str(chosen.tokens)] if chosen.tokens else []
        made = subprocess.run(
            command + ["--recompute"] * chosen.recompute, stdout=subprocess.PIPE, text=True, check=True
        )
        peaks.append(float(made.stdout))
        print(f"{length:7} tokens  {peaks[-1]:7.0f} MiB", flush=True)
    slope, start = np.polyfit(chosen.lengths, peaks, 1)
    off = max(abs(start + slope * length - peak) for length, peak in zip(chosen.lengths, peaks, strict=True))
    scores = preset(chosen.preset).num_attention_heads * chosen.lengths[-1] ** 2 * 4 / MIB
    print(f"{start:.0f} MiB + {slope * 1024:.1f} KiB a token, off by at most {off:.0f} MiB")
    print(f"scores of one layer at {chosen.lengths[-1]} tokens would be {scores:,.0f} MiB")


if __name__ == "__main__":
    main()
