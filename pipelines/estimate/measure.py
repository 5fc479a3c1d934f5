"""All stages, really done on a sample in this process without Beam: processor time and bytes moved, step by step."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipelines import ingest, plan, stages, tokenize
from pipelines.dedup import job as dedup_job
from pipelines.estimate.sample import Sample
from pipelines.jobs import Each, Run, Step, carried_out_by
from pipelines.shard import job as shard_job
from pipelines.stages import Context
from pipelines.tokenizer import job as tokenizer_job
from schemas.config import Config
from schemas.errors import TokenmillError
from schemas.lock import Lock
from schemas.manifest import Stage, StageManifest

_STAGES: dict[Stage, Callable[[Context], None]] = {
    "ingest": ingest.run,
    "dedup": dedup_job.run,
    "tokenizer": tokenizer_job.run,
    "tokenize": tokenize.run,
    "shard": shard_job.run,
}
_LEAST_VOCABULARY = 300


@dataclass
class Measured:
    """One step on the sample. seconds: processor time by component, '' where tasks are no units; moved: shuffled bytes.

    largest: the largest block of the shuffle.
    """

    stage: Stage
    name: str
    seconds: dict[str, float] = field(default_factory=dict)
    moved: int = 0
    largest: int = 0


@dataclass
class Results:
    """What came of the sample. manifests: by folder and component; sequences: packed, by length and component.

    vocab_size: of the tokenizer it was done with; a sample may be too small for the config's. peak: bytes of memory.
    """

    steps: list[Measured]
    manifests: dict[tuple[str, str], StageManifest]
    sequences: dict[int, dict[str, dict[str, int]]]
    vocab_size: int
    sampled_characters: int
    peak: int


def measure(config: Config, sample: Sample, directory: str) -> Results:
    """Do every stage on the sample, in an empty local directory.

    Raises:
        TokenmillError: the sample cannot be done, as the whole run could not or because it is too small.
    """
    run = Run(directory, "plan")
    lock = Lock(directory, run.run_id)
    lock.acquire()
    try:
        plan.write_plan(run, sample.plan)
        steps: list[Measured] = []
        _do("ingest", config, run, sample, steps)
        _do("dedup", config, run, sample, steps)
        config = _tokenizer(config, run, sample, steps)
        _do("tokenize", config, run, sample, steps)
        _do("shard", config, run, sample, steps)
        return _results(config, run, sample, steps)
    finally:
        lock.release()


def warm_up(config: Config, sample: Sample, directory: str) -> None:
    """Ingest a small sample, so that what is loaded once a process is not measured, and multiplied, with the rest."""
    run = Run(directory, "warm")
    lock = Lock(directory, run.run_id)
    lock.acquire()
    try:
        plan.write_plan(run, sample.plan)
        with contextlib.suppress(TokenmillError):  # so little may be no corpus; the sample itself will tell
            _do("ingest", config, run, sample, [])
    finally:
        lock.release()


def _tokenizer(config: Config, run: Run, sample: Sample, steps: list[Measured]) -> Config:
    """Train with the config's vocabulary or the largest half, quarter, … of it that the sample supports."""
    while True:
        before = len(steps)
        try:
            _do("tokenizer", config, run, sample, steps)
            return config
        except TokenmillError:
            smaller = config.tokenizer.vocab_size // 2
            if config.tokenizer.model is not None or smaller < _LEAST_VOCABULARY:
                raise
        del steps[before:]
        tokenizer = config.tokenizer.model_copy(update={"vocab_size": smaller})
        config = config.model_copy(update={"tokenizer": tokenizer})


def _do(stage: Stage, config: Config, run: Run, sample: Sample, steps: list[Measured]) -> None:
    names = [unit.component for unit in sample.plan.units]

    def execute(run: Run, step: Step) -> None:
        found = Measured(stage, step.name)
        if isinstance(step, Each):
            # A task is a unit, but for a step of one task (a model's training) that is not the only unit's.
            of_units = step.name not in ("judge", "train", "clusters", "labels")
            for task in step.tasks:
                _timed(found, names[task] if of_units else "", lambda task=task: step.work(run, task))  # type: ignore[misc]
        else:
            _exchange(run, step, found, names)
        steps.append(found)

    context = Context(run, config, sample.plan, (), lambda event, **facts: None)
    with carried_out_by(execute):
        _STAGES[stage](context)


def _exchange(run: Run, step: Any, found: Measured, names: list[str]) -> None:
    held: dict[int, list[bytes]] = {}

    def emit(source: int) -> None:
        for destination, block in step.emit(run, source):
            held.setdefault(destination, []).append(block)
            found.moved += len(block)
            found.largest = max(found.largest, len(block))

    for source in range(step.sources):
        _timed(found, names[source] if step.sources == len(names) else "", lambda source=source: emit(source))  # type: ignore[misc]
    for number in range(step.destinations):
        blocks = [block for block in held.pop(number, []) if block]
        name = names[number] if step.destinations == len(names) else ""
        _timed(found, name, lambda number=number, blocks=blocks: step.receive(run, number, iter(blocks)))  # type: ignore[misc]


def _timed(found: Measured, component: str, action: Callable[[], None]) -> None:
    start = time.process_time()
    action()
    found.seconds[component] = found.seconds.get(component, 0.0) + time.process_time() - start


def _results(config: Config, run: Run, sample: Sample, steps: list[Measured]) -> Results:
    names = list(sample.plan.by_component)
    manifests = {
        (folder, name): stages.need_manifest(run, folder, name)
        for folder in ("documents", "dedup", "tokens")
        for name in names
    }
    sequences: dict[int, dict[str, dict[str, int]]] = {}
    tokens = {name: manifests["tokens", name].fingerprint for name in names}
    for length in config.shard.sequence_lengths:
        folder = stages.work_folder(f"pack-{length}", shard_job.fingerprint(config, length, tokens))
        sequences[length] = {
            name: stages.total(receipt.unit.counts for receipt in stages.read_receipts(run, folder, tasks))
            for name, tasks in sample.plan.by_component.items()
        }
    trained = stages.need_manifest(run, "tokenizer")
    return Results(
        steps,
        manifests,
        sequences,
        int(trained.details["vocab_size"]),
        int(trained.counts.get("characters", 0)),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
