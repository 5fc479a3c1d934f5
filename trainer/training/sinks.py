"""Where records go: a file of JSON lines, TensorBoard's event files, and the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.training.config import Stop
from trainer.training.records import Callback, StepRecord, ValidationRecord


class JsonLines(Callback):
    """metrics.jsonl: every step and validation, one JSON object a line, written at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard(Callback):
    """Event files: every number of a record as a scalar, named by its place in the record."""

    # As TensorBoard's own scalar summaries have it: a scalar is data of the plugin `scalars`.
    _METADATA = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
    )

    def __init__(self, folder: Path) -> None:
        self._writer = tf.summary.create_file_writer(str(folder), flush_millis=10_000)

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        self._write("train", record.step, record.as_json())

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        self._write("validation", record.step, record.as_json())

    def _write(self, prefix: str, step: int, content: dict[str, Any]) -> None:
        with self._writer.as_default():
            for name, value in scalars(prefix, content):
                tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=self._METADATA)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


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

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def _at(self, step: int, tokens: int) -> int:
        return step if self._stop.steps else tokens


def _by_component(losses: Any) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
