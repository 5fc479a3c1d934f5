"""Rules about time: slow steps, waiting for input, no step at all, late checkpoints. Nothing of them is saved: another
machine has another pace. `now` is in seconds of any clock that does not jump.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from trainer.monitor.config import AlertsConfig, Kind
from trainer.monitor.triggers import Change, Recent, Rule
from trainer.training.records import CheckpointRecord

USUAL = 100  # steps whose median is the usual pace
ENOUGH = 5  # steps before there is a usual pace


class ThroughputDrop(Rule):
    """Over the last `recent` seconds, tokens a second are less than the usual by `throughput_drop`.

    Usual is the median of the last 100 steps that were not that slow, so a run that stays slow does not become usual.
    """

    kind = Kind.THROUGHPUT_DROP

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(config.throughput_drop, config.hysteresis)
        self._recent = Recent(config.recent)
        self._usual: deque[float] = deque(maxlen=USUAL)

    def see(self, tokens: float, seconds: float) -> Change | None:
        """A step that was not traced: its tokens and how long it took, input included."""
        known = len(self._usual) >= ENOUGH
        usual = median(self._usual) if known else 0.0
        if tokens / seconds >= (1 - self.trigger.on) * usual:
            self._usual.append(tokens / seconds)
        rate = self._recent.add(seconds, tokens)
        if not known or rate is None:
            return None
        text = f"{rate:,.0f} tokens/s, usual are {usual:,.0f}"
        return self.judge(1 - rate / usual, text, text)


class InputStall(Rule):
    """In the last `recent` seconds of steps, more than `input_stall` of the time went into waiting for input."""

    kind = Kind.INPUT_STALL

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(config.input_stall, config.hysteresis)
        self._recent = Recent(config.recent)

    def see(self, waited: float, seconds: float) -> Change | None:
        """A step that was not traced: how long it waited for input, and how long it took, input included."""
        share = self._recent.add(seconds, waited)
        if share is None:
            return None
        text = f"{share:.0%} of the time goes into waiting for input"
        return self.judge(share, text, text)


class NoStep(Rule):
    """No step, and no other sign of life, for `no_step` seconds or `no_step_times` the median step, if that is more."""

    kind = Kind.NO_STEP

    def __init__(self, config: AlertsConfig, now: float) -> None:
        super().__init__(1.0, config.hysteresis)
        self._config = config
        self._alive = now
        self._step = 0
        self._seconds: deque[float] = deque(maxlen=USUAL)

    def alive(self, now: float) -> None:
        """A sign of life that is no step, such as a batch of validation."""
        self._alive = now

    def stepped(self, now: float, step: int, seconds: float, traced: bool) -> None:
        """A step, and how long it took."""
        self._alive, self._step = now, step
        if not traced or not self._seconds:
            self._seconds.append(seconds)

    def see(self, now: float) -> Change | None:
        """The time."""
        config, silent = self._config, now - self._alive
        limit = config.first_step
        if self._seconds:
            limit = max(config.no_step, config.no_step_times * median(self._seconds))
        where = f"after step {self._step}" if self._step else "of this process yet"
        return self.judge(
            silent / limit,
            f"no step {where} for {silent:.0f} s; {limit:.0f} s are the limit",
            f"step {self._step} was made",
        )


class CheckpointFailed(Rule):
    """The last save failed; the checkpoints before it are still there."""

    kind = Kind.CHECKPOINT_FAILED

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(0.0, config.hysteresis)

    def see(self, record: CheckpointRecord) -> Change | None:
        """What became of a save."""
        return self.judge(
            float(record.error is not None),
            f"the checkpoint of step {record.step} was not saved: {record.error}",
            f"the checkpoint of step {record.step} was saved",
        )


class CheckpointLate(Rule):
    """A step was to be saved `checkpoint_late` seconds ago, and nothing was heard of it since."""

    kind = Kind.CHECKPOINT_LATE

    def __init__(self, config: AlertsConfig) -> None:
        super().__init__(1.0, config.hysteresis)
        self._limit = config.checkpoint_late
        self._due: dict[int, float] = {}

    def due(self, step: int, now: float) -> None:
        """A step that is saved now."""
        self._due[step] = now

    def done(self, step: int) -> None:
        """A save has ended, well or not; so have those before it."""
        self._due = {each: since for each, since in self._due.items() if each > step}

    def see(self, now: float) -> Change | None:
        """The time."""
        step, since = min(self._due.items(), default=(0, now))
        waited = now - since
        return self.judge(
            waited / self._limit,
            f"the checkpoint of step {step} is not saved after {waited:.0f} s; {self._limit:.0f} s are the limit",
            "no checkpoint is late any more",
        )
