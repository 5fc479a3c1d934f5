"""Holds the rules, asks them as things happen, and gives what they find to outlets, not too often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainer.monitor.config import AlertsConfig, Kind
from trainer.monitor.learning import DeadExpert, ExpertImbalance, LossSpike, NonFinite, RolledBack, numbers
from trainer.monitor.memory import HighMemory, MemoryRunsOut
from trainer.monitor.outlets import Alert, Outlet
from trainer.monitor.pace import CheckpointFailed, CheckpointLate, InputStall, NoStep, ThroughputDrop
from trainer.monitor.system import SystemRecord, utc
from trainer.monitor.triggers import Change
from trainer.training.records import Callback, CheckpointRecord, RollbackRecord, StepRecord, ValidationRecord

STOPPED = 10.0  # seconds between two ticks after which the whole process was stopped, and not the training alone

# What each process sees of its own; the rest is the same in all, and told by process 0.
LOCAL = {Kind.INPUT_STALL, Kind.HIGH_MEMORY, Kind.MEMORY_RUNS_OUT}


class Limiter:
    """Lets one alert of a kind pass in `interval` seconds. The last of those held back passes when they are over."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._passed: dict[Kind, float] = {}
        self._held: dict[Kind, tuple[Alert, int]] = {}

    def see(self, alert: Alert, now: float) -> Alert | None:
        """The alert, if it may pass."""
        if now - self._passed.get(alert.kind, -self._interval) >= self._interval and alert.kind not in self._held:
            self._passed[alert.kind] = now
            return alert
        self._held[alert.kind] = (alert, self._held.get(alert.kind, (alert, 0))[1] + 1)
        return None

    def due(self, now: float, last: bool = False) -> list[Alert]:
        """Those held back that may pass now; all of them where nothing comes after."""
        ready = [kind for kind in self._held if last or now - self._passed[kind] >= self._interval]
        found = []
        for kind in ready:
            alert, held = self._held.pop(kind)
            self._passed[kind] = now
            found.append(replace(alert, suppressed=held - 1))
        return found


class Alerts(Callback):
    """Callbacks come from the training thread; `sampled` and `tick` from another, every second or so.

    checkpoint_every: steps between two saves; None: none are expected. process: of the mesh. clock: seconds.
    """

    def __init__(
        self,
        config: AlertsConfig,
        outlets: Sequence[Outlet],
        checkpoint_every: int | None = None,
        process: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outlets, self._every, self._process, self._clock = outlets, checkpoint_every, process, clock
        self._told = (LOCAL if process else set(Kind)) - set(config.mute)
        self._lock = threading.Lock()
        self._limiter = Limiter(config.interval)
        self._step = 0
        self._sequences: int | None = None
        self._ticked = clock()
        self._loss, self._finite = LossSpike(config), NonFinite(config)
        self._imbalance, self._dead = ExpertImbalance(config), DeadExpert(config)
        self._throughput, self._input = ThroughputDrop(config), InputStall(config)
        self._no_step = NoStep(config, self._ticked)
        self._back = RolledBack(config)
        self._failed, self._late = CheckpointFailed(config), CheckpointLate(config)
        self._full, self._runs_out = HighMemory(config), MemoryRunsOut(config)
        self._saved = {rule.kind: rule for rule in (self._loss, self._finite, self._imbalance, self._dead)}

    def on_step_end(self, record: StepRecord) -> None:
        """As `Callback`."""
        with self._lock:
            now, seconds = self._clock(), record.input_seconds + record.step_seconds
            # The first step of a shape is traced, which says nothing of the pace.
            traced, self._sequences = record.sequences != self._sequences, record.sequences
            self._step = record.step
            self._no_step.stepped(now, record.step, seconds, traced)
            self._tell(self._loss.see(record.loss))
            self._tell(self._finite.see(numbers(record)))
            self._tell(self._imbalance.see(record.step, record.experts))
            self._tell(self._dead.see(record.step, record.experts))
            if not traced:
                self._tell(self._throughput.see(record.tokens_per_second * seconds, seconds))
                self._tell(self._input.see(record.input_seconds, seconds))
            if self._every and record.step % self._every == 0:
                self._late.due(record.step, now)

    def on_validation(self, record: ValidationRecord) -> None:
        """As `Callback`."""
        with self._lock:
            self._no_step.alive(self._clock())
            self._tell(self._finite.see(numbers(record)))

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        """As `Callback`."""
        with self._lock:
            self._late.done(record.step)
            self._tell(self._back.saved(record))
            self._tell(self._failed.see(record))

    def on_rollback(self, record: RollbackRecord) -> None:
        """As `Callback`."""
        with self._lock:
            self._no_step.alive(self._clock())
            self._late.done(record.step)  # none of a later step than it went back to is to come
            self._step = record.step
            self._tell(self._back.see(record))

    def alive(self) -> None:
        """A sign of life that is no step, such as a batch of validation."""
        with self._lock:
            self._no_step.alive(self._clock())

    def sampled(self, record: SystemRecord) -> None:
        """A look at the machine."""
        with self._lock:
            self._tell(self._full.see(record.used_shares))
            if self._step:  # until then, memory grows as it must
                self._tell(self._runs_out.see(self._clock(), record.memory_own, record.memory_available))

    def tick(self) -> None:
        """Time has passed."""
        with self._lock:
            now = self._clock()
            if now - self._ticked > STOPPED:
                self._no_step.alive(now)
            self._ticked = now
            self._tell(self._no_step.see(now))
            self._tell(self._late.see(now))
            self._put(self._limiter.due(now))

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on with, as JSON without NaN: the same for the same steps."""
        with self._lock:
            return {kind.value: rule.state() for kind, rule in self._saved.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was asked for. Rules it does not know begin anew."""
        with self._lock:
            for kind, rule in self._saved.items():
                if kind.value in state:
                    rule.restore(state[kind.value])

    def close(self, seconds: float = 5.0) -> None:
        """Deliver what waits, for so long at most."""
        with self._lock:
            self._put(self._limiter.due(self._clock(), last=True))
        end = time.monotonic() + seconds
        for outlet in self._outlets:
            outlet.close(max(0.0, end - time.monotonic()))

    def _tell(self, change: Change | None) -> None:
        if change is None or change.kind not in self._told:
            return
        alert = Alert(
            change.kind,
            change.firing,
            self._step,
            utc(),
            self._process,
            change.value,
            change.threshold,
            change.message,
        )
        passed = self._limiter.see(alert, self._clock())
        self._put([passed] if passed else [])

    def _put(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            for outlet in self._outlets:
                outlet.put(alert)
