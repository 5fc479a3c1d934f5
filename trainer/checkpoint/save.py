"""Saving: a copy at the step, then one background thread that writes while training goes on.

    each process:  its data files -> its manifest
    process 0:     waits for all manifests of this save -> COMMIT.json -> retention

A save that fails or is killed has no COMMIT.json, so all that counts is as it was.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from schemas.errors import Refused, TokenmillError
from schemas.storage import cannot_write
from trainer.checkpoint import arrays, files, records, retention
from trainer.checkpoint.files import NotPlain
from trainer.checkpoint.load import check_names, is_committed
from trainer.checkpoint.pieces import HostCopy, Owned, by_name, cover
from trainer.checkpoint.records import Commit, Damaged, FileSum, Manifest, Piece
from trainer.checkpoint.retention import Retention

POLL_SECONDS, POLL_SECONDS_REMOTE = 0.05, 0.5  # between two looks for the other processes' manifests


@dataclass(frozen=True, slots=True)
class Blocked:
    """How long a save kept its caller: until the one before was written, and to copy the values."""

    waited_seconds: float
    copied_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a save in this process.

    error: None when it was written (in process 0: committed); else what failed, with the path and the cause.
    raw_bytes, bytes: of this process's arrays in memory, and of its files.
    removed: names of folders that went afterwards, by retention or as leftovers.
    """

    step: int
    path: str
    blocked: Blocked
    seconds: float
    raw_bytes: int
    bytes: int
    removed: tuple[str, ...] = ()
    error: TokenmillError | None = None


class Saver:
    """Saves the checkpoints of one run into a folder; one object in each process, made before the first step of any.

    directory: the checkpoints' folder, local or on gs://; only one run at a time may write there.
    run: with more than one process: equal in all of them, and different whenever they are started again.
    wait_seconds: how long process 0 waits for the other processes' manifests.
    guard: called right before a commit; raises TokenmillError where this run no longer owns the folder.

    Outcomes are collected and must be looked at: `outcomes()` gives those that are there, `wait()` the rest. As a
    context manager it waits and raises the first error that nobody has looked at; in an exception it waits for this
    process's own files alone.

    Making it removes (process 0) what killed saves have left in the folder.

    Raises:
        Refused: the process number or the retention is impossible, or `run` is missing.
    """

    def __init__(
        self,
        directory: str,
        *,
        process: int = 0,
        processes: int = 1,
        run: str | None = None,
        keep: Retention | None = None,
        wait_seconds: float = 600.0,
        guard: Callable[[], None] | None = None,
    ) -> None:
        if not 0 <= process < processes:
            raise Refused(f"process {process} of {processes}: there is no such process")
        if run is None and processes > 1:
            raise Refused("several processes need a `run` that is the same in all of them and new at every start")
        self.directory = files.absolute(directory)
        self.process, self.processes = process, processes
        self.keep = keep or Retention()
        self.wait_seconds, self.guard = wait_seconds, guard
        self._run = run or uuid.uuid4().hex
        self._saves = 0
        self._ended = threading.Event()
        self._copy = HostCopy()
        self._thread: threading.Thread | None = None
        self._outcomes: deque[Outcome] = deque()
        self._removed = retention.remove_leftovers(self.directory) if process == 0 else []

    def prepare(self, owned: Sequence[Owned]) -> None:
        """Make the host buffers before the first save, which would take several times as long as the others.

        Raises:
            Refused: a piece cannot be saved, as in `save`.
        """
        self._join()
        self._copy.take(owned)

    def save(self, step: int, owned: Sequence[Owned], meta: Mapping[str, Any]) -> Blocked:
        """Copy the pieces and write them in the background; when this returns, the arrays may change.

        Waits first until the save before is written. In a run of several processes all call it, at the same steps.
        A step that has a checkpoint is not saved again: that is an error of the outcome.

        Raises:
            Refused: a piece cannot be saved, or `meta` is not JSON (nor are NaN and inf).
        """
        waited = self._join()
        path = os.path.join(self.directory, records.step_name(step))
        try:
            records.dump(dict(meta))
        except (ValueError, TypeError) as error:
            raise Refused(f"{path}: meta cannot be saved as JSON: {error}") from None
        begun = time.perf_counter()
        self._copy.take(owned)
        blocked = Blocked(waited, time.perf_counter() - begun)
        self._saves += 1
        work = _Save(self, step, path, f"{self._run}-{self._saves}", dict(meta), blocked)
        # Not a daemon: a program that ends waits for its last checkpoint.
        self._thread = threading.Thread(target=lambda: self._outcomes.append(work.run()), name="checkpoint")
        self._thread.start()
        return blocked

    def outcomes(self) -> list[Outcome]:
        """Outcomes of saves that have ended and were not yet given, in order. Does not wait."""
        given = []
        while self._outcomes:
            given.append(self._outcomes.popleft())
        return given

    def wait(self) -> list[Outcome]:
        """Wait for the running save; returns as `outcomes`."""
        self._join()
        return self.outcomes()

    def _join(self) -> float:
        begun = time.perf_counter()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return time.perf_counter() - begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._ended.set()  # the others may have ended, too: their manifests are not waited for
        errors = [outcome.error for outcome in self.wait() if outcome.error is not None]
        if errors and kind is None:
            raise errors[0]


