"""Rules about what is learned: loss, numbers that are not finite, the use of experts.

Their state depends on the steps alone, so a resumed run goes on with it and judges as one that was not stopped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.monitor.config import AlertsConfig, Kind
from trainer.monitor.triggers import Change, Rule
from trainer.training.records import CheckpointRecord, RollbackRecord, StepRecord, Utilisation, ValidationRecord

CALM = 3  # steps without the cause after which an alert ends


class LossSpike(Rule):
    """The loss is more than `loss_spike` times the least of the last `loss_window` finite losses."""

    kind = Kind.LOSS_SPIKE

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(config.loss_spike, config.hysteresis, calm=CALM)
        self._losses: deque[float] = deque(maxlen=config.loss_window)

    def see(self, loss: float) -> Change | None:
        """A step's loss."""
        if not math.isfinite(loss):  # NON_FINITE tells
            return None
        least = min(self._losses, default=loss)
        self._losses.append(loss)
        if least <= 0:
            return None
        times = f"loss {loss:.4g} is {loss / least:.2f} times the least of the last {self._losses.maxlen}, {least:.4g}"
        return self.judge(loss / least, times, times)

    def state(self) -> Any:
        """As `Rule`."""
        return {"trigger": self.trigger.state(), "losses": list(self._losses)}

    def restore(self, state: Any) -> None:
        """As `Rule`."""
        self.trigger.restore(state["trigger"])
        self._losses.clear()
        self._losses.extend(state["losses"])


class NonFinite(Rule):
    """A loss, or the gradients' norm, is NaN or infinite."""

    kind = Kind.NON_FINITE

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(0.0, config.hysteresis, calm=CALM)

    def see(self, numbers: Mapping[str, float | None]) -> Change | None:
        """What is known of a step or a validation, by name. None: there is no such number."""
        bad = [f"{name} {value}" for name, value in numbers.items() if value is not None and not math.isfinite(value)]
        return self.judge(float(len(bad)), ", ".join(bad), f"all numbers were finite {CALM} times in a row")


class RolledBack(Rule):
    """The run went back after bad steps, and nothing was saved since."""

    kind = Kind.ROLLED_BACK

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(0.0, config.hysteresis)

    def see(self, record: RollbackRecord) -> Change | None:
        """The run went back."""
        message = f"{len(record.bad)} bad steps in a row; the run went back to step {record.to_step}"
        return self.judge(float(len(record.bad)), message, message)

    def saved(self, record: CheckpointRecord) -> Change | None:
        """What became of a save."""
        if record.error is not None:
            return None
        message = f"the run has come to the checkpoint of step {record.step} since"
        return self.judge(0.0, message, message)


def numbers(record: StepRecord | ValidationRecord) -> dict[str, float | None]:
    """What must be finite of a record."""
    by_component = {f"loss of {name}": value for name, value in record.components.items()}
    if isinstance(record, ValidationRecord):
        return {"validation loss": record.loss, **{f"validation {name}": value for name, value in by_component.items()}}
    return {
        "loss": record.loss,
        "total": record.total,
        "mtp": record.mtp,
        "balance": record.balance,
        "gradient norm": record.norm,
        **by_component,
    }


class _Layers(Rule):
    """A number of some layer was above the threshold in each of the last `expert_steps` steps, after the warmup."""

    def __init__(self, config: AlertsConfig, on: float) -> None:
        super().__init__(on, config.hysteresis, calm=CALM)
        self._warmup = config.expert_warmup
        self._last: deque[list[float]] = deque(maxlen=config.expert_steps)

    def _see(self, step: int, values: list[float], name: str) -> Change | None:
        if step <= self._warmup or not values:
            return None
        self._last.append(values)
        if len(self._last) < (self._last.maxlen or 0):
            return None
        lowest = [min(layer) for layer in zip(*self._last, strict=True)]
        value = max(lowest)
        layers = ", ".join(str(i) for i, low in enumerate(lowest) if low > self.trigger.on)
        return self.judge(
            value,
            f"{name} of layers with experts {layers}: {value:.3g} or more for {len(self._last)} steps",
            f"{name} is {value:.3g} in the layer where it is largest",
        )

    def state(self) -> Any:
        """As `Rule`."""
        return {"trigger": self.trigger.state(), "last": list(self._last)}

    def restore(self, state: Any) -> None:
        """As `Rule`."""
        self.trigger.restore(state["trigger"])
        self._last.clear()
        self._last.extend(state["last"])


class ExpertImbalance(_Layers):
    """CV of a layer's tokens by expert."""

    kind = Kind.EXPERT_IMBALANCE

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(config, config.expert_imbalance)

    def see(self, step: int, experts: Sequence[Utilisation]) -> Change | None:
        """A step's layers with experts, in order."""
        return self._see(step, [layer.cv for layer in experts], "CV of tokens by expert")


class DeadExpert(_Layers):
    """Experts that had no token."""

    kind = Kind.DEAD_EXPERT

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(config, 0.0)

    def see(self, step: int, experts: Sequence[Utilisation]) -> Change | None:
        """A step's layers with experts, in order."""
        return self._see(step, [float(layer.dead) for layer in experts], "experts without tokens")
