"""A plan as text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from loader import Shards
from schemas.errors import Refused, TokenmillError
from trainer.plan.devices import device
from trainer.plan.estimate import Assumptions, Plan, estimate, largest, parse_mesh
from trainer.schedules import BatchRamp
from trainer.training.config import RunConfig, architecture


def print_plan(config: RunConfig, mesh: str, device_name: str, length: int | None, as_json: bool) -> None:
    """Print what the largest batch of a config costs.

    length: of sequences; None: of the config's view, which must then be there.

    Raises:
        Refused: mesh, device, batch and model do not fit each other, or the view cannot be read.
    """
    model = architecture(config)
    if length is None:
        try:
            length = Shards(config.data).sequence_length
        except TokenmillError as error:
            raise Refused(f"{error}; without the view give --sequence-length") from None
    batch = config.schedules.batch_size
    sequences = batch.end if isinstance(batch, BatchRamp) else batch.sequences
    spread, target = parse_mesh(mesh), device(device_name)
    plan = estimate(
        model,
        spread,
        target,
        sequences=sequences,
        microbatch=config.microbatch or max(1, sequences // spread.processes),
        length=length,
        precision=config.precision,
        recompute=config.recompute,
        average=config.ema is not None,
    )
    fitting, longest = largest(model, spread, target, config.precision, config.recompute, length)
    if as_json:
        whole = asdict(plan) | {"memory": plan.memory, "step_seconds": plan.step_seconds, "device": asdict(target)}
        print(json.dumps(whole | {"largest_microbatch": fitting, "longest_sequence": longest}, indent=1))
        return
    for line in _lines(plan, target.memory, sequences, length, fitting, longest, spread.processes):
        print(line)


def _lines(
    plan: Plan, memory: int, sequences: int, length: int, fitting: int, longest: int, processes: int
) -> list[str]:
    assumed = Assumptions()
    fits = plan.memory <= memory
    room = (
        f"{fitting:,} sequences of {length:,} in a microbatch, or one of {longest:,} tokens" if longest else "nothing"
    )
    rows: list[tuple[str, Any]] = [
        ("parameters", f"{plan.parameters / 1e9:,.2f} B, {plan.active / 1e9:,.2f} B of them active"),
        ("operations", f"{plan.flops_per_token / 1e9:,.2f} GFLOP a token, forward and backward"),
        ("step", f"{sequences:,} sequences of {length:,}: {plan.tokens:,} tokens on {processes:,} devices"),
        ("", ""),
        ("memory a device", f"{_gb(plan.memory)} of {_gb(memory)}: {'fits' if fits else 'DOES NOT FIT'}"),
        *((f"  {kind}", _gb(size)) for kind, size in plan.bytes_by_kind.items()),
        ("  what fits", room if longest else "nothing"),
        ("", ""),
        ("sent by a device in a step", _gb(sum(plan.traffic.values()))),
        *((f"  {kind}", _gb(size)) for kind, size in plan.traffic.items()),
        ("", ""),
        ("seconds a step", f"{plan.step_seconds:,.2f}: {plan.tokens / plan.step_seconds:,.0f} tokens/s"),
        *((f"  {part}", f"{seconds:,.2f}") for part, seconds in plan.seconds.items()),
        ("  assumed", f"{assumed.share_of_peak:.0%} of peak in products, {assumed.overlap:.0%} of traffic hidden"),
        ("", ""),
        ("checkpoint", f"{_gb(plan.checkpoint_bytes)}, written in {_time(plan.checkpoint_seconds)}"),
        ("recovery", f"{_time(plan.recovery_seconds)} from a death to the next step"),
        (
            "  assumed",
            f"a process writes {_gb(assumed.write)}/s and reads {_gb(assumed.read)}/s; a death is noticed within "
            f"{_time(assumed.detect)}, processes are back and traced in {_time(assumed.restart)}",
        ),
    ]
    return [f"{name:34}{value}".rstrip() for name, value in rows]


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e12 else f"{size / 1e12:,.2f} TB"


def _time(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"
