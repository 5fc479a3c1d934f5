"""What is measured, and when an alert is raised: typed, with defaults."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from trainer.config import Strict


class Kind(StrEnum):
    """What an alert is about (docs/monitoring.md has the rule of each)."""

    LOSS_SPIKE = "LOSS_SPIKE"
    NON_FINITE = "NON_FINITE"
    EXPERT_IMBALANCE = "EXPERT_IMBALANCE"
    DEAD_EXPERT = "DEAD_EXPERT"
    THROUGHPUT_DROP = "THROUGHPUT_DROP"
    INPUT_STALL = "INPUT_STALL"
    NO_STEP = "NO_STEP"
    HIGH_MEMORY = "HIGH_MEMORY"
    MEMORY_RUNS_OUT = "MEMORY_RUNS_OUT"
    ROLLED_BACK = "ROLLED_BACK"
    CHECKPOINT_FAILED = "CHECKPOINT_FAILED"
    CHECKPOINT_LATE = "CHECKPOINT_LATE"


class AlertsConfig(Strict):
    """Thresholds of alerts. An alert ends when its value is back at `hysteresis` times its threshold.

    loss_spike: loss by the least of the last `loss_window` losses.
    expert_imbalance: CV of a layer's tokens by expert, in `expert_steps` steps in a row; dead experts likewise. Neither
        is judged in the first `expert_warmup` steps of a run, in which the router finds its balance.
    throughput_drop: share of the usual tokens a second that is lost, over the last `recent` seconds.
    input_stall: share of the last `recent` seconds of steps that training waited for input.
    recent: seconds over which speed is judged, or the last step where that is longer.
    no_step: seconds without a step or other sign of life; with long steps, no_step_times the median step instead.
    first_step: seconds, the same until the first step, which is traced.
    high_memory: used share of the machine's, the control group's or a device's memory.
    memory_left: seconds; memory that will run out sooner at the rate at which this process grew in the last minute.
    checkpoint_late: seconds between the step that is saved and the word that it is.
    interval: seconds between two messages of one kind, at least. What changes meanwhile is told after them.
    mute: kinds that are not told.
    webhook: name of the environment variable that holds the URL to which alerts are POSTed; None: no webhook. The URL
        itself, which is often a secret, stands in no file.
    """

    hysteresis: float = Field(default=0.9, gt=0, le=1)
    loss_spike: float = Field(default=2.0, gt=1)
    loss_window: int = Field(default=10, ge=1)
    expert_imbalance: float = Field(default=0.3, gt=0)
    expert_steps: int = Field(default=3, ge=1)
    expert_warmup: int = Field(default=300, ge=0)
    throughput_drop: float = Field(default=0.5, gt=0, lt=1)
    input_stall: float = Field(default=0.5, gt=0, lt=1)
    recent: float = Field(default=30.0, gt=0)
    no_step: float = Field(default=45.0, gt=0)
    no_step_times: float = Field(default=5.0, ge=1)
    first_step: float = Field(default=900.0, gt=0)
    high_memory: float = Field(default=0.95, gt=0, le=1)
    memory_left: float = Field(default=1800.0, gt=0)
    checkpoint_late: float = Field(default=600.0, gt=0)
    interval: float = Field(default=30.0, ge=0)
    mute: tuple[Kind, ...] = ()
    webhook: str | None = None

    @model_validator(mode="after")
    def _names_a_variable(self) -> Self:
        # Here, because an error of the key itself would show its value, which may be the secret.
        if self.webhook is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.webhook):
            raise ValueError("webhook is the name of an environment variable that holds the URL, not the URL")
        return self


class ProfileConfig(Strict):
    """Which steps TensorFlow's profiler traces in process 0: `steps` of them, the first being step `from_step`.

    Not the first step of a process, in which TensorFlow makes its graph.
    """

    from_step: int = Field(ge=1)
    steps: int = Field(default=3, ge=1)


class MonitorConfig(Strict):
    """What is measured beside each step.

    every: steps between two records of performance, norms among them.
    system: seconds between two records of the machine and its devices.
    peak_flops: of one device, FLOP/s in the precision trained with; None: model FLOPs utilisation is left out.
    profile: None: nothing is profiled.
    """

    every: int = Field(default=10, ge=1)
    system: float = Field(default=10.0, gt=0)
    peak_flops: float | None = Field(default=None, gt=0)
    profile: ProfileConfig | None = None
    alerts: AlertsConfig = AlertsConfig()
