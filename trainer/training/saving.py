"""When a run is saved, from what it goes on, and who is told of both."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Self

from schemas.errors import TokenmillError
from trainer.checkpoint import Checkpoint, Found, Outcome, Retention, Saver, newest_good, open_step
from trainer.mesh import Mesh
from trainer.monitor.monitor import Monitor
from trainer.training.environment import differences, environment
from trainer.training.records import Callback, CheckpointRecord, StartRecord
from trainer.training.state import described, pieces, restore
from trainer.training.trainer import Trainer


def go_on(trainer: Trainer, directory: str) -> tuple[StartRecord, int | None, dict[str, Any] | None]:
    """Make `trainer` stand at the newest checkpoint that is whole, if there is one. All processes must call it.

    Returns what process 0 tells of it, the step of the last validation before, and the monitor's state.

    Raises:
        Refused: the checkpoint is of another run or view.
    """
    checkpoint, quarantined = _newest(trainer.mesh, directory)
    here = environment()
    if checkpoint is None:
        return StartRecord(0, None, quarantined, (), here), None, None
    restore(checkpoint, trainer)
    meta = checkpoint.meta
    changed = differences(meta["environment"], here)
    start = StartRecord(checkpoint.step, checkpoint.path, quarantined, changed, here)
    return start, meta["validated"], meta.get("monitor")


def _newest(mesh: Mesh, directory: str) -> tuple[Checkpoint | None, tuple[tuple[int, str], ...]]:
    """Process 0 looks, and puts damaged ones aside; the others open what it found."""
    found = newest_good(directory) if mesh.rank == 0 else Found(None)
    step = mesh.from_first(-1 if found.checkpoint is None else found.checkpoint.step)
    if mesh.rank and step >= 0:
        return open_step(directory, step), ()
    return found.checkpoint, tuple((each.step, each.reason) for each in found.quarantined)


class Checkpoints:
    """Saves a run. All processes make one before their first step, and save at the same steps.

    told: whom to tell what became of each save. monitor: whose state is saved, too; None: nobody's. As a context it
    waits for the last one.
    """

    def __init__(
        self, trainer: Trainer, directory: str, told: Sequence[Callback], monitor: Monitor | None = None
    ) -> None:
        self._trainer, self._told, self._monitor = trainer, told, monitor
        mesh, config = trainer.mesh, trainer.config.checkpoints
        self._saver = Saver(
            directory,
            process=mesh.rank,
            processes=mesh.processes,
            run=f"{mesh.from_first(secrets.randbits(52)):013x}",
            keep=Retention(config.keep, config.keep_every),
        )
        self._saver.prepare(pieces(trainer))
        self._saved = trainer.progress.step
        self._last: Outcome | None = None

    def save(self, validated: int | None, loss: float | None) -> None:
        """Save the run as it stands, unless it was saved here. validated, loss: of the last validation."""
        step = self._trainer.progress.step
        if step != self._saved:
            monitor = self._monitor.state() if self._monitor else None
            self._saver.save(step, pieces(self._trainer), described(self._trainer, validated, loss, monitor))
            self._saved = step

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
