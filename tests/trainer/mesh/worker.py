"""One process of a mesh: checks collectives and the exchange, trains a little, and writes what it has.

    python -m tests.trainer.mesh.worker DATA EXPERT FOLDER

Writes FOLDER/<rank>.npz, from which the tests put tensors of the whole run together.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.trainer.mesh.checks import check_collectives, check_exchange
from tests.trainer.numeric import batch_of, tiny
from trainer.mesh import Mesh, MeshConfig, Owned, Shards, shards
from trainer.model import Model
from trainer.optimizer import OptimizerConfig
from trainer.step import StepOutput, TrainStep, optimizer_of

# Rows that no number of processes divides: parts with padding. One layer and one MTP module, both with experts.
CONFIG = tiny(num_hidden_layers=1, first_k_dense_replace=0, vocab_size=61, hidden_size=30, q_lora_rank=None)
# One sequence nearly all padding, one whole; so processes have different numbers of labels.
DOCUMENTS = [[9, 8], [2], [17], [5, 5, 7], [3, 14], [], [16], [4, 4, 4]]
STEPS = 20
NUMBERS = {"learning_rate": 3e-3, "bias_speed": 1e-3, "mtp_weight": 0.3}


def batch(seed: int, rank: int = 0, processes: int = 1) -> dict[str, Any]:
    """This process's part of a global batch of eight sequences."""
    whole = batch_of(DOCUMENTS, 18, seed, CONFIG.vocab_size)
    whole["component"] = tf.constant([0, 1, 0, 1, 1, -1, 0, 0], tf.int32)
    each = len(DOCUMENTS) // processes
    return {name: value[rank * each : (rank + 1) * each] for name, value in whole.items()}


def losses(prefix: str, output: StepOutput) -> dict[str, Any]:
    """Everything a step returns, by name."""
    values = {**output.losses._asdict(), "norm": output.norm, "applied": output.applied}
    return {f"{prefix}/{name}": value.numpy() for name, value in values.items()}


def parts(prefix: str, owned: list[Owned]) -> dict[str, Any]:
    """What this process stores: `prefix/name` the part, with its place and the whole's shape beside it."""
    found = {}
    for o in owned:
        if o.written is None:
            continue
        bounds = [*o.written, *[slice(None)] * (len(o.shape) - len(o.written))]
        starts = [s.indices(n)[0] for s, n in zip(bounds, o.variable.shape, strict=True)]
        found[f"{prefix}/{o.name}"] = o.variable.numpy()[o.written]
        found[f"at/{prefix}/{o.name}"] = np.add(o.offset, starts).astype(np.int64)
        found[f"shape/{prefix}/{o.name}"] = np.array(o.shape, np.int64)
    return found


def digest(variables: Any) -> str:
    """Of all bits."""
    return hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in variables)).hexdigest()


def main() -> None:
    """Join, check, train, write."""
    data, expert, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    # Generous: other work may stop this machine for minutes.
    mesh = Mesh.join(MeshConfig(data=data, expert=expert, timeout=600, heartbeat=600))
    if mesh.processes == 4:
        shards._BUCKET = 5000  # several buckets
        check_collectives(mesh)
    if expert > 1:
        check_exchange(mesh)
    # Recomputation and microbatches on the largest mesh only: the results are those of neither.
    model = Model(CONFIG, seed=3, recompute=mesh.processes == 4, exchange=mesh.exchange(CONFIG))
    mine = Shards(mesh, model)
    optimizer = optimizer_of(model, OptimizerConfig(moments="float32"), mine)
    microbatch = 1 if mesh.processes == 4 else 8 // mesh.processes
    step = TrainStep(model, optimizer, microbatch, balance_weight=0.01, components=2, shards=mine)
    dense = [v for v in model.variables_in_order if v.name.removesuffix(":0") not in model.expert_names]
    state = [*model.variables_in_order, *model.router_biases, *optimizer.state.values()]
    start = [variable.numpy() for variable in state]
    found: dict[str, Any] = {}

    def run(seed: int, **limits: float) -> StepOutput:
        return step(batch(seed, mesh.rank, mesh.processes), **NUMBERS, **limits)

    found |= losses("first", run(0)) | parts("first", mine.owned(optimizer))
    found["loss/20"] = np.array([float(run(seed % 2).losses.total) for seed in range(1, STEPS)])
    # By the groups of replicas: those that must have the same bits.
    found["digest/dense"] = digest([*dense, *model.router_biases, optimizer.step])
    found["digest/experts"] = digest(
        [v for v in model.variables_in_order if v.name.removesuffix(":0") in model.expert_names]
    )

    # Two experts take all tokens, so that with experts on two processes one of them gets no row at all.
    skew = np.array([0, 0, 0, 0, 0, 0, 10, 20], np.float32)
    digests = []
    for _ in range(2):
        for variable, value in zip(state, start, strict=True):
            variable.assign(skew if any(variable is bias for bias in model.router_biases) else value)
        output = run(0)
        digests.append(digest(state))
    assert digests[0] == digests[1]  # the same steps on the same mesh, the same bits
    found |= losses("skewed", output) | parts("skewed", mine.owned(optimizer))
    before = digest(state)
    output = run(1, max_loss=0.1)
    assert not bool(output.applied)
    assert digest(state) == before

    whole = mesh.gathered(model)
    assert (whole is None) == (mesh.rank > 0)
    if whole is not None:
        found |= {f"gathered/{name}": value for name, value in whole.items()}
    np.savez(folder / f"{mesh.rank}.npz", **found)


if __name__ == "__main__":
    main()
