"""metrics.jsonl: one JSON object a line, of what a run has done. A run that goes on cuts off what it will do again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class Journal(Callback):
    """Appends every record to the file, at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def on_start(self, record: StartRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_rollback(self, record: RollbackRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_stage_end(self, record: StageRecord) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def on_monitor(self, record: Measured) -> None:
        """As `Callback`."""
        self._write(record.as_json())

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def cut(path: Path, step: int, validated: int | None) -> int:
    """Leave only what was recorded up to a step, its validation if it is the `validated` one; how many steps went.

    Where the run went back to an earlier step and made steps again, these are the step meant. A last line that a kill
    cut short goes, too. Atomic: a kill meanwhile leaves the old file or the new one.
    """
    if not path.exists():
        return 0
    here = max(
        (n for n, (_, each) in enumerate(_lines(path)) if each["kind"] == "step" and each["step"] <= step), default=-1
    )
    removed = 0
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        for number, (line, content) in enumerate(_lines(path)):
            before = number <= here or content["step"] < step
            if before or (content["step"] == step and (content["kind"] != "validation" or validated == step)):
                file.write(line)
            elif content["kind"] == "step":
                removed += 1
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return removed


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # the last, cut short
            yield line, json.loads(line)
