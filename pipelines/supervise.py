"""The supervisor of a run: takes the lock, keeps attempts going, shows progress, and leaves the directory clean.

The stages run in a child process (`pipelines.attempt`) that can be ended as a whole: Beam's driver waits for ever for
a worker that died. After a death the supervisor starts another attempt on what remains, until `MAX_FRUITLESS` in a row
have committed nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import psutil

from pipelines import metrics
from pipelines.jobs import Run
from pipelines.progress import Progress
from schemas import storage
from schemas.config import Config
from schemas.errors import TokenmillError

MAX_FRUITLESS = 3
_POLL = 0.5  # seconds between looks at the work folder
_REMOTE_POLL = 5.0  # where each look is a listing that costs money
_REST = 20  # times as long as a look took is waited for the next: a million receipts take a while to list


class Supervisor:
    """Runs stages by attempts; `facts` collects what `run.json` reports (steps: `metrics`)."""

    def __init__(
        self, run: Run, config: Config, stages: Sequence[str], options: Sequence[str], progress: Progress
    ) -> None:
        self._run, self._config, self._stages, self._options = run, config, list(stages), list(options)
        self._progress = progress
        self._folders: list[str] = []
        self.facts: dict[str, Any] = {
            "stages": {},
            "steps": {},
            "attempts": 0,
            "peak_worker_bytes": 0,
            "peak_driver_bytes": 0,
        }

    def run(self) -> None:
        """Run until all stages are done.

        Raises:
            TokenmillError: a stage failed, or workers keep dying without getting anything done.
            KeyboardInterrupt: the user stopped the run; the attempt has been ended.
        """
        fruitless = 0
        while True:
            before = self._committed_ever()
            self.facts["attempts"] += 1
            outcome = self._attempt()
            if outcome is None:
                return
            if outcome:
                raise TokenmillError(outcome)
            fruitless = 0 if self._committed_ever() != before else fruitless + 1
            if fruitless >= MAX_FRUITLESS:
                raise TokenmillError(
                    f"a worker died {MAX_FRUITLESS} times in a row without a unit done, most likely for want of memory "
                    f"({_log_path(self._run)} may say more); try fewer workers (--direct_num_workers) or smaller units "
                    f"(ingest.unit_bytes)"
                )
            self._progress.abandon()
            self._progress.note("a worker died; starting again on what remains")

    def _attempt(self) -> str | None:
        """One attempt: None when all is done, a reason when a stage failed, "" when a process died."""
        with _log(self._run) as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "pipelines.attempt"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            return self._follow(child)
        finally:
            _end_group(child)

    def _follow(self, child: subprocess.Popen[bytes]) -> str | None:
        assert child.stdin is not None and child.stdout is not None
        order = {
            "directory": self._run.directory,
            "run_id": self._run.run_id,
            "config": self._config.model_dump(mode="json"),
            "stages": self._stages,
            "options": self._options,
        }
        try:
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return ""
        events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=_read_events, args=(child.stdout, events), daemon=True).start()
        poll = least = _POLL if storage.is_local(self._run.directory) else _REMOTE_POLL
        reason: str | None = ""
        started = time.monotonic()
        while True:
            try:
                event = events.get(timeout=poll)
            except queue.Empty:
                looked = time.monotonic()
                self._progress.update(self._committed())
                self._watch_memory(child.pid)
                poll = max(least, _REST * (time.monotonic() - looked))
                continue
            if event is None:
                break
            if event["event"] == "stage":
                self._folders = event["folders"]
                self._progress.start(event["name"], event["tasks"], self._committed())
            elif event["event"] == "done":
                self._progress.finish()
                known = self.facts["stages"].get(event["stage"], 0.0)
                self.facts["stages"][event["stage"]] = round(known + time.monotonic() - started, 3)
                self.facts["steps"] |= event["steps"]
                if told := metrics.sentence(event["steps"].values()):
                    self._progress.note(f"{event['stage']}: {told}")
                self.facts["peak_driver_bytes"] = max(self.facts["peak_driver_bytes"], event["peak"])
                started = time.monotonic()
            elif event["event"] == "failed":
                reason = event["reason"]
        code = child.wait()
        if code > 0 and not reason:
            reason = f"the run's process ended with code {code}; the end of {_log_path(self._run)} says why"
        return None if code == 0 else reason

    def _committed(self) -> int:
        """Units of the current stage that have a receipt."""
        return sum(
            name.startswith("receipt-") for folder in self._folders for name in storage.names_in(self._run.work(folder))
        )

    def _committed_ever(self) -> int:
        """How much work has been committed: receipts and work files of any stage, and finished stages."""
        folders = {*self._folders, *storage.names_in(self._run.work())}
        files = sum(len(storage.names_in(self._run.work(folder))) for folder in folders if "." not in folder)
        return files + 1_000_000 * len(self.facts["stages"])

    def _watch_memory(self, pid: int) -> None:
        """Note the largest worker; Beam's workers are children of the attempt."""
        try:
            workers = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for worker in workers:
            try:
                used = worker.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.facts["peak_worker_bytes"] = max(self.facts["peak_worker_bytes"], used)


def _log_path(run: Run) -> str:
    """Where what Beam and its workers print goes: into a local run's work folder, else this machine's temporary one."""
    if not storage.is_local(run.directory):
        return os.path.join(tempfile.gettempdir(), f"tokenmill-{run.run_id}.log")
    return run.work("log.txt")


@contextlib.contextmanager
def _log(run: Run) -> Iterator[IO[bytes]]:
    """The log, open to be written on. Raises TokenmillError when it cannot be."""
    path = _log_path(run)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab") as log:
            yield log
    except OSError as error:
        raise storage.cannot_write(path, error) from None


def _read_events(stream: IO[bytes], events: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        try:
            events.put(json.loads(line))
        except ValueError:
            continue  # something a library printed
    events.put(None)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End the attempt and its workers, whether or not they still run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
