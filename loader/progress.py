"""How far a long command is, on stderr: a bar on a terminal, one line a step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Steps one after another; `advance` moves the step at hand."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Bar | None = None
        self._task = TaskID(0)

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[None]:
        """A step of `total` pieces of work."""
        if not self._terminal:
            print(title, file=sys.stderr, flush=True)
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            self._bar, self._task = bar, bar.add_task(title, total=total)
            try:
                yield
            finally:
                self._bar = None

    def advance(self, pieces: int = 1) -> None:
        """`pieces` more of the step are done."""
        if self._bar is not None:
            self._bar.advance(self._task, pieces)
