"""The loop: make a step, report it; validate now and then; stop when the config says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from loader import Shards
from loader.view import view_of
from schemas.errors import Refused
from trainer.exchange import MODEL_FOLDER
from trainer.hf import save_pretrained
from trainer.mesh import Mesh
from trainer.plan.parameters import parameters
from trainer.text import save_tokenizer
from trainer.training.config import RunConfig, model_config
from trainer.training.records import Callback
from trainer.training.sinks import JsonLines, TensorBoard, Terminal
from trainer.training.trainer import Trainer
from trainer.training.validation import Validation

CONFIG, METRICS, TENSORBOARD = "config.yaml", "metrics.jsonl", "tensorboard"


def run(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Train as `config` says, to its end, as one process of its mesh.

    callbacks: told in process 0, after what is written to the output folder.

    Raises:
        Refused: the config does not fit the view, or the environment has another number of processes; before anything
            is built or written.
        TokenmillError: the view is damaged, or another process is lost.
    """
    shards = Shards(config.data)
    architecture = model_config(config, shards)
    output = Path(config.output)
    if (output / METRICS).exists():
        raise Refused(f"{output}: holds a run already; give another output, or remove it")
    mesh = Mesh.join(config.mesh)
    trainer = Trainer(config, shards, architecture, mesh)
    rows = config.rows(config.schedules.batch_size.at(0))
    validation = Validation(trainer.model, shards, mesh, rows, config.validation.records, config.document_masking)
    with ExitStack() as stack:
        told, say = _opened(config, output, callbacks, stack) if mesh.rank == 0 else ([], _nothing)
        say(_about(trainer))

        def validate() -> None:
            at = trainer.progress
            found = validation(at.step, at.position, at.tokens)
            for callback in told if found else ():
                callback.on_validation(found)  # type: ignore[arg-type]

        validate()
        while not config.stop.reached(trainer.progress.step, trainer.progress.tokens):
            record = trainer.step()
            for callback in told:
                callback.on_step_end(record)
            if record.step % config.validation.every == 0:
                validate()
        if trainer.progress.step % config.validation.every:
            validate()
        values = mesh.gathered(trainer.model) if mesh.processes > 1 else None
        if mesh.rank == 0:
            _save(trainer, values, output / MODEL_FOLDER, say)
    return trainer


def _opened(
    config: RunConfig, output: Path, callbacks: Sequence[Callback], stack: ExitStack
) -> tuple[list[Callback], Callable[[str], None]]:
    """Who is told of everything, and what says a sentence on the terminal; closed by the stack."""
    output.mkdir(parents=True, exist_ok=True)
    (output / CONFIG).write_text(config.dump_yaml(), encoding="utf-8")
    terminal = stack.enter_context(closing(Terminal(config.stop, config.log_every)))
    lines = stack.enter_context(closing(JsonLines(output / METRICS)))
    board = stack.enter_context(closing(TensorBoard(output / TENSORBOARD)))
    return [terminal, lines, board, *callbacks], terminal.say


def _nothing(sentence: str) -> None:
    """Process 0 says it."""


def _save(trainer: Trainer, values: Mapping[str, np.ndarray] | None, folder: Path, say: Callable[[str], None]) -> None:
    """The trained model in Hugging Face's format, with its tokenizer where the view's run has it."""
    save_pretrained(trainer.model, folder, values=values)
    if "://" in trainer.shards.folder or not save_tokenizer(
        view_of(Path(trainer.shards.folder), trainer.shards.manifest), folder
    ):
        say(f"{trainer.shards.folder} lies in no run, so there is no tokenizer in {folder}")
    say(f"the model is in {folder}")


def _about(trainer: Trainer) -> str:
    shards, weights = trainer.shards, parameters(trainer.model.config).total
    return (
        f"{weights:,} weights; {shards.records:,} records of {shards.sequence_length} tokens in {shards.folder}; "
        f"an epoch is {shards.records * shards.sequence_length:,} tokens"
    )
