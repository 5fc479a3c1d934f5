"""When a run is saved, from what it goes on, and who is told of both."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from schemas.errors import TokenmillError
from trainer.checkpoint import Checkpoint, Found, Outcome, Retention, Saver, abandon_after, newest_good, open_step
from trainer.mesh import Mesh
from trainer.training.environment import differences, environment
from trainer.training.records import Callback, CheckpointRecord, RollbackRecord, StartRecord
from trainer.training.state import described, pieces, restore
from trainer.training.trainer import Trainer


class Kept(Protocol):
    """What a run keeps from step to step beside its trainer."""

    def state(self) -> dict[str, Any]:
        """As JSON."""
        ...

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a `state`."""
        ...


def go_on(trainer: Trainer, directory: str) -> tuple[StartRecord, Mapping[str, Any]]:
    """Make `trainer` stand at the newest checkpoint that is whole, if there is one. All processes must call it.

    Where there is none, at the beginning. Returns what process 0 tells of it, and the checkpoint's dictionary; {} where
    there was none.

    Raises:
        Refused: the checkpoint is of another run or view.
    """
    checkpoint, quarantined = newest(trainer.mesh, directory)
    here = environment()
    if checkpoint is None:
        begun = None if trainer.begin is None else trainer.begin(trainer)
        return StartRecord(0, begun, quarantined, (), here), {}
    restore(checkpoint, trainer)
    meta = checkpoint.meta
    changed = differences(meta["environment"], here)
    return StartRecord(checkpoint.step, checkpoint.path, quarantined, changed, here), meta


def newest(
    mesh: Mesh, directory: str, before: int | None = None
) -> tuple[Checkpoint | None, tuple[tuple[int, str], ...]]:
    """The newest whole checkpoint, and (step, reason) of the damaged ones that were newer. All processes must call it.

    Process 0 looks, and puts damaged ones aside; the others open what it found.
    """
    found = newest_good(directory, before) if mesh.rank == 0 else Found(None)
    step = mesh.from_first(-1 if found.checkpoint is None else found.checkpoint.step)
    if mesh.rank and step >= 0:
        return open_step(directory, step, beside=True), ()
    return found.checkpoint, tuple((each.step, each.reason) for each in found.quarantined)


class Checkpoints:
    """Saves a run. All processes make one before their first step, and save at the same steps.

    told: whom to tell what became of each save. kept: whose state is saved, too, by name. guard: as in `Saver`. As a
    context it waits for the last one.
    """

    def __init__(
        self,
        trainer: Trainer,
        directory: str,
        told: Sequence[Callback],
        kept: Mapping[str, Kept] | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        self._trainer, self._directory, self._told, self._kept = trainer, directory, told, kept or {}
        mesh, config = trainer.mesh, trainer.config.checkpoints
        self._saver = Saver(
            directory,
            process=mesh.rank,
            processes=mesh.processes,
            run=f"{mesh.from_first(secrets.randbits(52)):013x}",
            keep=Retention(config.keep, config.keep_every),
            guard=guard,
        )
        self._saver.prepare(pieces(trainer))
        self._saved = trainer.progress.step
        self._last: Outcome | None = None

    def save(self, validated: int | None, loss: float | None) -> None:
        """Save the run as it stands, unless it was saved here. validated, loss: of the last validation."""
        step = self._trainer.progress.step
        if step != self._saved:
            states = {name: each.state() for name, each in self._kept.items()}
            self._saver.save(step, pieces(self._trainer), described(self._trainer, validated, loss, states))
            self._saved = step

    def go_back(self, before: int) -> tuple[RollbackRecord, Mapping[str, Any]]:
        """Make the trainer stand at the newest whole checkpoint of an earlier step, or anew where there is none.

        Later ones no longer count. All processes must call it. Returns what happened, without the spans, and the
        checkpoint's dictionary; {} where there was none.
        """
        self._tell(self._saver.wait())
        trainer, at = self._trainer, self._trainer.progress
        checkpoint, quarantined = newest(trainer.mesh, self._directory, before)
        self._saved = 0 if checkpoint is None else checkpoint.step
        if trainer.mesh.rank == 0:
            abandon_after(self._directory, -1 if checkpoint is None else checkpoint.step)
        if checkpoint is None:
            trainer.begin_again()
        else:
            restore(checkpoint, trainer)
        path = None if checkpoint is None else checkpoint.path
        meta = {} if checkpoint is None else checkpoint.meta
        return RollbackRecord(at.step, at.position, self._saved, path, (), (), quarantined), meta

    def report(self) -> None:
        """Tell of the saves that have ended. One that failed is told and no error: training goes on."""
        self._tell(self._saver.outcomes())

    def finish(self) -> None:
        """Wait for the last save. Raises TokenmillError if it failed: what was trained since is then not safe."""
        self._tell(self._saver.wait())
        if self._last is not None and self._last.error is not None:
            raise TokenmillError(f"the last checkpoint was not saved: {self._last.error}")

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for each in outcomes:
            self._last = each
            record = CheckpointRecord(
                each.step,
                each.path,
                None if each.error is None else str(each.error),
                each.blocked.waited_seconds,
                each.blocked.copied_seconds,
                each.seconds,
                each.raw_bytes,
                each.bytes,
            )
            for callback in self._told:
                callback.on_checkpoint(record)

    def __enter__(self) -> Self:
        self._saver.__enter__()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._saver.__exit__(kind, *rest)
