"""Steps as one Beam pipeline.

The graph holds task numbers only, so that a million units do not make a large one.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import metrics
from pipelines.jobs import Each, Exchange, Run, Step
from pipelines.runner import DASK, runner_and_options
from schemas import storage

# What is sent to workers is made of classes at the top of modules: they are pickled by name, where a lambda (and so
# Beam's own Create, Map and FlatMap) is pickled with its code and the path of its file on this machine.


class _Begin(beam.DoFn):
    """The one token the first step waits for."""

    def process(self, element: Any) -> Iterator[tuple[int, int]]:
        """Yield it."""
        yield 0, 0


class _Numbers(beam.DoFn):
    """(task number, 0) of every task: ascending numbers in few bytes, for a job's description holds them."""

    def __init__(self, tasks: Sequence[int]) -> None:
        numbers = np.asarray(tasks, np.int64)
        assert len(numbers) == 0 or (np.diff(numbers) > 0).all()
        self._bits = zlib.compress(np.packbits(np.bincount(numbers) > 0).tobytes())

    def process(self, element: Any) -> Iterator[tuple[int, int]]:
        """Yield them all."""
        bits = np.unpackbits(np.frombuffer(zlib.decompress(self._bits), np.uint8))
        for number in np.flatnonzero(bits).tolist():
            yield number, 0


class _Tasks(beam.PTransform):
    """(task number, one 0) of every task, spread over workers once `after` is complete."""

    def __init__(self, tasks: Sequence[int]) -> None:
        super().__init__()
        self._numbers = _Numbers(tasks)

    def expand(self, after: Any) -> Any:
        return (
            after
            | "wait" >> beam.GroupByKey()
            | "tasks" >> beam.ParDo(self._numbers).with_output_types(tuple[int, int])
            | "spread" >> beam.GroupByKey()
        )


class _Worker(beam.DoFn):
    """Runs a function of (run, number, values) on (number, values); tells the driver why when it fails."""

    def __init__(self, run: Run, function: Callable[[Run, int, Any], Iterable[Any]]) -> None:
        self._run = run
        self._function = function

    def setup(self) -> None:
        """Let tasks count for Beam."""
        metrics.sink = _count

    def process(self, element: Any) -> Iterator[Any]:
        """Run the function on one element."""
        started = time.monotonic()
        try:
            yield from self._function(self._run, *element)
        except BaseException as error:
            self._run.fail(error)
            raise
        Metrics.distribution(metrics.NAMESPACE, metrics.TASK_MS).update(round(1000 * (time.monotonic() - started)))


def _count(name: str, value: int) -> None:
    Metrics.counter(metrics.NAMESPACE, name).inc(value)


@dataclass(frozen=True)
class _Once:
    """Runs a task and yields one token."""

    work: Callable[[Run, int], None]

    def __call__(self, run: Run, task: int, _: Any) -> Iterator[tuple[int, int]]:
        self.work(run, task)
        yield 0, 0


@dataclass(frozen=True)
class _Spill:
    """Writes what a source emits to one file: blocks in destination order, then their offsets."""

    step: Exchange

    def __call__(self, run: Run, source: int, _: Any) -> Iterator[tuple[int, int]]:
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
        yield 0, 0


@dataclass(frozen=True)
class _Gather:
    """Reads a destination's slices of all spill files."""

    step: Exchange

    def __call__(self, run: Run, destination: int, _: Any) -> Iterator[tuple[int, int]]:
        if storage.size_of(self.step.done(run, destination)) is None:
            self.step.receive(run, destination, self._blocks(run, destination))
        yield 0, 0

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
    """Yields (destination, (source, bytes)) for the runner to group.

    The first source also sends every destination an empty block from -1: one that gets nothing else is written, too.
    """

    step: Exchange

    def __call__(self, run: Run, source: int, _: Any) -> Iterator[tuple[int, tuple[int, bytes]]]:
        if source == 0:
            for destination in range(self.step.destinations):
                yield (destination, (-1, b""))
        for destination, block in self.step.emit(run, source):
            yield (destination, (source, block))


@dataclass(frozen=True)
class _Receive:
    """Hands a destination its blocks in source order."""

    step: Exchange

    def __call__(self, run: Run, destination: int, values: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
        if storage.size_of(self.step.done(run, destination)) is None:
            blocks = sorted((value for value in values if value[0] >= 0), key=lambda value: value[0])
            self.step.receive(run, destination, (block for _, block in blocks if block))
        yield 0, 0


def _work(run: Run, function: Callable[[Run, int, Any], Iterable[Any]], value: Any = int) -> Any:
    """The step that runs a function; it gives (number, `value`), which a runner codes without guessing."""
    return beam.ParDo(_Worker(run, function)).with_output_types(tuple[int, value])


def run_graph(run: Run, steps: Sequence[Step], options: Sequence[str], small: bool) -> None:
    """`jobs.run_steps`, by Beam."""
    runner, parsed = runner_and_options(options, small, steps[0].name, run.run_id)
    with beam.Pipeline(runner=runner, options=parsed) as pipeline:
        after = _start(pipeline, parsed)
        for step in steps:
            if not (isinstance(step, Each) and not step.tasks):  # a step of no tasks would hold up the next for ever
                after = _append(run, step, after)
    metrics.collect(pipeline.result)


def _start(pipeline: Any, options: PipelineOptions) -> Any:
    """One token or, for Dask, one a part: it knows no Impulse, and cuts nothing finer than its first step was."""
    if options.get_all_options()["runner"] == DASK:
        from pipelines import dask  # noqa: PLC0415

        return pipeline | "start" >> beam.Create([(0, 0)] * dask.partitions(options))
    return pipeline | "start" >> beam.Impulse() | "begin" >> beam.ParDo(_Begin()).with_output_types(tuple[int, int])


def _append(run: Run, step: Step, after: Any) -> Any:
    if isinstance(step, Each):
        return after | f"{step.name} tasks" >> _Tasks(step.tasks) | step.name >> _work(run, _Once(step.work))
    sources = after | f"{step.name} sources" >> _Tasks(range(step.sources))
    destinations = range(step.destinations)
    if step.mode == "files":
        spilled = sources | f"{step.name} spill" >> _work(run, _Spill(step))
        gather = spilled | f"{step.name} destinations" >> _Tasks(destinations)
        return gather | f"{step.name} gather" >> _work(run, _Gather(step))
    return (
        sources
        | f"{step.name} emit" >> _work(run, _Emit(step), tuple[int, bytes])
        | f"{step.name} group" >> beam.GroupByKey()
        | f"{step.name} receive" >> _work(run, _Receive(step))
    )
