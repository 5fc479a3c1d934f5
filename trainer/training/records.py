"""What a run reports of a step and of a validation, and who is told.

L: MoE layers, E: experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Utilisation:
    """How evenly a layer's experts were used. cv: standard deviation of their token counts by the mean; least, most: by
    the mean; dead: how many had none.
    """

    cv: float
    least: float
    most: float
    dead: int


def utilisation(counts_LE: np.ndarray) -> tuple[Utilisation, ...]:
    """Of each layer, from its tokens by expert."""
    found = []
    for counts_E in np.asarray(counts_LE, np.float64):
        mean = max(float(counts_E.mean()), 1e-9)
        found.append(
            Utilisation(
                float(counts_E.std()) / mean,
                float(counts_E.min()) / mean,
                float(counts_E.max()) / mean,
                int((counts_E == 0).sum()),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class StepRecord:
    """One step. Losses are of the parameters before it.

    step: counted from 1; position: records of the view consumed so far by all processes; tokens: trained on so far, as
    schedules count them: sequences times sequence length. loss: main, per label; components: the same by component,
    None where the batch had no label of it. applied: False if the update was left out. seconds: waiting for input, and
    the step itself.
    """

    step: int
    position: int
    tokens: int
    sequences: int
    learning_rate: float
    bias_speed: float
    mtp_weight: float
    loss: float
    total: float
    mtp: float
    balance: float
    components: Mapping[str, float | None]
    labels: int
    norm: float
    applied: bool
    experts: Sequence[Utilisation]
    tokens_per_second: float
    input_seconds: float
    step_seconds: float

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "step", **asdict(self)}


@dataclass(frozen=True)
class ValidationRecord:
    """Mean loss a label of held-out records. loss: of components, weighted by their shares in the order."""

    step: int
    position: int
    tokens: int
    loss: float
    components: Mapping[str, float]
    labels: Mapping[str, int]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "validation", **asdict(self)}


class Callback:
    """Who is told. Every method does nothing by default; an exception ends the run."""

    def on_step_end(self, record: StepRecord) -> None:
        """After a step."""

    def on_validation(self, record: ValidationRecord) -> None:
        """After a validation."""
