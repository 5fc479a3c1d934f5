"""report: one HTML page on what a run holds and what it removed, made from its manifests and Parquet files.

The page is whole in itself: no script, no picture, font or style from elsewhere, so it can be mailed or archived.
"""

from __future__ import annotations

import os
import secrets
import time

from pipelines.jobs import Run
from pipelines.report.gather import gather
from pipelines.report.page import page
from pipelines.run import read_config
from schemas.lock import Lock

REPORT = "report.html"

__all__ = ["REPORT", "write_report"]


def write_report(directory: str) -> str:
    """Write `report.html` of a finished or partly finished run, and return its path.

    The directory is held as by a run, so that nothing changes while it is read.

    Raises:
        Refused: `directory` is no run, or a run is at work there.
        TokenmillError: an output is missing or damaged; names it.
    """
    directory = directory.rstrip("/") if "://" in directory else os.path.abspath(directory)
    run = Run(directory, secrets.token_hex(4))
    read_config(run)  # before the lock, which would make a folder of any name
    lock = Lock(directory, run.run_id)
    lock.acquire()
    try:
        numbers = gather(run, read_config(run))
        made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        run.commit_bytes(run.path(REPORT), page(numbers, made).encode())
    finally:
        lock.release()
    return run.path(REPORT)
