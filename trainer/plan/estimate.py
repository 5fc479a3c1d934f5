"""Bytes, traffic and seconds of a step, a checkpoint and a recovery on a data x expert mesh.

D: data, E: expert; P = D E processes, one a device. Routed experts are spread over E and kept D times; all other
parameters are kept P times. Moments are spread over the copies of their parameter (ZeRO-1, arXiv 1910.02054).
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import Refused
from trainer.config import ModelConfig, Precision
from trainer.plan.devices import Device
from trainer.plan.parameters import flops_per_token, parameters

CHECKPOINT_SHARE = 0.54
"""Bytes of a checkpoint by 12 bytes a parameter: FP32 weights and BF16 moments, compressed."""
AVERAGE_BYTES = 3.5
"""Bytes of a checkpoint by parameter for the average of the weights: FP32, compressed."""


@dataclass(frozen=True)
class Mesh:
    """data, expert: sizes of the two dimensions."""

    data: int
    expert: int

    @property
    def processes(self) -> int:
        """P."""
        return self.data * self.expert


def parse_mesh(text: str) -> Mesh:
    """`data=8,expert=64`, in either order; what is left out is 1. Raises Refused."""
    sizes = {"data": 1, "expert": 1}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in sizes or not size.isdecimal() or int(size) < 1:
            raise Refused(f"--mesh {text}: write data=D,expert=E with whole numbers from 1 on")
        sizes[name] = int(size)
    return Mesh(**sizes)


@dataclass(frozen=True)
class Assumptions:
    """What arithmetic cannot know. share_of_peak: of a device's FLOP/s that products reach; write, read: bytes a second
    of checkpoint storage, a process; overlap: share of traffic that hides behind computation; detect, restart: seconds
    until a dead process is noticed, and until processes are back and their graphs traced.
    """

    share_of_peak: float = 0.4
    overlap: float = 0.5
    write: float = 0.5e9
    read: float = 1.0e9
    detect: float = 300.0
    restart: float = 300.0


@dataclass(frozen=True)
class Plan:
    """bytes_by_kind: of a device's memory; traffic: bytes a device sends in a step; seconds: of a step, by part."""

    parameters: int
    active: int
    flops_per_token: float
    tokens: int
    bytes_by_kind: dict[str, float]
    traffic: dict[str, float]
    seconds: dict[str, float]
    checkpoint_bytes: float
    checkpoint_seconds: float
    recovery_seconds: float

    @property
    def memory(self) -> float:
        """Bytes a device needs."""
        return sum(self.bytes_by_kind.values())

    @property
    def step_seconds(self) -> float:
        """Of the estimated step."""
        return sum(self.seconds.values())


def activation_bytes(config: ModelConfig, recompute: bool, precision: Precision) -> float:
    """Bytes a token of a microbatch keeps for the backward pass: what the layers of `trainer.model` keep.

    A layer keeps its two inputs (float32), latents, attention's output, and each feed-forward's gate and up; without
    recomputation also the norms' outputs, queries, keys, values, and SwiGLU's outputs.
    """
    item = 4 if precision == "float32" else 2
    width, heads = config.hidden_size, config.num_attention_heads
    latents = (config.q_lora_rank or heads * config.qk_head_dim) + config.kv_lora_rank + config.qk_rope_head_dim
    values = heads * config.v_head_dim
    kept = 2 * 4 * width + item * (latents + values) + 4 * heads
    again = item * (2 * width + 2 * heads * config.qk_head_dim + values)

    def feed_forward(inner: int) -> float:
        return item * inner * (2 if recompute else 3)

    expert_rows = config.num_experts_per_tok
    moe = feed_forward(config.moe_intermediate_size * (expert_rows + config.n_shared_experts))
    moe += item * width * expert_rows * 2 + 4 * config.n_routed_experts  # sent and returned rows, scores
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    total = layers * (kept + (0 if recompute else again)) + len(config.moe_layers) * moe
    return total + config.first_k_dense_replace * feed_forward(config.intermediate_size)


def estimate(
    config: ModelConfig,
    mesh: Mesh,
    device: Device,
    *,
    sequences: int,
    microbatch: int,
    length: int,
    precision: Precision,
    recompute: bool,
    average: bool = False,
    assumed: Assumptions | None = None,
) -> Plan:
    """The plan of one step of `sequences` in all and `microbatch` at a time on each device.

    average: whether an average of the weights is kept, on the host and in checkpoints.

    Raises Refused where mesh and model, or batch and mesh, do not divide.
    """
    assumed = assumed or Assumptions()
    if config.n_routed_experts % mesh.expert:
        raise Refused(f"expert={mesh.expert} does not divide the {config.n_routed_experts} routed experts")
    if sequences % (mesh.processes * microbatch):
        raise Refused(
            f"{sequences} sequences cannot be shared by {mesh.processes} processes in microbatches of {microbatch}"
        )
    found, processes = parameters(config), mesh.processes
    experts, replicated = found.experts / mesh.expert, found.replicated
    here = experts + replicated
    item = 4 if precision == "float32" else 2
    kept = activation_bytes(config, recompute, precision) * microbatch * length
    by_kind = {
        "master weights, FP32": 4.0 * here,
        "gradients, FP32": 4.0 * here,
        "moments, BF16": 4.0 * (experts / mesh.data + replicated / processes),
        "activations": kept,
        "logits of a chunk": 3 * 4.0 * 512 * config.vocab_size,
    }
    tokens = sequences * length
    mine = tokens / processes
    rows = mine * config.num_experts_per_tok * len(config.moe_layers)
    away = (mesh.expert - 1) / mesh.expert
    traffic = {
        "all-to-all": 4 * rows * config.hidden_size * item * away,
        "gradients and weights": 2 * 4 * (replicated * (processes - 1) / processes),
        "experts' gradients and weights": 2 * 4 * experts * (mesh.data - 1) / mesh.data,
    }
    fast = processes <= device.node
    rate = device.link if fast else device.network
    compute = flops_per_token(config, length) * mine / (device.flops * assumed.share_of_peak)
    exposed = (1 - assumed.overlap) * sum(traffic.values()) / rate
    written = (CHECKPOINT_SHARE * 12 + AVERAGE_BYTES * average) * found.total
    return Plan(
        found.main,
        found.active,
        flops_per_token(config, length),
        tokens,
        by_kind,
        traffic,
        {"computation": compute, "traffic not hidden": exposed},
        written,
        written / processes / assumed.write,
        assumed.detect + assumed.restart + (4 * here + (8 if average else 4) * found.total / processes) / assumed.read,
    )


def largest(
    config: ModelConfig,
    mesh: Mesh,
    device: Device,
    precision: Precision,
    recompute: bool,
    length: int,
) -> tuple[int, int]:
    """(sequences of `length` in a microbatch, tokens of a single sequence) that fit a device; 0 where none does."""
    plan = estimate(
        config, mesh, device, sequences=mesh.processes, microbatch=1, length=1, precision=precision, recompute=recompute
    )
    left = device.memory - (plan.memory - plan.bytes_by_kind["activations"])
    tokens = int(left / activation_bytes(config, recompute, precision))
    return max(0, tokens // length), max(0, tokens)
