"""Rules about memory: too full, and about to be. `now` is in seconds of any clock that does not jump."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from trainer.monitor.config import AlertsConfig, Kind
from trainer.monitor.triggers import Change, Rule

WINDOW = 60.0  # seconds of growth that are looked at
ENOUGH = 20.0  # seconds, and
SAMPLES = 10  # samples, before there is a trend


class HighMemory(Rule):
    """More than `high_memory` of some memory is used."""

    kind = Kind.HIGH_MEMORY

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(config.high_memory, config.hysteresis)

    def see(self, shares: Mapping[str, float]) -> Change | None:
        """The used share of each memory by name."""
        name, value = max(shares.items(), key=lambda item: item[1])
        text = f"{value:.1%} of {name} is used"
        return self.judge(value, text, text)


def growth(times: np.ndarray, bytes_: np.ndarray) -> float:
    """Bytes a second that have been added all along: the least slope (least squares) of the thirds of the samples.

    What grew and then stopped, as a first step or a first validation makes it, has none.
    """
    thirds = zip(np.array_split(times - times[0], 3), np.array_split(bytes_, 3), strict=True)
    return min(float(np.polyfit(seconds, sizes, 1)[0]) for seconds, sizes in thirds)


class MemoryRunsOut(Rule):
    """At the rate at which this process grew in the last minute, there is no memory left within `memory_left` seconds.

    Judged by the process's own memory, for other processes come and go; HIGH_MEMORY tells of theirs.
    """

    kind = Kind.MEMORY_RUNS_OUT

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(1.0, config.hysteresis, times=3, calm=3)
        self._left = config.memory_left
        self._samples: deque[tuple[float, int]] = deque()

    def see(self, now: float, own: int, available: int) -> Change | None:
        """A sample: bytes of this process, and those it could still have."""
        self._samples.append((now, own))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()
        if len(self._samples) < SAMPLES or now - self._samples[0][0] < ENOUGH:
            return None
        times, bytes_ = np.array(self._samples, np.float64).T
        rate = growth(times, bytes_)
        left = available / rate if rate > 0 else float("inf")
        return self.judge(
            self._left / left if left > 0 else float("inf"),
            f"memory runs out in {left:,.0f} s: this process grows by {rate / 1e6:,.1f} MB/s, "
            f"{available / 1e9:,.1f} GB are left",
            f"this process grows by {max(rate, 0.0) / 1e6:,.1f} MB/s, {available / 1e9:,.1f} GB are left",
        )