@dataclass
class _Save:
    """One save, in the background thread."""

    saver: Saver
    step: int
    path: str
    save: str
    meta: dict[str, Any]
    blocked: Blocked

    @property
    def _name(self) -> str:
        return records.process_name(self.saver.process, self.saver.processes)

    @property
    def _failed(self) -> str:
        return os.path.join(self.path, f"{self._name}.failed")

    def run(self) -> Outcome:
        begun = time.perf_counter()
        written, removed, problem = 0, list[str](), None
        try:
            if is_committed(self.saver.directory, self.step):
                raise Refused(f"{self.path}: there is a checkpoint of this step; it is not overwritten")
            removed += self._leftovers()
            manifest = self._write()
            written = sum(each.bytes for each in manifest.files.values())
            if self.saver.process == 0:
                self._commit()
                removed += self._retain()
        except Exception as error:  # given to the caller as the outcome
            problem = self._describe(error)
            self._clean_up(problem)
        return Outcome(
            self.step,
            self.path,
            self.blocked,
            time.perf_counter() - begun,
            sum(buffer.nbytes for buffer in self.saver._copy.buffers.values()),
            written,
            tuple(removed),
            problem,
        )

    def _leftovers(self) -> list[str]:
        """Remove what failed saves left: of earlier steps (process 0), and this process's own of this step."""
        removed = []
        if self.saver.process == 0:
            removed = [*self.saver._removed, *retention.remove_leftovers(self.saver.directory, below=self.step)]
            self.saver._removed = []
        self._remove_own()
        files.remove(self._failed)
        return removed

    def _remove_own(self) -> None:
        files.remove(os.path.join(self.path, f"{self._name}.json"))
        files.remove_tree(os.path.join(self.path, self._name), first=arrays.METADATA)

    def _write(self) -> Manifest:
        folder = os.path.join(self.path, self._name)
        files.make_folder(self.path)
        buffers = self.saver._copy.buffers
        sums = arrays.write(folder, buffers)
        if sums:  # a process may own nothing
            files.sync_tree(folder)
        manifest = Manifest(
            save=self.save,
            step=self.step,
            process=self.saver.process,
            processes=self.saver.processes,
            arrays={dtype: buffer.size for dtype, buffer in buffers.items() if buffer.size},
            pieces=self.saver._copy.pieces,
            files=sums,
        )
        files.commit_bytes(f"{folder}.json", records.render(manifest), self.saver._run)
        return manifest

    def _commit(self) -> None:
        found = self._manifests()
        # A commit marker over files that are not all there would be worse than none.
        check_names(self.path, files.files_below(self.path), [manifest for manifest, _ in found], set())
        pieces: list[Piece] = [piece for manifest, _ in found for piece in manifest.pieces]
        for name, parts in by_name(pieces).items():
            if problem := cover(name, parts):
                raise TokenmillError(f"{self.path}: not committed: {problem}")
        commit = Commit(
            save=self.save,
            step=self.step,
            processes=self.saver.processes,
            manifests={
                f"{records.process_name(manifest.process, manifest.processes)}.json": size for manifest, size in found
            },
            meta=self.meta,
        )
        files.sync_folder(self.saver.directory)
        files.sync_folder(os.path.dirname(self.saver.directory))
        marker = os.path.join(self.path, records.COMMIT)
        files.commit_new(marker, records.render(commit), self.saver._run, self.saver.guard)

    def _manifests(self) -> list[tuple[Manifest, FileSum]]:
        """Wait for the manifests of this save, of all processes: one listing a look."""
        saver = self.saver
        names = [os.path.join(self.path, records.process_name(p, saver.processes)) for p in range(saver.processes)]
        found: dict[int, tuple[Manifest, FileSum]] = {}
        end = time.monotonic() + saver.wait_seconds
        while True:
            there = set(files.names_in(self.path))
            for process, name in enumerate(names):
                if process in found:
                    continue
                if os.path.basename(f"{name}.json") in there:
                    manifest, size = records.read(f"{name}.json", Manifest, records.MANIFEST_LIMIT)
                    if manifest.save == self.save:
                        found[process] = manifest, size
                        continue
                if os.path.basename(f"{name}.failed") in there:
                    told = files.read_small(f"{name}.failed", 1 << 20).decode(errors="replace")
                    save, _, reason = told.partition("\n")
                    if save == self.save:
                        raise TokenmillError(f"{self.path}: not committed: process {process} failed: {reason}")
            if len(found) == len(names):
                return [found[process] for process in range(len(names))]
            late = min(set(range(len(names))) - found.keys())
            if saver._ended.is_set():
                raise TokenmillError(f"{self.path}: not committed: the run ended before process {late} had written")
            if time.monotonic() > end:
                raise TokenmillError(
                    f"{names[late]}.json: not committed: process {late} has not written it after "
                    f"{saver.wait_seconds:g} s"
                )
            time.sleep(POLL_SECONDS_REMOTE if files.is_remote(self.path) else POLL_SECONDS)

    def _retain(self) -> list[str]:
        directory = self.saver.directory
        steps = retention.superfluous(directory, self.saver.keep)
        retention.remove(directory, steps)
        return [*retention.remove_abandoned(directory), *(records.step_name(step) for step in steps)]

    def _describe(self, error: Exception) -> TokenmillError:
        if isinstance(error, TokenmillError):
            return error
        if isinstance(error, OSError):
            return cannot_write(error.filename or self.path, error)
        if isinstance(error, (Damaged, NotPlain)):
            return TokenmillError(f"not committed: {error}")
        return TokenmillError(f"{self.path}: not saved: {type(error).__name__}: {error}")

    def _clean_up(self, problem: TokenmillError) -> None:
        """Give the space back, and tell process 0. What fails here is left to the next save."""
        try:
            if is_committed(self.saver.directory, self.step):
                return  # it was before, or it was retention that failed
            self._remove_own()
            if self.saver.process:
                files.commit_bytes(self._failed, f"{self.save}\n{problem}".encode(), self.saver._run)
        except (OSError, TokenmillError) as error:
            problem.add_note(f"what it had written could not be removed: {error}")
