"""What a checkpoint of a run holds, and how a run is made to stand where it was saved.

Arrays: weights, router biases, the optimizer's step count and moments, and the average of the weights if there is one,
by names that are the same on every mesh.
Dictionary: step, position and tokens, the loader's state, positions to step over, the last validation, config,
architecture and environment, and what else the run keeps from step to step.
There is no generator of random numbers to save: nothing in a step is random, and records are read in a computed order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import Refused
from trainer.checkpoint import ArrayInfo, Checkpoint, Owned
from trainer.checkpoint.retention import VALIDATION_LOSS
from trainer.config import parse_model_config
from trainer.mesh.shards import AVERAGE
from trainer.model import Model
from trainer.training.environment import environment
from trainer.training.trainer import Progress, Trainer

# Of the config, what decides neither the weights nor the order of records, beyond the rounding of sums; and `recovery`,
# so that a run that did not recover can go on.
_MAY_CHANGE = {
    "cache",
    "checkpoints",
    "data",  # another path to the same view: the loader's state knows the view by its fingerprint
    "initial",
    "log_every",
    "mesh",
    "microbatch",
    "monitor",
    "output",
    "recompute",
    "recovery",
    "shapes",
    "stages",
    "step_timeout",
    "stop",
    "validation",
}


def pieces(trainer: Trainer) -> list[Owned]:
    """What this process saves: the parts of its variables that it writes, read when they are copied."""
    found = []
    for each in trainer.owned():
        if each.written is None:
            continue
        size = each.variable.shape
        part = (*each.written, *[slice(None)] * (len(size) - len(each.written)))
        begins = [cut.indices(length)[0] for cut, length in zip(part, size, strict=True)]
        offset = tuple(at + begin for at, begin in zip(each.offset, begins, strict=True))
        found.append(Owned(each.name, _Part(each.variable, part), each.shape, offset))
    return found


@dataclass(frozen=True)
class _Part:
    """A box of a variable, in the way `Owned` reads variables."""

    variable: Any
    part: tuple[slice, ...]

    def read_value(self) -> np.ndarray:
        """A view where there is one."""
        return np.asarray(self.variable.read_value())[self.part]


def described(
    trainer: Trainer, validated: int | None, loss: float | None, states: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The dictionary beside the arrays. validated: step of the last validation, and loss what it found; states: what
    else the run keeps, by name.
    """
    progress = trainer.progress
    content: dict[str, Any] = {
        "step": progress.step,
        "position": progress.position,
        "tokens": progress.tokens,
        "loader": trainer.shards.state(progress.position),
        "over": trainer.over,
        "validated": validated,
        **states,
        "config": trainer.config.model_dump(mode="json"),
        "model": trainer.model.config.model_dump(mode="json"),
        "environment": environment(),
    }
    if validated == progress.step and loss is not None and math.isfinite(loss):
        content[VALIDATION_LOSS] = loss
    return content


def check(checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Raise Refused unless the run that was saved is the one that `trainer` is for; names what is not the same."""
    then, now = checkpoint.meta["config"], trainer.config.model_dump(mode="json")
    for key in sorted(now.keys() - _MAY_CHANGE):
        if then.get(key) != now[key]:
            raise Refused(
                f"{checkpoint.path}: was trained with {key} {then.get(key)}, the config has {now[key]}; go on with "
                f"what it was, or begin another run in another output (`initial` takes over weights)"
            )
    _check_model(checkpoint, trainer)


EXTENDED = ("max_position_embeddings", "yarn")
"""Of the architecture, what changes from stage to stage: it changes no array."""


def take_over(checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Give `trainer` all arrays of another run's checkpoint, and leave its progress: a stage begins.

    Raises Refused if the architecture is another one in more than its length, or an array is missing.
    """
    _check_model(checkpoint, trainer, EXTENDED)
    _assign(checkpoint, trainer)


def _check_model(checkpoint: Checkpoint, trainer: Trainer, may_change: Sequence[str] = ()) -> None:
    then = checkpoint.meta["model"]
    for key, now in trainer.model.config.model_dump(mode="json").items():
        if key not in may_change and then.get(key) != now:
            raise Refused(f"{checkpoint.path}: the model has {key} {then.get(key)}, now it would be {now}")


def _assign(checkpoint: Checkpoint, trainer: Trainer) -> None:
    owned = trainer.owned()
    checkpoint.require({each.name: ArrayInfo(each.variable.dtype.name, each.shape) for each in owned})
    for each in owned:
        box = [slice(at, at + size) for at, size in zip(each.offset, each.variable.shape, strict=True)]
        each.variable.assign(checkpoint.read(each.name, box))


def restore(checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Make `trainer` stand where it was saved, whatever the mesh that saved it. Raises Refused as `check` does."""
    check(checkpoint, trainer)
    meta = checkpoint.meta
    position = trainer.shards.resume(meta["loader"])
    _assign(checkpoint, trainer)
    trainer.progress = Progress(meta["step"], position, meta["tokens"])
    trainer.over = tuple((begin, end) for begin, end in meta["over"])


def model_of(checkpoint: Checkpoint, ema: bool = False) -> Model:
    """The model in a checkpoint, without its optimizer. ema: with the average of its weights, and its router biases.

    Raises Refused if its arrays are those of another model, or no average was kept.
    """
    model = Model(parse_model_config(checkpoint.meta["model"], f"{checkpoint.path}: model"))
    if ema and checkpoint.meta["config"].get("ema") is None:
        raise Refused(f"{checkpoint.path}: holds no average of the weights; a run keeps one where its config has `ema`")
    kind = f"{AVERAGE}/" if ema else ""
    for variable in model.variables_in_order:
        variable.assign(checkpoint.read(f"{kind}{_plain(variable)}"))
    for bias in model.router_biases:
        bias.assign(checkpoint.read(_plain(bias)))
    return model


def _plain(variable: Any) -> str:
    return str(variable.name.removesuffix(":0"))
