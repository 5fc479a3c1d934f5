"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich import progress as bars
from rich.console import Console

_LINE_SECONDS = 10.0


class Progress:
    """Shows units committed out of units planned, stage by stage, on standard error."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: bars.Progress | None = None
        self._task: bars.TaskID | None = None
        self._name, self._total, self._done = "", 0, 0
        self._began = self._last_line = time.monotonic()

    def start(self, name: str, total: int, done: int) -> None:
        """Begin a stage of `total` units of which `done` were there before."""
        self.finish()
        self._name, self._total, self._done = name, total, done
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn("{task.description:16}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TextColumn("units"),
                bars.TimeElapsedColumn(),
                bars.TimeRemainingColumn(),
                console=self._console,
                transient=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, completed=done)
        else:
            self._console.print(f"{name}: {done} of {total} units")

    def update(self, done: int) -> None:
        """Show how many units of the stage are committed."""
        self._done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)
        elif self._name and time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"{self._name}: {done} of {self._total} units, {self._elapsed()}")

    def finish(self) -> None:
        """End the stage's display."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._total)
            self._bar.stop()
        elif self._name:
            self._console.print(f"{self._name}: done, {self._elapsed()}")
        self._bar, self._task, self._name = None, None, ""

    def abandon(self) -> None:
        """End the display of a stage that did not finish."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._name = None, None, ""

    def note(self, text: str) -> None:
        """Say something beside the progress."""
        self._console.print(text)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:.1f} s"
