"""SIGTERM and SIGINT as a wish to stop, which the loop asks for after each step."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

from trainer.launch import LAUNCHER

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """As a context: the first signal sets `asked`; a second SIGINT interrupts at once, as without this.

    Signals belong to a program's main thread; in another one nothing is taken over.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


def stop_without_launcher() -> None:
    """Where `launch` started this process: ask it to stop when the launcher is gone, lest it be left alone."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return

    def look() -> None:
        while os.getppid() == int(launcher):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="launcher watch").start()
