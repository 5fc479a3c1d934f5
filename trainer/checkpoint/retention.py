"""Which checkpoints stay: the newest, every so manieth step, the best by validation. What killed saves left goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import Refused
from trainer.checkpoint import files, records
from trainer.checkpoint.load import committed, read_commit, steps
from trainer.checkpoint.records import Damaged

VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept.

    newest: so many of the newest checkpoints, at least 1.
    every: besides, those whose step is a multiple of it; None: no others.
    The one with the least `validation_loss` in its meta is always kept.
    """

    newest: int = 5
    every: int | None = None

    def __post_init__(self) -> None:
        if self.newest < 1 or (self.every is not None and self.every < 1):
            raise Refused(f"retention of {self.newest} newest and every {self.every} steps: both must be at least 1")

    def superfluous(self, losses: Mapping[int, float | None]) -> list[int]:
        """Steps that may go, in order. losses: validation loss by step, None where there is none."""
        order = sorted(losses)
        kept = set(order[-self.newest :])
        if self.every:
            kept.update(step for step in order if step % self.every == 0)
        # Of equal losses the newest.
        known = [(loss, -step) for step, loss in losses.items() if loss is not None]
        if known:
            kept.add(-min(known)[1])
        return [step for step in order if step not in kept]


def validation_loss(meta: Mapping[str, Any]) -> float | None:
    """The validation loss in a checkpoint's meta; None when it has none."""
    loss = meta.get(VALIDATION_LOSS)
    return float(loss) if isinstance(loss, (int, float)) and not isinstance(loss, bool) else None


def superfluous(directory: str, retention: Retention) -> list[int]:
    """Steps of a folder that may go. A checkpoint with a damaged marker is left alone: loading will put it aside.

    Raises:
        Refused: a checkpoint is of another format version.
    """
    losses = {}
    for step in steps(directory):
        try:
            losses[step] = validation_loss(read_commit(directory, step).meta)
        except Damaged:
            continue
    return retention.superfluous(losses)


def remove(directory: str, remove_steps: Iterable[int]) -> None:
    """Delete checkpoints, oldest first, each one's marker before its data."""
    for step in remove_steps:
        files.remove_tree(os.path.join(directory, records.step_name(step)), first=records.COMMIT)


def leftovers(directory: str, below: int | None = None) -> list[str]:
    """Names of step folders without a commit marker, of steps less than `below`."""
    names = files.names_in(directory)
    whole = {records.step_name(step) for step in committed(directory, names)}
    steps_of = ((name, records.step_of(name)) for name in names if name not in whole)
    return [name for name, step in steps_of if step is not None and (below is None or step < below)]


def remove_leftovers(directory: str, below: int | None = None) -> list[str]:
    """Delete what killed and failed saves left; returns the names."""
    names = leftovers(directory, below)
    for name in names:
        files.remove_tree(os.path.join(directory, name), first=records.COMMIT)
    return names


def remove_abandoned(directory: str) -> list[str]:
    """Delete the checkpoints that a run went back behind (`trainer.checkpoint.load.abandon_after`); names."""
    names = [name for name in files.names_in(directory) if name.startswith(f"{records.ABANDONED}step-")]
    for name in names:
        files.remove_tree(os.path.join(directory, name), first=records.COMMIT)
    return names
