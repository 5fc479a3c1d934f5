"""Whether FP8 trains as well as bfloat16: the held-out loss of one training by policy and seed.

    python benchmarks/fp8_loss.py VIEW --runs DIR [--seeds 3] [--threads 1] [--plot FILE.svg]

Trains preset `tiny` for 500 steps with fp8_block, bfloat16 and float32, each with the same first weights (by seed) and
the same batches in the same order. A run's figure is the mean of its last 50 evaluations, one every second step, on the
same held-out records. Each run leaves a JSON file in DIR; what is there is not run again, so the command can be stopped
and goes on. Prints every run's figure, and how far each policy is from the one it is compared with, seed by seed: a
difference means something only where it is larger than its spread over seeds.

The learning rate is low: with three times as much, the smallest difference of rounding grows until runs of bfloat16 and
float32 end as far apart as two seeds, and nothing can be told from their losses.

The bound is DeepSeek-V3's: the relative error of the loss stays below 0.25 % (arXiv 2412.19437, section 3.3).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

import tensorflow as tf

from loader import Shards
from trainer.config import Precision
from trainer.held_out import HeldOut
from trainer.training.config import RunConfig, model_config
from trainer.training.trainer import Trainer
from trainer.training.validation import Validation

POLICIES: tuple[Precision, ...] = ("fp8_block", "bfloat16", "float32")
BATCH, STEPS = 8, 500
# Records of each component in an evaluation; how many evaluations count; steps between those, and between earlier ones.
HELD_OUT, LAST, EVERY, EARLY = 16, 50, 2, 50
BOUND = 0.25  # per cent
COLOURS = {"fp8_block": "#d62728", "bfloat16": "#1f77b4", "float32": "#2ca02c"}


def settings(length: int, policy: Precision, seed: int) -> dict[str, Any]:
    """What a run trains with; the learning rate stays at its peak for half of it, then falls to a hundredth."""
    half = BATCH * length * STEPS // 2
    rate = {"peak": 1e-3, "end": 1e-5, "warmup_steps": 50, "stable_tokens": half, "decay_tokens": half}
    return {
        "model": {"preset": "tiny"},
        "seed": seed,
        "precision": policy,
        "schedules": {
            "learning_rate": {"kind": "wsd", **rate},
            "batch_size": {"kind": "constant", "sequences": BATCH},
        },
        "stop": {"steps": STEPS},
    }


def train(shards: Shards, policy: Precision, seed: int) -> dict[str, Any]:
    """One run: its losses in training, its evaluations as [step, loss], the seconds a step took."""
    chosen = settings(shards.sequence_length, policy, seed)
    config = RunConfig.model_validate({"data": shards.folder, "output": "nothing is written", **chosen})
    trainer = Trainer(config, shards, model_config(config, shards))
    held_out = Validation(trainer.model, HeldOut(shards, trainer.mesh, HELD_OUT, HELD_OUT, True, lambda: None))
    losses, evaluations, seconds = [], [], []
    for step in range(1, STEPS + 1):
        record = trainer.step()
        if not record.applied:
            raise SystemExit(f"{policy}, seed {seed}: step {step} was left out, its loss was {record.loss}")
        losses.append(record.loss)
        seconds.append(record.step_seconds)
        if step % (EVERY if step > STEPS - LAST * EVERY else EARLY) == 0:
            found = held_out(step, trainer.progress.position, trainer.progress.tokens)
            if found is None:
                raise SystemExit(f"{shards.folder}: holds out nothing")
            evaluations.append([step, found.loss])
        if step % 50 == 0:
            print(f"{policy}, seed {seed}: step {step}, held-out loss {evaluations[-1][1]:.4f}", flush=True)
    return {"losses": losses, "evaluations": evaluations, "seconds": statistics.median(seconds)}


def runs(shards: Shards, folder: Path, seeds: int) -> dict[tuple[str, int], dict[str, Any]]:
    """All runs, those that are in `folder` read from there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed in range(seeds):
        for policy in POLICIES:
            path = folder / f"{policy}-{seed}.json"
            of = {"view": shards.fingerprint, **settings(shards.sequence_length, policy, seed)}
            if path.exists():
                run = json.loads(path.read_text())
                if run["of"] != of:
                    raise SystemExit(f"{path}: is a run of another view or other settings; give another --runs")
            else:
                begun = time.perf_counter()
                run = {"of": of, **train(shards, policy, seed)}
                unfinished = path.with_suffix(".unfinished")
                unfinished.write_text(json.dumps(run))
                unfinished.rename(path)
                print(f"{path}: {time.perf_counter() - begun:.0f} s", flush=True)
            found[policy, seed] = run
    return found


