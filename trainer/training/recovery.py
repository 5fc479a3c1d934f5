"""What a run does about bad steps: it leaves their update out, and goes back when several come in a row.

A step is bad whose loss or gradient is not finite, or is further above the last steps than chance explains: more than
`sigmas` standard deviations above their mean (the rule of OLMo-core's `SkipStepOptimizer`). What is not finite never
enters the window, and what is too large enters it as the limit it was above: one wild step does not hide the next, and
a norm that stays higher becomes usual. A deviation is taken to be a share of the mean (`_LEAST_…`) at least: in a flat
window, such as that of the norms of a first warmup, six deviations are nothing.

The first time, the run goes back to the newest checkpoint before the bad steps and makes the same steps again without
the records that were left out: right where memory was damaged. Where it ends in bad steps again, what led there is at
fault, so all records from the checkpoint to here are stepped over (as PaLM did, arXiv 2204.02311, section 5.1); after
that from older and older checkpoints.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from schemas.errors import TokenmillError
from trainer.config import Strict
from trainer.training.records import StepRecord

_LEAST_OF_LOSS, _LEAST_OF_NORM = 0.02, 0.5  # gradients of small batches vary much more than losses, and are clipped

Span = tuple[int, int]
"""Positions in the order, from the first to the one after the last."""


class RecoveryConfig(Strict):
    """Steps whose loss or gradient is bad (docs/recovery.md).

    sigmas: standard deviations above the mean of the last steps at which a loss or a gradient norm is bad.
    window: so many last steps are looked at. Before there are half of them, only what is not finite is bad.
    skips: so many bad steps in a row make the run go back.
    rollbacks: it does so at most so many times without a window of good steps between.
    """

    sigmas: float = Field(default=6.0, gt=0)
    window: int = Field(default=128, ge=8)
    skips: int = Field(default=3, ge=1)
    rollbacks: int = Field(default=3, ge=0)


class Recovery:
    """Judges steps by those before them. The same in all processes of a mesh: they see the same numbers.

    skipped: spans of the bad steps since the last good one.
    """

    def __init__(self, config: RecoveryConfig) -> None:
        self._config = config
        self._losses = deque[float](maxlen=config.window)
        self._norms = deque[float](maxlen=config.window)
        self.skipped: list[Span] = []
        self._rollbacks = 0  # without a window of good steps between
        self._target = -1  # step that the last of them went to
        self._good = 0  # steps since

    def limits(self) -> tuple[float, float]:
        """The largest loss and gradient norm with which the next step is good."""
        return self._limit(self._losses, _LEAST_OF_LOSS), self._limit(self._norms, _LEAST_OF_NORM)

    def see(self, record: StepRecord) -> bool:
        """Take in a step that was made; whether the run must go back."""
        max_loss, max_norm = self.limits()
        if math.isfinite(record.total) and math.isfinite(record.norm):
            self._losses.append(min(record.total, max_loss))
            self._norms.append(min(record.norm, max_norm))
        if not record.applied:
            self.skipped.append((record.position - record.sequences, record.position))
            return len(self.skipped) >= self._config.skips
        self.skipped.clear()
        self._good += 1
        if self._good >= self._config.window:
            self._rollbacks = 0
        return False

    def before(self, step: int) -> int:
        """Only a checkpoint of an earlier step than this is to be gone back to. step: the last one made, a bad one.

        Raises:
            TokenmillError: the run went back `rollbacks` times and always ended in bad steps.
        """
        if self._rollbacks >= self._config.rollbacks:
            raise TokenmillError(
                f"training does not recover: {len(self.skipped)} steps in a row were bad at step {step}, after "
                f"{self._rollbacks} rollbacks; metrics.jsonl has them. Begin another run with a lower learning rate, "
                f"or give recovery.rollbacks a larger number to go on"
            )
        if not self._rollbacks:
            return step - len(self.skipped) + 1
        return self._target + 1 if self._rollbacks == 1 else self._target

    def gone_back(self, target: int, position: int, saved: Mapping[str, Any]) -> tuple[Span, ...]:
        """The run stands at the checkpoint of step `target` again; returns the spans to step over from there.

        position: of that checkpoint. saved: what `state` was then.
        """
        over = tuple(self.skipped) if not self._rollbacks else ((position, self.skipped[-1][1]),)
        self._rollbacks += 1
        self._target, self._good = target, 0
        self.skipped.clear()
        self._restore_windows(saved)
        return over

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "skipped": [list(span) for span in self.skipped],
            "rollbacks": self._rollbacks,
            "target": self._target,
            "good": self._good,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state; {}: anew."""
        self._restore_windows(saved)
        self.skipped = [(begin, end) for begin, end in saved.get("skipped", [])]
        self._rollbacks, self._target = saved.get("rollbacks", 0), saved.get("target", -1)
        self._good = saved.get("good", 0)

    def _restore_windows(self, saved: Mapping[str, Any]) -> None:
        for window, name in ((self._losses, "losses"), (self._norms, "norms")):
            window.clear()
            window.extend(saved.get(name, []))

    def _limit(self, values: Sequence[float], least: float) -> float:
        if len(values) < self._config.window // 2:
            return math.inf
        mean = float(np.mean(values))
        return mean + self._config.sigmas * max(float(np.std(values)), least * mean)


def next_position(position: int, sequences: int, over: Sequence[Span]) -> int:
    """The first position, from this one on, at which a batch of `sequences` records touches none of the spans."""
    for begin, end in sorted(over):
        if position < end and begin < position + sequences:
            position = end
    return position
