"""A model on a view: its step, and where it stands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loader import Shards
from loader.cache import ShardCache
from loader.files import Lease
from schemas.errors import Refused
from trainer import mesh as meshes
from trainer.average import Average
from trainer.config import ModelConfig
from trainer.hf import load_pretrained
from trainer.mesh import Mesh
from trainer.model import Model
from trainer.model.static import StaticExchange
from trainer.precision import linear_for
from trainer.schedules import Settings
from trainer.step import StepOutput, TrainStep, optimizer_of
from trainer.training.config import RunConfig
from trainer.training.records import StepRecord, utilisation
from trainer.training.recovery import Span, next_position


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps made, records of the view consumed, tokens trained on."""

    step: int = 0
    position: int = 0
    tokens: int = 0


class Input:
    """This process's batches from a position on, of a size that may change from one to the next."""

    def __init__(self, shards: Shards, mesh: Mesh, document_masking: bool, cache: ShardCache | None) -> None:
        self._shards, self._mesh, self._masking, self._cache = shards, mesh, document_masking, cache
        self._lease: Lease | None = None
        self._sequences = self._position = -1
        self._batches: Iterator[dict[str, Any]] = iter(())

    def next(self, sequences: int, position: int) -> dict[str, Any]:
        """Its part of the batch of `sequences` records from `position`; cheap where the one before it ended."""
        if (sequences, position) != (self._sequences, self._position):
            if self._lease is not None:
                self._lease.close()
            self._lease = None if self._cache is None else Lease(self._cache)
            data = self._shards.dataset(
                sequences,
                self._mesh.rank,
                self._mesh.processes,
                position,
                document_masking=self._masking,
                cache=self._lease,
            )
            self._batches = iter(data)
        self._sequences, self._position = sequences, position + sequences
        return next(self._batches)


class Trainer:
    """A model on a view, its step, and where it stands. mesh: None for one process. cache: the view's, if it is remote.

    begin: gives a new trainer the state it begins with, where that is not a model's first one, and returns where from.
    over: positions ahead that are stepped over (`trainer.training.recovery`).
    """

    def __init__(
        self,
        config: RunConfig,
        shards: Shards,
        architecture: ModelConfig,
        mesh: Mesh | None = None,
        cache: ShardCache | None = None,
        begin: Callable[[Trainer], str] | None = None,
    ) -> None:
        self.begin = begin
        self.config, self.shards, self.mesh = config, shards, mesh or Mesh()
        linear = linear_for(config.precision)
        exchange = StaticExchange() if config.shapes == "static" else self.mesh.exchange(architecture)
        self.model = Model(architecture, config.seed, linear, config.recompute, exchange)
        if config.initial is not None:
            _take_weights(self.model, config.initial)
        self._parts = meshes.Shards(self.mesh, self.model)
        self.optimizer = optimizer_of(self.model, config.optimizer, self._parts)
        self.average = None if config.ema is None else Average(self._parts.parameters, config.ema.decay)
        self.progress = Progress()
        self.over: tuple[Span, ...] = ()
        self._input = Input(shards, self.mesh, config.document_masking, cache)
        self._steps: dict[int, TrainStep] = {}

    def step(self, max_loss: float = math.inf, max_norm: float = math.inf) -> StepRecord:
        """Make the next step; a loss or gradient norm that is not finite or above these leaves all but progress be."""
        before = self.progress
        settings = self.config.schedules.at(before.step, before.tokens)
        begun = time.perf_counter()
        position = next_position(before.position, settings.sequences, self.over)
        batch = self._input.next(settings.sequences, position)
        read = time.perf_counter()
        output = self._step_of(settings.sequences)(
            batch, settings.learning_rate, settings.bias_speed, settings.mtp_weight, max_loss, max_norm
        )
        norm = float(output.norm)  # waits for the step
        if self.average is not None and output.applied:
            self.average.update(int(self.optimizer.step))
        made = time.perf_counter()
        self.progress = replace(
            before,
            step=before.step + 1,
            position=position + settings.sequences,
            tokens=before.tokens + settings.sequences * self.shards.sequence_length,
        )
        return self._record(settings, output, norm, read - begun, made - read)

    def begin_again(self) -> None:
        """Stand before the first step again. All processes of the mesh must call it."""
        if self.begin is not None:
            self.begin(self)
        else:
            new = Trainer(self.config, self.shards, self.model.config, self.mesh)
            for mine, theirs in zip(self.owned(), new.owned(), strict=True):
                mine.variable.assign(theirs.variable.read_value())
        self.progress, self.over = Progress(), ()

    def owned(self) -> list[meshes.Owned]:
        """The state as this process holds it: what a checkpoint saves, and what restoring assigns."""
        return self._parts.owned(self.optimizer, self.average)

    def _step_of(self, sequences: int) -> TrainStep:
        rows = self.config.rows(sequences)
        if rows not in self._steps:
            self._steps[rows] = TrainStep(
                self.model, self.optimizer, rows, self.config.balance_weight, len(self.shards.components), self._parts
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
