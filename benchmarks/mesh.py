"""The step on a mesh: one process against the plain step, and two processes by part.

    python benchmarks/mesh.py [--preset NAME] [--repeats N]

First: the plain step and the step of a mesh of one process, in one process, taking turns; the ratio of medians. Then
2x1 and 1x2 with the same global batch, a process a core. A step's parts, from inside its graph: `wait` is how long this
process stands in a barrier before each collective, `exchange` how long the collective takes from there, `compute` the
rest. Barriers cost something themselves, so steps without them are timed, too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a checkout need not be installed

import numpy as np  # noqa: E402

ROWS, LENGTH = 8, 512


def batch(vocab: int, rank: int, processes: int) -> dict[str, Any]:
    """This process's rows of a batch as skewed as text."""
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415

    draw = np.random.default_rng(0).zipf(1.2, (ROWS, LENGTH + 1)) % vocab
    each = ROWS // processes
    shape = (each, LENGTH + 1)
    return {
        "tokens": tf.constant(draw[rank * each : (rank + 1) * each], tf.int32),
        "segment_ids": tf.ones(shape, tf.int32),
        "positions": tf.constant(np.broadcast_to(np.arange(LENGTH + 1, dtype=np.int32), shape)),
        "loss_mask": tf.constant(np.broadcast_to(np.arange(LENGTH + 1) > 0, shape)),
    }


def step_of(name: str, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """A step on a mesh, or without one, and its batch."""
    from trainer.mesh import Shards  # noqa: PLC0415
    from trainer.model import Model  # noqa: PLC0415
    from trainer.optimizer import OptimizerConfig  # noqa: PLC0415
    from trainer.presets import preset  # noqa: PLC0415
    from trainer.step import TrainStep, optimizer_of  # noqa: PLC0415

    config = preset(name)
    model = Model(config, seed=1, exchange=mesh.exchange(config) if mesh else None)
    shards = Shards(mesh, model) if mesh else None
    data = batch(config.vocab_size, mesh.rank if mesh else 0, mesh.processes if mesh else 1)
    rows = data["tokens"].shape[0]
    return TrainStep(model, optimizer_of(model, OptimizerConfig(), shards), rows, shards=shards), data


def seconds(step: Any, data: dict[str, Any]) -> float:
    """Of one step."""
    begun = time.perf_counter()
    float(step(data, 1e-4, 1e-3).norm)
    return time.perf_counter() - begun


def alone(name: str, repeats: int) -> None:
    """Print the medians of both steps of one process."""
    from trainer.mesh import Mesh  # noqa: PLC0415

    steps = {"plain": step_of(name, None), "mesh of one": step_of(name, Mesh())}
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    for turn in range(repeats + 1):
        for kind, (step, data) in steps.items():
            took = seconds(step, data)
            if turn:  # the first is traced
                found[kind].append(took)
    medians = {kind: statistics.median(times) for kind, times in found.items()}
    for kind, median in medians.items():
        print(f"{kind:12} {median:.3f} s a step, {ROWS * LENGTH / median:.0f} tokens/s")
    print(f"mesh of one / plain: {medians['mesh of one'] / medians['plain']:.3f}", flush=True)


def timed() -> Any:
    """Make every collective measure itself; returns the variable [wait, exchange], in seconds, that adds them up."""
    import tensorflow as tf  # noqa: PLC0415

    from trainer.mesh.collectives import Group  # noqa: PLC0415

    spent = tf.Variable(tf.zeros([2], tf.float64), trainable=False)
    plain = Group._run

    def run(group: Any, operation: Any, x: Any, variant: Any, **settings: Any) -> Any:
        with tf.control_dependencies([x]):
            begun = tf.timestamp()
        with tf.control_dependencies([begun]):
            barrier = plain(group, tf.raw_ops.CollectiveReduceV2, tf.zeros([1]), None, merge_op="Add", final_op="Id")
        with tf.control_dependencies([barrier]):
            met, x = tf.timestamp(), tf.identity(x)
        with tf.control_dependencies([met]):
            x = tf.identity(x)
        y = plain(group, operation, x, variant, **settings)
        with tf.control_dependencies([y]):
            ended = tf.timestamp()
        spent.assign_add([met - begun, ended - met])
        return y

    Group._run = run
    return spent


def work(name: str, repeats: int, data_size: int, expert_size: int) -> None:
    """One process of two: print its medians as JSON."""
    import tensorflow as tf  # noqa: PLC0415

    from trainer.mesh import Mesh, MeshConfig  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)  # a process a core
    mesh = Mesh.join(MeshConfig(data=data_size, expert=expert_size))
    step, data = step_of(name, mesh)
    whole = [seconds(step, data) for _ in range(repeats + 1)][1:]
    spent = timed()
    step, data = step_of(name, mesh)
    seconds(step, data)
    parts = []
    for _ in range(repeats):
        spent.assign([0.0, 0.0])
        took = seconds(step, data)
        wait, exchange = spent.numpy().tolist()
        parts.append((took - wait - exchange, exchange, wait, took))
    medians = [statistics.median(column) for column in zip(*parts, strict=True)]
    print(json.dumps({"rank": mesh.rank, "step": statistics.median(whole), "parts": medians}), flush=True)


def pair(name: str, repeats: int, shape: tuple[int, int]) -> None:
    """Run two processes and print what they found."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    command = [sys.executable, __file__, "--preset", name, "--repeats", str(repeats), "--work", *map(str, shape)]
    started = []
    for rank in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environ = {**os.environ, "TF_CONFIG": json.dumps(task)}
        started.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True))
    for process in started:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a process of {shape} ended with {process.returncode}")
        found = json.loads(out.splitlines()[-1])
        compute, exchange, wait, took = found["parts"]
        print(
            f"{shape[0]}x{shape[1]}, process {found['rank']}: {found['step']:.3f} s a step, "
            f"{ROWS * LENGTH / found['step']:.0f} tokens/s; with barriers {took:.3f} s = "
            f"compute {compute:.3f} ({compute / took:.0%}) + exchange {exchange:.3f} ({exchange / took:.0%}) "
            f"+ wait {wait:.3f} ({wait / took:.0%})",
            flush=True,
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", help="the architecture (default: small, 14.4 M weights)")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each (default 5)")
    parser.add_argument("--work", nargs=2, type=int, metavar=("DATA", "EXPERT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.preset, options.repeats, *options.work)
    alone(options.preset, options.repeats)
    for shape in ((2, 1), (1, 2)):
        pair(options.preset, options.repeats, shape)


if __name__ == "__main__":
    main()
