"""What the steps since the last record made of the time, and how large weights and updates are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.mesh import Mesh
from trainer.optimizer import AdamW, squared_norm
from trainer.training.records import StepRecord


@dataclass(frozen=True)
class PerformanceRecord:
    """Of the steps since the record before, up to `step`.

    seconds: of wall time. split: shares of it, which add up to 1: input (waiting for it), training (steps), validation,
    checkpoint (training waiting for one), other. mfu: model FLOPs of the tokens by what the devices could do in the
    time of input and steps; None without `peak_flops`. productive: of the wall time since the run was first started,
    stops and lost steps included, the share in steps that are kept. parameter_norm: Euclidean, of all weights;
    update_norm: of what the last step added to them.
    """

    step: int
    time: str
    position: int
    seconds: float
    split: Mapping[str, float]
    tokens_per_second: float
    mfu: float | None
    productive: float
    parameters: int
    parameter_bytes: int
    parameter_norm: float
    update_norm: float

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "performance", **asdict(self)}


class Clock:
    """Adds up what the wall time went into, since the last record and since the run was first started."""

    def __init__(self) -> None:
        self._began = time.time()  # a date: it goes on while no process runs
        self._productive = 0.0
        self._since = time.perf_counter()
        self._spent = {"input": 0.0, "training": 0.0, "validation": 0.0, "checkpoint": 0.0}
        self._tokens = 0

    def step(self, record: StepRecord, tokens: int, traced: bool) -> None:
        """A step over so many tokens. A step that was traced, or whose update was left out, is not productive."""
        self.spent("input", record.input_seconds)
        self.spent("training", record.step_seconds)
        self._tokens += tokens
        if record.applied and not traced:
            self._productive += record.step_seconds

    def spent(self, on: str, seconds: float) -> None:
        """Time of the training thread that was no step."""
        self._spent[on] += seconds

    @property
    def productive(self) -> float:
        """Share of the wall time since the run was first started."""
        return self._productive / max(time.time() - self._began, self._productive, 1e-9)

    def lap(self) -> tuple[float, dict[str, float], float, float]:
        """Since the last call: seconds, their split, tokens a second of them, and of input and steps alone."""
        now = time.perf_counter()
        seconds, spent, tokens = now - self._since, self._spent, self._tokens
        self._since, self._spent, self._tokens = now, dict.fromkeys(spent, 0.0), 0
        # Parts are measured apart, so rounding could make them more than the whole.
        whole = max(seconds, sum(spent.values()), 1e-9)
        split = {name: part / whole for name, part in spent.items()}
        split["other"] = max(0.0, 1 - sum(split.values()))
        return seconds, split, tokens / whole, tokens / max(spent["input"] + spent["training"], 1e-9)

    def state(self) -> dict[str, float]:
        """As JSON: what a resumed run goes on with. Steps after it count as lost."""
        return {"began": self._began, "productive_seconds": self._productive}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from where `state` was asked for; the time since then counts as lost."""
        self._began, self._productive = state["began"], state["productive_seconds"]


class Norms:
    """Euclidean norms of all weights and of the last update, from the optimizer's state after a step.

    The update is computed again from weights and moments, so no copy of the weights is kept for it: with
    u = m̂ / (sqrt(v̂) + eps), the step was p = (1 - r decay) q - r u (`trainer.optimizer`), so q - p, of which only the
    norm is asked, is r (u + decay (p + r u) / (1 - r decay)). Moments rounded to bfloat16 change it by less
    than 0.1 %. One pass over weights and moments: 0.08 s for 34 million weights on 2 cores, where AdamW takes 0.06 s
    (0.21 s with bfloat16 moments).
    """

    def __init__(self, optimizer: AdamW, mesh: Mesh) -> None:
        self._optimizer, self._mesh = optimizer, mesh
        self._compute = tf.function(self._graph, autograph=False)

    def __call__(self, learning_rate: float) -> tuple[float, float]:
        """(of weights, of the update), of the whole model, after a step at this rate. All processes must call it."""
        rate = tf.constant(learning_rate, tf.float32)
        if self._mesh.processes > 1:
            self._compute.get_concrete_function(rate)  # traced before others are waited for
        with self._mesh.watched("norms of the weights"):
            weights, update = self._compute(rate)
        return float(weights), float(update)

    def _graph(self, rate: Any) -> tuple[Any, Any]:
        optimizer, config = self._optimizer, self._optimizer.config
        time_ = tf.cast(tf.maximum(optimizer.step, 1), tf.float64)
        power1, power2 = (
            tf.cast(tf.pow(tf.constant(b, tf.float64), time_), tf.float32) for b in (config.beta1, config.beta2)
        )
        weights, updates = [], []
        for p, m, v in zip(optimizer.parameters.values(), optimizer.m, optimizer.v, strict=True):
            direction = tf.cast(m, tf.float32) / (1.0 - power1)
            direction /= tf.sqrt(tf.cast(v, tf.float32) / (1.0 - power2)) + config.eps
            decay = config.decay if len(p.shape) > 1 else 0.0
            weights.append(squared_norm([p]))
            updates.append(squared_norm([rate * (direction + decay * (p + rate * direction) / (1.0 - rate * decay))]))
        total = self._mesh.all.total((tf.add_n(weights), tf.add_n(updates)))
        return tf.sqrt(total[0]), tf.sqrt(total[1])
