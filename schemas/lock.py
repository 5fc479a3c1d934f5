"""One run owns a directory.

The lock is a file `.lock`, created if it is absent: on a local disk under a file lock, on gs:// for the generation that
was looked at, so that of two starting runs one wins; on other filesystems it is looked for, then written. It names
its owner (run id, host, process) and carries a heartbeat that the owner renews every `HEARTBEAT` seconds. Workers
compare the run id before every commit, so that workers of a dead driver cannot write into its successor's run.

A lock is stale, and taken over, when its owner ran on this host and is gone, or when its heartbeat is older than
`STALE` seconds (another host's owner, or a machine that was restarted).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from schemas import objects, storage
from schemas.errors import Refused, TokenmillError
from schemas.gcs import SCHEME, Changed

LOCK = ".lock"
HEARTBEAT = 10.0
STALE = 90.0


class Lock:
    """The lock of one run directory, held from `acquire` to `release`; renewed by a thread of its own."""

    def __init__(self, directory: str, run_id: str) -> None:
        self._path = storage.join(directory, LOCK)
        self._directory = directory
        self._run_id = run_id
        self._generation = 0  # of the lock on gs:// as this run last saw or wrote it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock heartbeat", daemon=True)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Refused: another run that is alive owns the directory.
        """
        with _takeover_guard(self._directory):
            if self._path.startswith(SCHEME):
                data, self._generation = objects.read_generation(self._path)
                owner = _parse(data)
            else:
                owner = _read(self._path)
            if owner is not None and not is_stale(owner):
                raise Refused(
                    f"{self._directory}: run {owner['run_id']} (process {owner['pid']} on {owner['host']}) is at work "
                    f"here; wait for it or stop it, or give another folder"
                )
            try:
                self._write()
            except Changed:
                raise Refused(
                    f"{self._directory}: another run took it this moment; wait for it or give another folder"
                ) from None
        self._thread.start()

    def release(self) -> None:
        """Give the directory back, unless another run has taken it over."""
        self._stop.set()
        self._thread.join()
        owner = _read(self._path)
        if owner is not None and owner["run_id"] == self._run_id:
            if self._path.startswith(SCHEME):
                with contextlib.suppress(Changed):  # taken over since
                    objects.delete_if(self._path, self._generation)
            else:
                storage.remove(self._path)

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(TokenmillError):  # a full disk, or the network, is reported by the work itself
                owner = _read(self._path)
                if owner is None or owner["run_id"] != self._run_id:
                    return  # taken over: the workers' check ends this run at its next commit
                self._write()

    def _write(self) -> None:
        owner = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "heartbeat": time.time(),
        }
        data = json.dumps(owner).encode()
        if self._path.startswith(SCHEME):
            self._generation = objects.put_if(self._path, data, hashlib.sha256(data).hexdigest(), self._generation)
        else:
            storage.write_bytes(self._path, data, self._run_id)


def check_owner(directory: str, run_id: str) -> None:
    """Raise TokenmillError unless `run_id` holds the lock of `directory`; workers call this before a commit."""
    owner = _read(storage.join(directory, LOCK))
    if owner is None or owner["run_id"] != run_id:
        holder = "nobody" if owner is None else f"run {owner['run_id']}"
        raise TokenmillError(f"{directory}: run {run_id} no longer owns this directory ({holder} does); stopping")


def owner_of(directory: str) -> dict[str, Any] | None:
    """Who holds the lock of a directory (run_id, host, pid, started, heartbeat), or None."""
    return _read(storage.join(directory, LOCK))


def _read(path: str) -> dict[str, Any] | None:
    try:
        return _parse(storage.read_bytes(path))
    except FileNotFoundError:
        return None


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        owner = json.loads(data)
    except ValueError:
        return None  # not a lock anyone can own
    return (
        owner if isinstance(owner, dict) and {"run_id", "host", "pid", "started", "heartbeat"} <= owner.keys() else None
    )


def is_stale(owner: dict[str, Any]) -> bool:
    """Whether the run that left a lock is gone, so that the next one takes the lock over."""
    if owner["host"] == socket.gethostname():
        try:
            alive = abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1.0
        except psutil.NoSuchProcess:
            return True
        return not alive
    return bool(time.time() - owner["heartbeat"] > STALE)


@contextlib.contextmanager
def _takeover_guard(directory: str) -> Iterator[None]:
    """Keep two starting runs on one machine apart while the lock is judged and taken."""
    if not storage.is_local(directory):
        yield
        return
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise Refused(f"{directory}: cannot be made a folder: {error.strerror}; give another --output") from None
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
