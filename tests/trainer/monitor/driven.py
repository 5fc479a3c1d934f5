"""A real trainer on a real view, driven as the loop drives it, with a monitor that is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loader import Shards
from tests.trainer.training.configs import content
from trainer.monitor.config import MonitorConfig
from trainer.monitor.monitor import Monitor, Record
from trainer.training.config import RunConfig, model_config
from trainer.training.records import StepRecord
from trainer.training.trainer import Trainer


def trainer_on(view: Path, output: Path, **changes: Any) -> Trainer:
    """A small one."""
    config = RunConfig.model_validate(content(view, output, **changes))
    shards = Shards(config.data)
    return Trainer(config, shards, model_config(config, shards))


class Driven:
    """A trainer, and a monitor with its own output folder."""

    def __init__(self, trainer: Trainer, config: MonitorConfig, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.trainer, self.output = trainer, output
        self.records: list[Record] = []
        self.said: list[str] = []
        self.monitor = Monitor(config, trainer, output, self.records.append, self.said.append)

    def step(self) -> StepRecord:
        record = self.trainer.step()
        self.monitor.on_step_end(record)
        return record

    def steps(self, count: int) -> list[StepRecord]:
        return [self.step() for _ in range(count)]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        file = self.output / "alerts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def states(self, kind: str) -> list[str]:
        return [alert["state"] for alert in self.alerts if alert["kind"] == kind]

    def until(self, *kinds: str, state: str = "firing", meanwhile: Callable[[], Any] | None = None) -> float:
        """Seconds until the file has the last state of all kinds; a minute at most. meanwhile: what goes on."""
        begun = time.monotonic()
        while any(self.states(kind)[-1:] != [state] for kind in kinds):
            assert time.monotonic() - begun < 60, f"{kinds}: there are {self.alerts}"
            if meanwhile:
                meanwhile()
            else:
                time.sleep(0.05)
        return time.monotonic() - begun


def slowed(batches: Iterator[Any], seconds: float, count: int) -> Iterator[Any]:
    """The same batches, `count` of them with a pause before each."""
    for number, batch in enumerate(batches):
        if number < count:
            time.sleep(seconds)
        yield batch
