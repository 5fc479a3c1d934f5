"""Processes that end together: Beam's driver with its supervisor, and with any of its workers."""

from __future__ import annotations

import os
import signal
import threading

from pipelines import workers


def end_group_when_input_closes() -> None:
    """Kill this process's whole group when standard input closes, as it does when the supervisor ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="supervisor watch", daemon=True).start()


def end_group_when_a_worker_dies() -> None:
    """Make the death of a Beam worker end this process group; Beam itself would wait for it for ever.

    Each worker process is waited for in a thread (`workers.WATCH`) that raises when it fails.
    """
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        usual(arguments)
        if arguments.thread is not None and arguments.thread.name == workers.WATCH:
            os.killpg(0, signal.SIGKILL)

    threading.excepthook = hook
