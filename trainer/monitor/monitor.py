"""The monitor of a run: a callback that measures, writes records and raises alerts, with a thread beside training."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from trainer.monitor.alerts import Alerts
from trainer.monitor.config import AlertsConfig, MonitorConfig
from trainer.monitor.outlets import Outlet, to_file, to_webhook, url_in
from trainer.monitor.performance import Clock, Norms, PerformanceRecord
from trainer.monitor.system import System, SystemRecord, utc
from trainer.plan.parameters import flops_per_token, parameters
from trainer.training.records import Callback, CheckpointRecord, RollbackRecord, StepRecord, ValidationRecord
from trainer.training.trainer import Trainer

ALERTS = "alerts.jsonl"
TICK = 1.0  # seconds between two looks at machine and clock
WAITING = 1000  # records of the machine that wait for a step, at most

Record = PerformanceRecord | SystemRecord


class Monitor(Callback):
    """To be told, in every process of a mesh, of what `Callback` has. As a context it watches until it is left.

    Process 0 writes records and sees all alerts; the others see their own memory and input.

    output: the run's folder, for alerts.jsonl; other processes have a file each, such as alerts-00001.jsonl.
    write: takes a record, in the training thread. say: takes a line, in threads of the monitor's own.

    Raises:
        Refused: the variable that config.alerts.webhook names holds no URL.
    """

    def __init__(
        self,
        config: MonitorConfig,
        trainer: Trainer,
        output: Path,
        write: Callable[[Record], None],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._trainer, self._write, self._say = config, trainer, write, say
        self._rank = trainer.mesh.rank
        outlets = _outlets(config.alerts, output, self._rank, say)
        self.alerts = Alerts(config.alerts, outlets, trainer.config.checkpoints.every, self._rank)
        self._clock = Clock()
        self._norms = Norms(trainer.optimizer, trainer.mesh)
        self._weights = parameters(trainer.model.config).total
        self._flops = flops_per_token(trainer.model.config, trainer.shards.sequence_length)
        self._system = System()
        self._step = trainer.progress.step
        self._sequences: int | None = None
        self._records: deque[SystemRecord] = deque(maxlen=WAITING)
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`. All processes of a mesh call it: the norms are of the whole model."""
        traced, self._sequences = record.sequences != self._sequences, record.sequences
        self._step = record.step
        self._clock.step(record, record.sequences * self._trainer.shards.sequence_length, traced)
        self._safely(lambda: self.alerts.on_step_end(record))
        norms = self._norms(record.learning_rate) if record.step % self._config.every == 0 else None
        self._hand_over()
        if norms is not None and not self._rank:
            self._write(self._performance(record, *norms))

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        self._clock.spent("validation", record.seconds)
        self._safely(lambda: self.alerts.on_validation(record))

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        """As `Callback`."""
        self._clock.spent("checkpoint", record.waited_seconds + record.copied_seconds)
        self._safely(lambda: self.alerts.on_checkpoint(record))

    def on_rollback(self, record: RollbackRecord) -> None:
        """As `Callback`."""
        self._safely(lambda: self.alerts.on_rollback(record))

    def alive(self) -> None:
        """A sign of life that is no step, such as a batch of validation."""
        self.alerts.alive()

    def state(self) -> dict[str, Any]:
        """For a checkpoint: JSON without NaN. `clock` holds times, `alerts` is the same for the same steps."""
        return {"alerts": self.alerts.state(), "clock": self._clock.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.alerts.restore(state["alerts"])
        self._clock.restore(state["clock"])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * TICK)
        self.alerts.close()
        self._hand_over()

    def _hand_over(self) -> None:
        """Write what the other thread has recorded, in this one."""
        while self._records and not self._rank:
            self._write(self._records.popleft())

    def _performance(self, record: StepRecord, parameter_norm: float, update_norm: float) -> PerformanceRecord:
        seconds, split, wall_rate, rate = self._clock.lap()
        peak = self._config.peak_flops
        return PerformanceRecord(
            record.step,
            utc(),
            record.position,
            seconds,
            split,
            wall_rate,
            None if peak is None else self._flops * rate / (peak * self._trainer.mesh.processes),
            self._clock.productive,
            self._weights,
            4 * self._weights,  # master weights are float32
            parameter_norm,
            update_norm if record.applied else 0.0,
        )

    def _watch(self) -> None:
        """What must be seen when no step comes."""
        since = 0.0
        while not self._stop.wait(TICK):
            since += TICK
            keep = since >= self._config.system
            since = 0.0 if keep else since
            self._safely(partial(self._look, keep))

    def _look(self, keep: bool) -> None:
        sample = self._system.sample(self._step)
        if keep:
            self._records.append(sample)
        self.alerts.sampled(sample)
        self.alerts.tick()

    def _safely(self, work: Callable[[], None]) -> None:
        """A fault of the monitor's is said once, and does not end the run."""
        try:
            work()
        except Exception as error:  # of whatever kind
            if not self._failed:
                self._failed = True
                self._say(f"WARNING: the monitor failed and may miss alerts: {type(error).__name__}: {error}")


def _outlets(config: AlertsConfig, output: Path, rank: int, say: Callable[[str], None]) -> list[Outlet]:
    """Terminal, file, and webhook if there is one. Raises Refused."""
    url = None if config.webhook is None else url_in(config.webhook)
    file = output / (f"alerts-{rank:05d}.jsonl" if rank else ALERTS)
    found = [
        Outlet("the terminal", lambda alert: say(f"ALERT {alert.text}"), lambda _: None),  # which could not show it
        Outlet(str(file), to_file(file), say),
    ]
    if url is not None:
        found.append(Outlet("the webhook", to_webhook(url, str(output)), say))
    return found
