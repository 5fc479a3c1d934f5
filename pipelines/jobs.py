"""Steps as Beam pipelines: tasks spread over workers, and exchanges of bytes between them.

A *task* is a number; what it means is the step's own affair (a unit, a hash range, a shard). The job graph holds task
numbers only, in chunks, so that a million units do not make a large graph. Every task commits its outputs atomically
and is skipped when they are there, so a step can be run again at any time.

An exchange moves bytes from source tasks to destination tasks, in one of two forms with the same result:
- `files`: each source writes one spill file, sorted by destination, with an index; when all are written, each
  destination reads its slices. For one machine: memory is bounded by one source or one destination a worker.
- `runner`: the runner's GroupByKey carries the bytes. For clusters.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines import lock, storage
from schemas.errors import Refused, TokenmillError

_OWN = ("output", "stages", "replace_from")  # options of the command itself
CHUNK = 1024  # task numbers a graph element stands for


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


class _Tasks(beam.PTransform):
    """Task numbers, spread over workers once `after` is complete."""

    def __init__(self, tasks: Sequence[int]) -> None:
        super().__init__()
        self._chunks = [tuple(tasks[i : i + CHUNK]) for i in range(0, len(tasks), CHUNK)]

    def expand(self, after: Any) -> Any:
        chunks = self._chunks
        return (
            after
            | "one" >> beam.GroupByKey()
            | "chunks" >> beam.FlatMap(lambda _: chunks)
            | "numbers" >> beam.FlatMap(lambda chunk: [(number, None) for number in chunk])
            | "spread" >> beam.GroupByKey()
            | "number" >> beam.Keys()
        )


class _Worker(beam.DoFn):
    """Runs a function of (run, element); tells the driver why when it fails."""

    def __init__(self, run: Run, function: Callable[[Run, Any], Iterable[Any]]) -> None:
        self._run = run
        self._function = function

    def process(self, element: Any) -> Iterator[Any]:
        """Run the function on one element."""
        try:
            yield from self._function(self._run, element)
        except BaseException as error:
            self._run.fail(error)
            raise


@dataclass(frozen=True)
class _Once:
    """Runs a task and yields one token."""

    work: Callable[[Run, int], None]

    def __call__(self, run: Run, task: int) -> Iterator[tuple[int, None]]:
        self.work(run, task)
        yield (0, None)


@dataclass(frozen=True)
class _Spill:
    """Writes what a source emits to one file: blocks in destination order, then their offsets."""

    step: Exchange

    def __call__(self, run: Run, source: int) -> Iterator[tuple[int, None]]:
        path = run.work(self.step.folder, f"spill-{source:07d}")
        if storage.size_of(path) is None:
            offsets = np.zeros(self.step.destinations + 1, np.int64)

            def write(temporary: str) -> None:
                with open(temporary, "wb") as file:
                    for destination, block in self.step.emit(run, source):
                        offsets[destination + 1] = len(block)
                        file.write(block)
                    np.cumsum(offsets, out=offsets)
                    file.write(offsets.tobytes())

            run.commit(path, write)
        yield (0, None)


@dataclass(frozen=True)
class _Gather:
    """Reads a destination's slices of all spill files."""

    step: Exchange

    def __call__(self, run: Run, destination: int) -> Iterator[tuple[int, None]]:
        if storage.size_of(self.step.done(run, destination)) is None:
            self.step.receive(run, destination, self._blocks(run, destination))
        yield (0, None)

    def _blocks(self, run: Run, destination: int) -> Iterator[bytes]:
        trailer = 8 * (self.step.destinations + 1)
        for source in range(self.step.sources):
            with storage.open_read(run.work(self.step.folder, f"spill-{source:07d}")) as file:
                file.seek(-trailer + 8 * destination, os.SEEK_END)
                start, stop = np.frombuffer(file.read(16), np.int64)
                if stop > start:
                    file.seek(int(start))
                    yield file.read(int(stop - start))


@dataclass(frozen=True)
class _Emit:
    """Yields (destination, (source, bytes)) for the runner to group."""

    step: Exchange

    def __call__(self, run: Run, source: int) -> Iterator[tuple[int, tuple[int, bytes]]]:
        for destination, block in self.step.emit(run, source):
            yield (destination, (source, block))


