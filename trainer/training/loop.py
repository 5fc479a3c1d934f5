"""The loop: make a step, report it; validate and save now and then; stop when the config or a signal says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

import numpy as np

from loader import Shards
from loader.view import view_of
from schemas.errors import Refused
from schemas.lock import Lock, check_owner
from trainer.exchange import CONFIG, MODEL_FOLDER
from trainer.held_out import HeldOut
from trainer.hf import save_pretrained
from trainer.mesh import Mesh
from trainer.monitor.monitor import Monitor
from trainer.monitor.profiler import Profiler
from trainer.plan.parameters import parameters
from trainer.text import save_tokenizer
from trainer.training.config import RunConfig
from trainer.training.evaluating import StageEvaluation
from trainer.training.interruption import Interruption
from trainer.training.journal import Journal, cut
from trainer.training.records import Callback, Measured, StageRecord, StartRecord
from trainer.training.recovery import Recovery
from trainer.training.saving import Checkpoints, Kept, go_on
from trainer.training.sinks import TensorBoard, Terminal
from trainer.training.stages import Stage, beginning, stages_of, unfinished
from trainer.training.trainer import Trainer
from trainer.training.validation import Validation
from trainer.training.watchdog import Watchdog

METRICS, TENSORBOARD, PROFILE = "metrics.jsonl", "tensorboard", "profile"


def run(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Train as `config` says, as one process of its mesh, from the output's newest checkpoint or anew.

    Returns when the `stop` of the config and of all its stages is reached, or after SIGTERM or SIGINT and a checkpoint,
    from which the same call goes on.

    callbacks: told in process 0, after what is written to the output folder.

    Raises:
        Refused: the config does not fit a view or the run that is in the output, another process is at work there, or
            the environment has another number of processes; before anything is trained or written.
        TokenmillError: a view is damaged, another process is lost, or the last checkpoint could not be saved.
    """
    stages = stages_of(config)
    mesh = Mesh.join(config.mesh)
    with Interruption() as interruption:
        for number in range(unfinished(mesh, stages), len(stages)):
            begin = beginning(mesh, stages[number - 1]) if number else None
            trainer = _train(stages[number], stages, mesh, interruption, begin, callbacks)
            if mesh.any(interruption.asked is not None):
                break
    return trainer


def _train(
    stage: Stage,
    stages: Sequence[Stage],
    mesh: Mesh,
    interruption: Interruption,
    begin: Callable[[Trainer], str] | None,
    callbacks: Sequence[Callback],
) -> Trainer:
    """One of `stages`, until it is done or a signal asks to stop."""
    config, shards, saves, output = stage.config, stage.shards, stage.saves, Path(stage.config.output)
    with ExitStack() as stack:
        guard: Callable[[], None] | None = None
        if mesh.rank == 0:
            stack.enter_context(_alone(config.output))
            guard = stack.enter_context(_alone(saves))
        watchdog = stack.enter_context(Watchdog(config.step_timeout))
        cache = stack.enter_context(stage.cache(mesh))
        trainer = Trainer(config, shards, stage.architecture, mesh, cache, begin)
        start, saved = go_on(trainer, saves)
        validated = saved.get("validated")
        recovery = Recovery(config.recovery)
        recovery.restore(saved.get("recovery", {}))
        told: list[Callback] = []
        say: Callable[[str], None] = _nothing
        if mesh.rank == 0:
            told, say = _opened(config, trainer, output, start, validated, callbacks, stack)
            say(_about(trainer))
            for callback in told:
                callback.on_start(start)
        others = tuple(told)

        def write(record: Measured) -> None:
            for callback in others:
                callback.on_monitor(record)

        monitor = stack.enter_context(Monitor(config.monitor, trainer, output, write, say))
        if "monitor" in saved:
            monitor.restore(saved["monitor"])
        told.append(monitor)  # in all processes

        def alive() -> None:
            watchdog.alive()
            monitor.alive()

        kept: dict[str, Kept] = {"monitor": monitor, "recovery": recovery}
        checkpoints = stack.enter_context(Checkpoints(trainer, saves, told, kept, guard))
        rows = config.rows(config.schedules.batch_size.at(0))
        held_out = HeldOut(shards, mesh, rows, config.validation.records, config.document_masking, alive, cache)
        validation = Validation(trainer.model, held_out)
        evaluation = StageEvaluation(stages, trainer, alive, say)
        evaluation.begin(start)
        work = _Run(trainer, told, validation, checkpoints, recovery, monitor, watchdog, interruption, validated)
        if work.train():
            at = trainer.progress
            record = StageRecord(stage.name, at.step, at.position, at.tokens, shards.sequence_length, work.loss)
            for callback in told:
                callback.on_stage_end(record)
            evaluation.end()
            values = mesh.gathered(trainer.model) if mesh.processes > 1 else None
            if mesh.rank == 0:
                _save(trainer, values, output / MODEL_FOLDER, say)
        else:
            say(f"stopped after step {trainer.progress.step}, which is saved; the same command goes on from there")
        checkpoints.finish()
    return trainer


