"""What a run reports of a step and of a validation, and who is told.

L: MoE layers, E: experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class StartRecord:
    """How a process began: from the checkpoint of `step`, or anew (0, None); a stage, with that of the one before.

    quarantined: damaged checkpoints that were newer, as (step, what is wrong). changed: what of the environment is not
    as it was when the checkpoint was saved; results may then differ in the last bits.
    """

    step: int
    checkpoint: str | None
    quarantined: Sequence[tuple[int, str]]
    changed: Sequence[str]
    environment: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "start", **asdict(self)}


@dataclass(frozen=True)
class CheckpointRecord:
    """What became of a save. error: None when it is committed, else what failed; the ones before are still there.

    waited_seconds, copied_seconds: what training waited, for the save before and for the copy; seconds: of the write,
    in the background. raw_bytes, bytes: of process 0's values, and of its files.
    """

    step: int
    path: str
    error: str | None
    waited_seconds: float
    copied_seconds: float
    seconds: float
    raw_bytes: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "checkpoint", **asdict(self)}


@dataclass(frozen=True)
class RollbackRecord:
    """The run went back after bad steps.

    step, position: where it was. to_step: of the checkpoint it went back to; checkpoint: None where there was none, so
    that it began anew. bad: positions in the order, from and to, of the batches that were left out. over: of what is
    not trained on when the steps are made again. quarantined: as in StartRecord.
    """

    step: int
    position: int
    to_step: int
    checkpoint: str | None
    bad: Sequence[tuple[int, int]]
    over: Sequence[tuple[int, int]]
    quarantined: Sequence[tuple[int, str]]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "rollback", **asdict(self)}


@dataclass(frozen=True)
class StageRecord:
    """A stage was trained to its end; the run proper is the first. step, position, tokens: of the stage.

    length: of its view's sequences. loss: of its last validation; None if the view holds nothing out.
    """

    name: str
    step: int
    position: int
    tokens: int
    length: int
    loss: float | None

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "stage", **asdict(self)}


class Measured(Protocol):
    """A record of the monitor: of the machine, or of performance (docs/monitoring.md)."""

    @property
    def step(self) -> int:
        """The last one made."""
        ...

    def as_json(self) -> dict[str, Any]:
        """As JSON values; `kind` says which it is."""
        ...


class Callback:
    """Who is told. Every method does nothing by default; an exception ends the run."""

    def on_start(self, record: StartRecord) -> None:
        """Before the first step of a process."""

    def on_step_end(self, record: StepRecord) -> None:
        """After a step."""

    def on_validation(self, record: ValidationRecord) -> None:
        """After a validation."""

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        """After a save has ended, some steps later."""

    def on_rollback(self, record: RollbackRecord) -> None:
        """After the run went back to an earlier step."""

    def on_stage_end(self, record: StageRecord) -> None:
        """After the last step of a stage, its validation and its checkpoint; after a kill there perhaps once more."""

    def on_monitor(self, record: Measured) -> None:
        """After a step, of what was measured beside it."""