@dataclass(frozen=True)
class _Receive:
    """Hands a destination its blocks in source order."""

    step: Exchange

    def __call__(self, run: Run, grouped: tuple[int, Iterable[tuple[int, bytes]]]) -> Iterator[tuple[int, None]]:
        destination, values = grouped
        if storage.size_of(self.step.done(run, destination)) is None:
            blocks = sorted((value for value in values if value[0] >= 0), key=lambda value: value[0])
            self.step.receive(run, destination, (block for _, block in blocks if block))
        yield (0, None)


def run_steps(run: Run, steps: Sequence[Step], options: Sequence[str], small: bool) -> None:
    """Run steps one after another as one Beam pipeline; a step starts when the one before is complete.

    options: Beam options as on a command line. small: the work is done before further processes could be started.

    Raises:
        Exception: whatever a task raised, wrapped by Beam; `Run.fail` has left the reason in the work folder.
    """
    runner, parsed = runner_and_options(options, small)
    with beam.Pipeline(runner=runner, options=parsed) as pipeline:
        after = pipeline | "start" >> beam.Create([(0, None)])
        for step in steps:
            if not (isinstance(step, Each) and not step.tasks):  # a step of no tasks would hold up the next for ever
                after = _append(run, step, after)


def _append(run: Run, step: Step, after: Any) -> Any:
    if isinstance(step, Each):
        return (
            after | f"{step.name} tasks" >> _Tasks(step.tasks) | step.name >> beam.ParDo(_Worker(run, _Once(step.work)))
        )
    sources = after | f"{step.name} sources" >> _Tasks(range(step.sources))
    destinations = range(step.destinations)
    if step.mode == "files":
        spilled = sources | f"{step.name} spill" >> beam.ParDo(_Worker(run, _Spill(step)))
        gather = spilled | f"{step.name} destinations" >> _Tasks(destinations)
        return gather | f"{step.name} gather" >> beam.ParDo(_Worker(run, _Gather(step)))
    emitted = sources | f"{step.name} emit" >> beam.ParDo(_Worker(run, _Emit(step)))
    everyone = (
        after
        | f"{step.name} destinations" >> _Tasks(destinations)
        | f"{step.name} empty" >> beam.Map(lambda number: (number, (-1, b"")))
    )
    return (
        (emitted, everyone)
        | f"{step.name} both" >> beam.Flatten()
        | f"{step.name} group" >> beam.GroupByKey()
        | f"{step.name} receive" >> beam.ParDo(_Worker(run, _Receive(step)))
    )


def check_options(options: Sequence[str]) -> None:
    """Refuse options that cannot work.

    Raises:
        Refused: threads were asked for, with which Beam's local runner was seen to lose data; or the local runner has
            no such option (Beam itself would pass over it).
    """
    parsed = PipelineOptions(list(options))
    known = parsed.get_all_options()
    if (known["runner"] or "FnApiRunner") in ("DirectRunner", "FnApiRunner"):
        for name in sorted(parsed.get_all_options(retain_unknown_options=True).keys() - known.keys()):
            close = difflib.get_close_matches(name, [*_OWN, *known], n=1)
            meant = f"; did you mean --{close[0].replace('_', '-') if close[0] in _OWN else close[0]}?" if close else ""
            raise Refused(f"unknown option --{name}{meant}")
    if any("multi_threading" in option for option in options):
        raise Refused(
            "--direct_running_mode=multi_threading: Beam's local runner was seen to lose data in this mode; "
            "use multi_processing"
        )


def runner_and_options(arguments: Sequence[str], small: bool) -> tuple[Any, PipelineOptions]:
    """The runner and options for Beam arguments.

    Without `--runner` (or with DirectRunner) it is Beam's own FnApiRunner: the DirectRunner would first try to download
    another one. By default it has one worker process a core, or, where the work is small, none but the driver: starting
    workers takes longer then than they save. Several workers are always processes.
    """
    options = PipelineOptions(list(arguments))
    named = options.get_all_options()["runner"] or "FnApiRunner"
    if named not in ("DirectRunner", "FnApiRunner"):
        return named, options
    direct = options.view_as(DirectOptions)
    if not any(argument.split("=")[0] == "--direct_num_workers" for argument in arguments):
        direct.direct_num_workers = 1 if small else os.cpu_count() or 1
    if not any(argument.split("=")[0] == "--direct_running_mode" for argument in arguments):
        direct.direct_running_mode = "in_memory" if direct.direct_num_workers == 1 else "multi_processing"
    return FnApiRunner(), options
