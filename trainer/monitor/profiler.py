"""TensorFlow's profiler over a few steps, once in the life of a run."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.monitor.config import ProfileConfig
from trainer.training.records import Callback, RollbackRecord, StartRecord, StepRecord


class Profiler(Callback):
    """Traces the steps of `config` in this process, and what is between them, such as a validation.

    The trace is written to `folder`/steps-FROM-TO when the last of them ends, the process stops or the run goes back.
    Once it is there these steps are not traced again, whatever the run goes on from.
    """

    def __init__(self, config: ProfileConfig, folder: Path) -> None:
        self._first, self._last = config.from_step, config.from_step + config.steps - 1
        self.folder = folder / f"steps-{self._first}-{self._last}"
        self._tracing = False

    def on_start(self, record: StartRecord) -> None:
        """As `Callback`."""
        self._after(record.step)

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        self._after(record.step)

    def on_rollback(self, record: RollbackRecord) -> None:
        """As `Callback`."""
        self.close()
        self._after(record.to_step)

    def close(self) -> None:
        """Write what was traced, if anything is."""
        if self._tracing:
            self._tracing = False
            tf.profiler.experimental.stop()

    def _after(self, step: int) -> None:
        """Start before the first of the steps, or amidst them where the run begins there; stop after the last."""
        wanted = self._first <= step + 1 <= self._last
        if wanted and not self._tracing and not any(self.folder.rglob("*.xplane.pb")):
            self._tracing = True
            tf.profiler.experimental.start(str(self.folder))
        elif not wanted:
            self.close()
