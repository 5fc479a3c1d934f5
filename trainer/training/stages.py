"""Training in stages: after the run proper the model goes on with longer sequences (arXiv 2412.19437, section 4.3).

Each stage is a run of its own in a folder of its own below the output, with its own view, schedules, steps and
checkpoints; so it is saved, resumed and recovered as any run. What makes it a stage is how it begins: with the arrays
of the last checkpoint of the one before (weights, router biases, moments, AdamW's step count, the average of the
weights), and with rotary frequencies stretched by its own `yarn`, always from the original ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loader import Shards
from loader.cache import ShardCache
from schemas import yaml_config
from schemas.errors import Refused, TokenmillError
from trainer.checkpoint import open_step
from trainer.checkpoint.config import stage_output
from trainer.checkpoint.load import steps
from trainer.config import ModelConfig
from trainer.exchange import MODEL_FOLDER
from trainer.mesh import Mesh
from trainer.text import same_tokenizer
from trainer.training.config import RunConfig, StageConfig, model_config
from trainer.training.saving import newest
from trainer.training.state import EXTENDED, take_over
from trainer.training.trainer import Trainer

FIRST = "first"  # the name of what comes before all stages


@dataclass(frozen=True)
class Stage:
    """What is trained at a time: the run proper, or a stage after it."""

    name: str
    config: RunConfig
    shards: Shards
    architecture: ModelConfig

    @property
    def saves(self) -> str:
        """The folder of its checkpoints."""
        return self.config.checkpoints.below(self.config.output)

    @contextmanager
    def cache(self, mesh: Mesh) -> Iterator[ShardCache | None]:
        """The view's cache, if it has one, with room for the process's lanes and a shard of validation beside them."""
        config, shards = self.config.cache, self.shards
        if config is None:
            yield None
            return
        concurrent = shards.order.lanes // mesh.processes + 1
        with ShardCache(shards.folder, shards.files, config.directory, config.bytes, concurrent=concurrent) as cache:
            yield cache

    @property
    def finished(self) -> bool:
        """Whether its last checkpoint and its model are written."""
        saved = steps(self.saves)
        if not saved or not (Path(self.config.output) / MODEL_FOLDER).is_dir():
            return False
        meta = open_step(self.saves, saved[-1], beside=True).meta
        return self.config.stop.reached(meta["step"], meta["tokens"])


def stages_of(config: RunConfig) -> list[Stage]:
    """All that a config trains, in order; everything is checked that can be before anything is trained.

    Raises:
        Refused: a stage does not fit its view, or its view has another tokenizer than the first.
        TokenmillError: a view is damaged.
    """
    found: list[Stage] = []
    for name, each in [(FIRST, config), *_configs(config)]:
        shards = Shards(each.data)
        if found and not same_tokenizer(found[0].shards, shards):
            raise Refused(
                f"stages.{name}.data: {shards.folder} was cut with another tokenizer than {found[0].shards.folder}; "
                f"cut all views of a run from the same tokens (`shard.sequence_lengths`), or with one `tokenizer.model`"
            )
        origin = f"stages.{name}" if found else "model"
        found.append(Stage(name, each, shards, model_config(each, shards, origin)))
    return found


def config_of(config: RunConfig, name: str) -> RunConfig:
    """The config of a stage as a run. Raises Refused if there is no such stage."""
    configs = dict(_configs(config))
    if name not in configs:
        raise Refused(f"there is no stage {name}; stages are: {', '.join(configs) or 'none'}")
    return configs[name]


def _configs(config: RunConfig) -> list[tuple[str, RunConfig]]:
    return [(stage.name, _as_run(config, stage)) for stage in config.stages]


def _as_run(config: RunConfig, stage: StageConfig) -> RunConfig:
    """The run's config with what is the stage's in place of its own. Raises Refused where they do not fit together."""
    own = stage.model_dump(mode="json")
    changes = {
        **{key: own[key] for key in ("data", "cache", "schedules", "microbatch", "stop")},
        "output": stage_output(config.output, stage.name),
        "checkpoints": config.checkpoints.of_stage(stage.name).model_dump(mode="json"),
        "model": {**config.model, **{key: own[key] for key in EXTENDED}},
        "initial": None,
        "stages": [],
    }
    return yaml_config.parse(RunConfig, config.model_dump(mode="json") | changes, f"stages.{stage.name}")


def beginning(mesh: Mesh, before: Stage) -> Callable[[Trainer], str]:
    """What makes a trainer stand at the first step of the stage after `before`, and returns the checkpoint it took.

    All processes must call it. It raises TokenmillError where no checkpoint of the end of `before` is whole.
    """

    def begin(trainer: Trainer) -> str:
        checkpoint, quarantined = newest(mesh, before.saves)
        meta = {} if checkpoint is None else checkpoint.meta
        if checkpoint is None or not before.config.stop.reached(meta["step"], meta["tokens"]):
            damaged = "".join(f"; step {step}: {reason}" for step, reason in quarantined)
            raise TokenmillError(
                f"{before.saves}: holds no whole checkpoint of the end of stage {before.name}{damaged}; the same "
                f"command makes the missing steps again"
            )
        take_over(checkpoint, trainer)
        return checkpoint.path

    return begin


def unfinished(mesh: Mesh, stages: Sequence[Stage]) -> int:
    """Index of the first stage that is not done, or of the last one; the same in all processes.

    Raises Refused where a later one has begun already: with another state than the one it would begin with now.
    """
    done = begun = 0
    if mesh.rank == 0:
        while done < len(stages) - 1 and stages[done].finished:
            done += 1
        begun = max(index for index, each in enumerate(stages) if index <= done or steps(each.saves))
    done, begun = mesh.from_first(done), mesh.from_first(begun)
    if begun > done:
        raise Refused(
            f"{stages[begun].saves}: stage {stages[begun].name} has begun, but stage {stages[done].name} before it is "
            f"not done as the config has it; give its `stop` back, or remove the later stage's folders"
        )
    return done