def figure(run: dict[str, Any]) -> float:
    """Mean of a run's last evaluations."""
    return statistics.mean(loss for _, loss in run["evaluations"][-LAST:])


def apart(found: dict[tuple[str, int], dict[str, Any]], policy: str, other: str, seeds: int) -> list[float]:
    """By seed, in per cent: how much higher the policy's figure is than the other's."""
    return [100 * (figure(found[policy, seed]) / figure(found[other, seed]) - 1) for seed in range(seeds)]


def report(found: dict[tuple[str, int], dict[str, Any]], seeds: int) -> None:
    """Print the table, the comparisons, and whether the bound holds."""
    for policy in POLICIES:
        figures = [figure(found[policy, seed]) for seed in range(seeds)]
        took = statistics.median(found[policy, seed]["seconds"] for seed in range(seeds))
        shown = "  ".join(f"{value:.4f}" for value in figures)
        print(f"{policy:10} {shown}  mean {statistics.mean(figures):.4f}, {took:.3f} s a step")
    for policy, other in (("fp8_block", "bfloat16"), ("bfloat16", "float32"), ("fp8_block", "float32")):
        differences = apart(found, policy, other, seeds)
        shown = "  ".join(f"{value:+.3f} %" for value in differences)
        spread = f", spread over seeds {statistics.stdev(differences):.3f} %" if seeds > 1 else ""
        print(f"{policy} against {other}: {shown}; mean {statistics.mean(differences):+.3f} %{spread}")
    worst = max(apart(found, "fp8_block", "bfloat16", seeds), key=abs)
    print(f"bound {BOUND} % {'holds for every seed' if abs(worst) < BOUND else f'does NOT hold: {worst:+.3f} %'}")


def draw(found: dict[tuple[str, int], dict[str, Any]], seeds: int, path: Path) -> None:
    """Left: held-out loss over steps; right: FP8's distance from bfloat16, with that of bfloat16 from float32."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fp8_loss"  # the same file for the same numbers
    import matplotlib.pyplot as plt  # noqa: PLC0415

    canvas, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for (policy, seed), run in found.items():
        left.plot(
            *zip(*run["evaluations"], strict=True), color=COLOURS[policy], linewidth=0.8, label=_once(policy, seed)
        )
    for policy, other in (("fp8_block", "bfloat16"), ("bfloat16", "float32")):
        for seed in range(seeds):
            pairs = zip(found[policy, seed]["evaluations"], found[other, seed]["evaluations"], strict=True)
            points = [(step, 100 * (loss / base - 1)) for (step, loss), (_, base) in pairs]
            label = _once(f"{policy} against {other}", seed)
            right.plot(*zip(*points, strict=True), color=COLOURS[policy], linewidth=0.8, label=label)
    right.axhspan(-BOUND, BOUND, color="black", alpha=0.08, label=f"± {BOUND} %")
    left.set(xlabel="step", ylabel="held-out loss")
    right.set(xlabel="step", ylabel="difference, %")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize="small")
    canvas.savefig(path, metadata={"Date": None})


def _once(label: str, seed: int) -> str | None:
    return label if seed == 0 else None


def main() -> None:
    """Train what is missing, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("view", help="such as runs/demo/shards/256")
    parser.add_argument("--runs", type=Path, required=True, help="where each run leaves its file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=1, help="of TensorFlow (default 1: the rest of the machine is free)"
    )
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(chosen.threads)
    tf.config.threading.set_inter_op_parallelism_threads(chosen.threads)
    found = runs(Shards(chosen.view), chosen.runs, chosen.seeds)
    report(found, chosen.seeds)
    if chosen.plot:
        draw(found, chosen.seeds, chosen.plot)


if __name__ == "__main__":
    main()
