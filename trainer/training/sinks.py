"""Where records go to be looked at: TensorBoard's event files, and the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.training.config import Stop
from trainer.training.records import (
    Callback,
    CheckpointRecord,
    Measured,
    RollbackRecord,
    StageRecord,
    StartRecord,
    StepRecord,
    ValidationRecord,
)


class TensorBoard(Callback):
    """Event files: every number of a record as a scalar, named by its place in the record."""

    # As TensorBoard's own scalar summaries have it: a scalar is data of the plugin `scalars`.
    _METADATA = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
    )

    def __init__(self, folder: Path, step: int) -> None:
        """step: of the checkpoint the run goes on from; what is there of later steps is no longer shown."""
        self._folder = folder
        self._open(step)

    def _open(self, step: int) -> None:
        _hide_after(self._folder, step)
        self._writer = tf.summary.create_file_writer(str(self._folder), flush_millis=10_000)

    def on_rollback(self, record: RollbackRecord) -> None:
        """As `Callback`."""
        self._writer.close()
        self._open(record.to_step)

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        self._write("train", record.step, record.as_json())

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        self._write("validation", record.step, record.as_json())

    def on_monitor(self, record: Measured) -> None:
        """As `Callback`."""
        content = record.as_json()
        self._write(content["kind"], record.step, content)

    def _write(self, prefix: str, step: int, content: dict[str, Any]) -> None:
        with self._writer.as_default():
            for name, value in scalars(prefix, content):
                tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=self._METADATA)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _hide_after(folder: Path, step: int) -> None:
    """Say in an event file of its own that a session starts: TensorBoard drops what came before of those steps."""
    if not folder.exists():
        return
    now = time.time() - 1.0  # so that its name comes before that of the file which is opened next
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    # Named as TensorFlow names its own, which are read in this order.
    with tf.io.TFRecordWriter(str(folder / f"events.out.tfevents.{int(now)}.start.{step}")) as file:
        file.write(tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        file.write(
            tf.compat.v1.Event(wall_time=now, step=step + 1 if step else 0, session_log=start).SerializeToString()
        )


def scalars(name: str, content: Any) -> Iterator[tuple[str, float]]:
    """Every number in nested JSON values with the path to it, parts joined by /. Steps, texts, nulls are left out."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key != "step":
                yield from scalars(f"{name}/{key}", value)
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from scalars(f"{name}/{index}", value)
    elif isinstance(content, int | float):
        yield name, float(content)


class Terminal(Callback):
    """Progress on stderr: a bar on a terminal; and a line every `every` steps, every skipped step and validation."""

    def __init__(self, stop: Stop, every: int) -> None:
        self._stop, self._every = stop, every
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn() if stop.steps else TextColumn("{task.percentage:3.1f} % of tokens"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("training", total=stop.steps or stop.tokens)
            self._bar.start()

    def say(self, sentence: str) -> None:
        """One line."""
        self._console.print(sentence, markup=False)

    def on_start(self, record: StartRecord) -> None:
        """As `Callback`."""
        for step, reason in record.quarantined:
            self.say(f"WARNING: the checkpoint of step {step} is damaged and was put aside: {reason}")
        if record.checkpoint is not None:
            how = f"going on from step {record.step}" if record.step else "beginning with the state of"
            self.say(f"{how}: {record.checkpoint}")
        for change in record.changed:
            self.say(f"WARNING: {change}; results may differ in the last bits from those of a run without a stop")

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        """As `Callback`."""
        if record.error is not None:
            self.say(f"WARNING: the checkpoint of step {record.step} was not saved: {record.error}")
            return
        blocked = record.waited_seconds + record.copied_seconds
        self.say(
            f"step {record.step}  checkpoint of {record.bytes / 1e6:,.1f} MB written in {record.seconds:.1f} s; "
            f"training waited {blocked:.2f} s"
        )

    def on_rollback(self, record: RollbackRecord) -> None:
        """As `Callback`."""
        for step, reason in record.quarantined:
            self.say(f"WARNING: the checkpoint of step {step} is damaged and was put aside: {reason}")
        spans = ", ".join(f"{begin:,} to {end:,}" for begin, end in record.over)
        self.say(
            f"step {record.step}: {len(record.bad)} bad steps in a row; back to step {record.to_step} "
            f"({record.checkpoint or 'the beginning'}), from there without positions {spans} of the view"
        )

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        if self._bar:
            self._bar.update(self._task, completed=self._at(record.step, record.tokens))
        if not record.applied:
            self.say(f"step {record.step}: update left out: loss {record.loss:.4g}, gradient norm {record.norm:.4g}")
        if record.step % self._every == 0:
            of = f" of {self._stop.steps}" if self._stop.steps else ""
            self.say(
                f"step {record.step}{of}  loss {record.loss:.4f} ({_by_component(record.components)})  "
                f"lr {record.learning_rate:.2e}  norm {record.norm:.2f}  {record.tokens_per_second:,.0f} tokens/s"
            )

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        self.say(f"step {record.step}  validation loss {record.loss:.4f} ({_by_component(record.components)})")

    def on_stage_end(self, record: StageRecord) -> None:
        """As `Callback`."""
        self.say(f"done: {record.step} steps over {record.tokens:,} tokens in sequences of {record.length:,}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def _at(self, step: int, tokens: int) -> int:
        return step if self._stop.steps else tokens


def _by_component(losses: Any) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