@dataclass
class _Run:
    """The loop's parts. validated, loss: step of the last validation, and what it found if it was made here."""

    trainer: Trainer
    told: Sequence[Callback]
    validation: Validation
    checkpoints: Checkpoints
    recovery: Recovery
    monitor: Monitor
    watchdog: Watchdog
    interruption: Interruption
    validated: int | None
    loss: float | None = None

    def train(self) -> bool:
        """Go on to the end: True, or False where a signal asked to stop. Both ends are saved."""
        config, trainer = self.trainer.config, self.trainer
        if trainer.progress.step % config.validation.every == 0:
            self._validate()
        while not config.stop.reached(trainer.progress.step, trainer.progress.tokens):
            record = trainer.step(*self.recovery.limits())
            self.watchdog.alive()
            for callback in self.told:
                callback.on_step_end(record)
            if self.recovery.see(record):
                self._go_back()
                continue
            if record.step % config.validation.every == 0:
                self._validate()
            if record.step % config.checkpoints.every == 0:
                self.checkpoints.save(self.validated, self.loss)
            self.checkpoints.report()
            if trainer.mesh.any(self.interruption.asked is not None):
                self.checkpoints.save(self.validated, self.loss)
                return False
        self._validate()
        self.checkpoints.save(self.validated, self.loss)
        return True

    def _go_back(self) -> None:
        """To a checkpoint before the bad steps. Raises TokenmillError where that was tried often enough."""
        recovery, trainer = self.recovery, self.trainer
        bad, over = tuple(recovery.skipped), trainer.over
        record, saved = self.checkpoints.go_back(recovery.before(trainer.progress.step))
        position = trainer.progress.position
        over += recovery.gone_back(record.to_step, position, saved.get("recovery", {}))
        trainer.over = tuple(span for span in over if span[1] > position)
        self.validated, self.loss = saved.get("validated"), None
        if "monitor" in saved:
            self.monitor.restore(saved["monitor"])
        for callback in self.told:
            callback.on_rollback(replace(record, bad=bad, over=trainer.over))
        self.watchdog.alive()

    def _validate(self) -> None:
        """Unless this step was."""
        at = self.trainer.progress
        if self.validated == at.step:
            return
        found = self.validation(at.step, at.position, at.tokens)
        self.validated, self.loss = at.step, None
        if found is not None:  # the view holds something out
            self.loss = found.loss
            for callback in self.told:
                callback.on_validation(found)


@contextmanager
def _alone(folder: str) -> Iterator[Callable[[], None]]:
    """Own a folder; gives a check that raises TokenmillError once it is another run's.

    Raises Refused where a run that is alive owns it.
    """
    run = uuid4().hex[:12]
    lock = Lock(folder, run)
    lock.acquire()
    try:
        yield partial(check_owner, folder, run)
    finally:
        lock.release()


def _opened(
    config: RunConfig,
    trainer: Trainer,
    output: Path,
    start: StartRecord,
    validated: int | None,
    callbacks: Sequence[Callback],
    stack: ExitStack,
) -> tuple[list[Callback], Callable[[str], None]]:
    """Who is told of everything, and what says a sentence on the terminal; closed by the stack."""
    if start.step == 0 and (output / MODEL_FOLDER).exists():
        raise Refused(f"{output}: holds a trained model and no checkpoint to go on from; give another output")
    again = cut(output / METRICS, start.step, validated)
    (output / CONFIG).write_text(config.dump_yaml(), encoding="utf-8")
    terminal = stack.enter_context(closing(Terminal(config.stop, config.log_every)))
    if not _save_tokenizer(trainer.shards, output):
        terminal.say(f"{trainer.shards.folder} lies in no run, so there is no tokenizer to write beside the model")
    if again:
        terminal.say(f"{again} steps after step {start.step} were not saved and are made again")
    journal = stack.enter_context(closing(Journal(output / METRICS)))
    board = stack.enter_context(closing(TensorBoard(output / TENSORBOARD, start.step)))
    told: list[Callback] = [terminal, journal, board]
    if config.monitor.profile is not None:
        told.append(stack.enter_context(closing(Profiler(config.monitor.profile, output / PROFILE))))
    return [*told, *callbacks], terminal.say


def _nothing(sentence: str) -> None:
    """Process 0 says it."""


def _save(trainer: Trainer, values: Mapping[str, np.ndarray] | None, folder: Path, say: Callable[[str], None]) -> None:
    """The trained model in Hugging Face's format, with its tokenizer where the view's run has it."""
    if folder.exists():  # of the shorter run that this one went on from
        rmtree(folder)
    save_pretrained(trainer.model, folder, values=values)
    _save_tokenizer(trainer.shards, folder)
    say(f"the model is in {folder}")


def _save_tokenizer(shards: Shards, folder: Path) -> bool:
    """The tokenizer of the run the view lies in; False where it lies in none."""
    return "://" not in shards.folder and save_tokenizer(view_of(Path(shards.folder), shards.manifest), folder)


def _about(trainer: Trainer) -> str:
    shards, weights = trainer.shards, parameters(trainer.model.config).total
    return (
        f"{weights:,} weights; {shards.records:,} records of {shards.sequence_length} tokens in {shards.folder}; "
        f"an epoch is {shards.records * shards.sequence_length:,} tokens"
    )
