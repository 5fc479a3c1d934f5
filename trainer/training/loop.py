"""The loop: read a batch, make a step, report it; validate now and then; stop when the config says so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader import Shards
from loader.view import view_of
from schemas.errors import Refused
from trainer.config import ModelConfig
from trainer.exchange import MODEL_FOLDER
from trainer.hf import load_pretrained, save_pretrained
from trainer.model import Model, PlainLinear
from trainer.schedules import Settings
from trainer.step import StepOutput, TrainStep, optimizer_of
from trainer.text import save_tokenizer
from trainer.training.config import RunConfig, model_config
from trainer.training.records import Callback, StepRecord, utilisation
from trainer.training.sinks import JsonLines, TensorBoard, Terminal
from trainer.training.validation import Validation

CONFIG, METRICS, TENSORBOARD = "config.yaml", "metrics.jsonl", "tensorboard"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps made, records of the view consumed, tokens trained on."""

    step: int = 0
    position: int = 0
    tokens: int = 0


class Input:
    """Batches from a position on, of a size that may change from one to the next."""

    def __init__(self, shards: Shards, document_masking: bool) -> None:
        self._shards, self._masking = shards, document_masking
        self._sequences = 0
        self._batches: Iterator[dict[str, Any]] = iter(())

    def next(self, sequences: int, position: int) -> dict[str, Any]:
        """The batch of `sequences` records from `position`, where the one before it ended."""
        if sequences != self._sequences:
            data = self._shards.dataset(sequences, start=position, document_masking=self._masking)
            self._batches, self._sequences = iter(data), sequences
        return next(self._batches)


class Trainer:
    """A model on a view, its step, and where it stands."""

    def __init__(self, config: RunConfig, shards: Shards, architecture: ModelConfig) -> None:
        self.config, self.shards = config, shards
        linear = PlainLinear(tf.as_dtype(config.precision))
        self.model = Model(architecture, config.seed, linear, config.recompute)
        if config.initial is not None:
            _take_weights(self.model, config.initial)
        self.optimizer = optimizer_of(self.model, config.optimizer)
        self.progress = Progress()
        self._input = Input(shards, config.document_masking)
        self._steps: dict[int, TrainStep] = {}

    def step(self) -> StepRecord:
        """Make the next step."""
        before = self.progress
        settings = self.config.schedules.at(before.step, before.tokens)
        begun = time.perf_counter()
        batch = self._input.next(settings.sequences, before.position)
        read = time.perf_counter()
        output = self._step_of(settings.sequences)(
            batch, settings.learning_rate, settings.bias_speed, settings.mtp_weight
        )
        norm = float(output.norm)  # waits for the step
        made = time.perf_counter()
        self.progress = replace(
            before,
            step=before.step + 1,
            position=before.position + settings.sequences,
            tokens=before.tokens + settings.sequences * self.shards.sequence_length,
        )
        return self._record(settings, output, norm, read - begun, made - read)

    def _step_of(self, sequences: int) -> TrainStep:
        rows = self.config.rows(sequences)
        if rows not in self._steps:
            self._steps[rows] = TrainStep(
                self.model, self.optimizer, rows, self.config.balance_weight, len(self.shards.components)
            )
        return self._steps[rows]

    def _record(
        self, settings: Settings, output: StepOutput, norm: float, input_seconds: float, step_seconds: float
    ) -> StepRecord:
        losses, made = output.losses, self.progress
        sums, counts = losses.component_losses.numpy(), losses.component_tokens.numpy()
        by_component = {
            name: float(summed / count) if count else None
            for name, summed, count in zip(self.shards.components, sums, counts, strict=True)
        }
        tokens = settings.sequences * self.shards.sequence_length
        return StepRecord(
            made.step,
            made.position,
            made.tokens,
            settings.sequences,
            settings.learning_rate,
            settings.bias_speed,
            settings.mtp_weight,
            float(losses.main),
            float(losses.total),
            float(losses.mtp),
            float(losses.balance),
            by_component,
            int(losses.tokens),
            norm,
            bool(output.applied),
            utilisation(np.asarray(losses.expert_counts)),
            tokens / (input_seconds + step_seconds),
            input_seconds,
            step_seconds,
        )


def _take_weights(model: Model, folder: str) -> None:
    """Give a model the weights and router biases in `folder`. Raises Refused where that is another architecture."""
    given = load_pretrained(folder)
    ours, theirs = model.config.model_dump(), given.config.model_dump()
    # Neither changes a weight: the context may be extended, and special ids are the tokenizer's.
    for key in sorted(ours.keys() - {"max_position_embeddings", "yarn", "bos_token_id", "eos_token_id"}):
        if ours[key] != theirs[key]:
            raise Refused(f"initial: {folder} has {key} {theirs[key]}, the config's model has {ours[key]}")
    mine = (*model.variables_in_order, *model.router_biases)
    for variable, value in zip(mine, (*given.variables_in_order, *given.router_biases), strict=True):
        variable.assign(value)


def run(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Train as `config` says, to its end. callbacks: told after what is written to the output folder.

    Raises:
        Refused: the config does not fit the view; before anything is built or written.
        TokenmillError: the view is damaged.
    """
    shards = Shards(config.data)
    architecture = model_config(config, shards)
    trainer = Trainer(config, shards, architecture)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / CONFIG).write_text(config.dump_yaml(), encoding="utf-8")
    rows = config.rows(config.schedules.batch_size.at(0))
    validation = Validation(trainer.model, shards, rows, config.validation.records, config.document_masking)
    with ExitStack() as stack:
        terminal = stack.enter_context(closing(Terminal(config.stop, config.log_every, 0, 0)))
        lines = stack.enter_context(closing(JsonLines(output / METRICS)))
        board = stack.enter_context(closing(TensorBoard(output / TENSORBOARD)))
        told: list[Callback] = [terminal, lines, board, *callbacks]
        terminal.say(_about(trainer))

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
        _save(trainer, output / MODEL_FOLDER, terminal)
    return trainer


def _save(trainer: Trainer, folder: Path, terminal: Terminal) -> None:
    """The trained model in Hugging Face's format, with its tokenizer where the view's run has it."""
    save_pretrained(trainer.model, folder)
    if "://" in trainer.shards.folder or not save_tokenizer(
        view_of(Path(trainer.shards.folder), trainer.shards.manifest), folder
    ):
        terminal.say(f"{trainer.shards.folder} lies in no run, so there is no tokenizer in {folder}")
    terminal.say(f"the model is in {folder}")


def _about(trainer: Trainer) -> str:
    weights = sum(int(np.prod(variable.shape)) for variable in trainer.model.variables_in_order)
    shards = trainer.shards
    return (
        f"{weights:,} weights; {shards.records:,} records of {shards.sequence_length} tokens in {shards.folder}; "
        f"an epoch is {shards.records * shards.sequence_length:,} tokens"
    )
