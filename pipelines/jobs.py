"""What a run is made of: steps, which spread tasks over workers, and exchanges of bytes between them.

A *task* is a number; what it means is the step's own affair (a unit, a hash range, a shard). Every task
commits its outputs atomically and is skipped when they are there, so a step can be run again at any time.

An exchange moves bytes from source tasks to destination tasks, in one of two forms with the same result:
- `files`: each source writes one spill file, sorted by destination, with an index; when all are written, each
  destination reads its slices. For one machine: memory is bounded by one source or one destination a worker.
- `runner`: the runner's GroupByKey carries the bytes. For clusters.

`graph` turns steps into a Beam pipeline. Nothing here loads Beam, which takes a second that commands and the supervisor
of a run need not wait for.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from schemas import lock, storage
from schemas.errors import TokenmillError


@dataclass(frozen=True)
class Run:
    """What every task knows of the run it belongs to: the directory it may write and the id that lets it."""

    directory: str
    run_id: str

    def path(self, *parts: str) -> str:
        """A path below the run directory."""
        return storage.join(self.directory, *parts)

    def work(self, *parts: str) -> str:
        """A path of intermediate files, removed when their stage is done."""
        return storage.join(self.directory, ".work", *parts)

    def commit(self, path: str, write: Callable[[str], None]) -> storage.Written:
        """Write and commit a file, if this run still owns the directory."""
        return storage.commit(path, write, self.run_id, lambda: lock.check_owner(self.directory, self.run_id))

    def commit_bytes(self, path: str, data: bytes) -> storage.Written:
        """Commit a file that holds `data`."""
        return storage.write_bytes(path, data, self.run_id, lambda: lock.check_owner(self.directory, self.run_id))

    def fail(self, error: BaseException) -> None:
        """Leave what ended a task where the driver finds it: Beam wraps exceptions beyond recognition."""
        told = str(error) if isinstance(error, TokenmillError) else traceback.format_exc()
        kind = "sentence" if isinstance(error, TokenmillError) else "traceback"
        with contextlib.suppress(TokenmillError):  # a full disk: the driver reads Beam's message instead
            storage.write_bytes(self.work(f"{kind}-{self.run_id}-{os.getpid()}"), told.encode(), self.run_id)


@dataclass(frozen=True)
class Each:
    """A step whose tasks do not talk to each other; `work` is picklable and commits its own outputs."""

    name: str
    tasks: Sequence[int]
    work: Callable[[Run, int], None]


@dataclass(frozen=True)
class Exchange:
    """A step that moves bytes from `sources` tasks to `destinations` tasks.

    emit(run, source): yields (destination, bytes) in ascending destination order, each destination at most once.
    receive(run, destination, blocks): commits the destination's output; blocks in source order, no empty ones.
    folder: where spill files go, unique to the step and its fingerprint.
    done: names the file a finished destination has committed.
    """

    name: str
    sources: int
    destinations: int
    emit: Callable[[Run, int], Iterator[tuple[int, bytes]]]
    receive: Callable[[Run, int, Iterable[bytes]], None]
    folder: str
    done: Callable[[Run, int], str]
    mode: str


Step = Each | Exchange


def run_steps(run: Run, steps: Sequence[Step], options: Sequence[str], small: bool) -> None:
    """Run steps one after another as one Beam pipeline; a step starts when the one before is complete.

    options: Beam options as on a command line. small: the work is done before further processes could be started.

    Raises:
        Exception: whatever a task raised, wrapped by Beam; `Run.fail` has left the reason in the work folder.
    """
    if (execute := _instead.get()) is not None:
        for step in steps:
            execute(run, step)
        return
    from pipelines.graph import run_graph  # noqa: PLC0415 - loads Beam

    run_graph(run, steps, options, small)


_instead: ContextVar[Callable[[Run, Step], None] | None] = ContextVar("instead of Beam", default=None)


@contextlib.contextmanager
def carried_out_by(execute: Callable[[Run, Step], None]) -> Iterator[None]:
    """Meanwhile each step is carried out by a call of `execute` in this process, and not by Beam."""
    before = _instead.set(execute)
    try:
        yield
    finally:
        _instead.reset(before)
