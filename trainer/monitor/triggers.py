"""When a value that is watched raises an alert, and when the alert ends. No threads, no clocks: times are given."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from trainer.monitor.config import Kind


@dataclass(frozen=True)
class Change:
    """An alert has begun (firing) or ended. value: what was compared with threshold; None if it is not finite."""

    kind: Kind
    firing: bool
    value: float | None
    threshold: float
    message: str


class Trigger:
    """On after `times` values in a row above `on`; off after `calm` in a row at or below `off`. NaN is neither."""

    def __init__(self, on: float, off: float, times: int = 1, calm: int = 1) -> None:
        if off > on:
            raise ValueError(f"off ({off}) is above on ({on})")
        self.on, self.off, self.times, self.calm = on, off, times, calm
        self.active = False
        self.count = 0

    def see(self, value: float) -> bool:
        """Whether this value switched it on or off."""
        towards = value <= self.off if self.active else value > self.on
        self.count = self.count + 1 if towards else 0
        if self.count < (self.calm if self.active else self.times):
            return False
        self.active, self.count = not self.active, 0
        return True

    def state(self) -> list[int]:
        """As JSON."""
        return [int(self.active), self.count]

    def restore(self, state: list[int]) -> None:
        """Be as when `state` was asked for."""
        self.active, self.count = bool(state[0]), int(state[1])


class Rule:
    """A trigger with the kind of alert it raises. Subclasses have `see`, which takes what happened."""

    kind: Kind

    def __init__(self, on: float, hysteresis: float, times: int = 1, calm: int = 1) -> None:
        self.trigger = Trigger(on, on * hysteresis, times, calm)

    def judge(self, value: float, message: str, over: str) -> Change | None:
        """The change this value makes, if any; `message` if it raises the alert, `over` if it ends it."""
        if not self.trigger.see(value):
            return None
        firing = self.trigger.active
        shown = value if math.isfinite(value) else None
        return Change(self.kind, firing, shown, self.trigger.on, message if firing else over)

    def state(self) -> Any:
        """What a resumed run goes on with, as JSON; the same for the same steps, whatever the machine."""
        return self.trigger.state()

    def restore(self, state: Any) -> None:
        """Be as when `state` was asked for."""
        self.trigger.restore(state)


class Recent:
    """Sums over the last `seconds` of work, and over the last piece of it, however long it was.

    A piece is (seconds, amount). Nothing is said before a third of `seconds` has been seen.
    """

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._pieces: deque[tuple[float, float]] = deque()
        self._seconds = self._amount = 0.0

    def add(self, seconds: float, amount: float) -> float | None:
        """Amount a second, this piece included; None if too little was seen."""
        self._pieces.append((seconds, amount))
        self._seconds += seconds
        self._amount += amount
        while len(self._pieces) > 1 and self._seconds - self._pieces[0][0] >= self._limit:
            gone = self._pieces.popleft()
            self._seconds -= gone[0]
            self._amount -= gone[1]
        return self._amount / self._seconds if self._seconds >= self._limit / 3 else None
