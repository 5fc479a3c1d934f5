"""A step that hangs ends the process, which says where it hung, so that whoever started it can start it again."""

from __future__ import annotations

import faulthandler
import sys
from typing import Self


class Watchdog:
    """As a context: the process prints where all its threads stand and ends with exit code 1 when `alive` was not
    called for `timeout` seconds. It needs no lock of Python's, so a deadlock in native code is found, too.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def alive(self) -> None:
        """Begin to count again."""
        faulthandler.dump_traceback_later(self._timeout, exit=True, file=sys.__stderr__ or sys.stderr)

    def __enter__(self) -> Self:
        self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
