"""Step records made by hand, for rules."""

from __future__ import annotations

from typing import Any

from trainer.training.records import StepRecord, Utilisation

EVEN = Utilisation(0.1, 0.9, 1.1, 0)


def step(number: int, **changes: Any) -> StepRecord:
    """A healthy step of half a second over 1,000 tokens."""
    given: dict[str, Any] = {
        "step": number,
        "position": 8 * number,
        "tokens": 1000 * number,
        "sequences": 8,
        "learning_rate": 1e-3,
        "bias_speed": 1e-3,
        "mtp_weight": 0.3,
        "loss": 4.0,
        "total": 4.1,
        "mtp": 4.2,
        "balance": 1.0,
        "components": {"code": 4.0, "prose": None},
        "labels": 1000,
        "norm": 0.5,
        "applied": True,
        "experts": (EVEN, EVEN),
        "input_seconds": 0.0,
        "step_seconds": 0.5,
        **changes,
    }
    seconds = given["input_seconds"] + given["step_seconds"]
    return StepRecord(tokens_per_second=1000 / seconds, **given)
