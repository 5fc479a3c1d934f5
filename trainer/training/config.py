"""The config of a training run: typed, with defaults, and checked against the view before anything is built."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from loader import Shards
from schemas import yaml_config
from schemas.errors import Refused
from schemas.storage import is_local
from trainer.average import AverageConfig
from trainer.checkpoint.config import CheckpointConfig, OutputFolder
from trainer.config import ModelConfig, Precision, Strict, Yarn, parse_model_config
from trainer.evaluation.config import EvaluationConfig
from trainer.mesh import MeshConfig
from trainer.monitor.config import MonitorConfig
from trainer.optimizer import OptimizerConfig
from trainer.presets import preset
from trainer.schedules import BatchRamp, BatchSize, Schedules
from trainer.training.recovery import RecoveryConfig


class Stop(Strict):
    """When a run is done: after so many steps, or at the first step that has seen so many tokens. One of the two."""

    steps: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give steps or tokens, one of the two")
        return self

    def reached(self, step: int, tokens: int) -> bool:
        """Whether a run that has made `step` steps over `tokens` tokens is done."""
        return step >= self.steps if self.steps is not None else tokens >= (self.tokens or 0)


class ValidationConfig(Strict):
    """Held-out records, by component.

    every: steps between two validations; there is one before the first step and one after the last, too.
    records: of a component, at most, rounded up to whole microbatches; None: all.
    """

    every: int = Field(default=500, ge=1)
    records: int | None = Field(default=None, ge=1)


class CacheConfig(Strict):
    """Where the shards of a view on gs:// are kept while they are read (docs/cache.md).

    directory: on a local disk; the processes of a machine share it. bytes: what the shards in it never exceed.
    """

    directory: str
    bytes: int = Field(ge=1)


class StageConfig(Strict):
    """A stage after the run proper: longer sequences (docs/context_extension.md). Of its other keys the run's hold.

    name: of its folder, OUTPUT/stages/NAME. data, cache, schedules, microbatch, stop: in place of the run's; steps,
    tokens and positions are counted from the stage's beginning.
    max_position_embeddings: the longest sequence from here on, such as the view's.
    yarn: how rotary frequencies are stretched; None: they are not.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    data: str
    cache: CacheConfig | None = None
    max_position_embeddings: int = Field(ge=1)
    yarn: Yarn | None = None
    schedules: Schedules
    microbatch: int | None = Field(default=None, ge=1)
    stop: Stop


class RunConfig(Strict):
    """Everything a training run is made from. Keys with a default may be left out.

    data: the view, such as runs/demo/shards/4096: a folder or a gs:// URL.
    cache: for a view on gs://; None: TensorFlow reads it where it lies.
    output: the local folder the run writes; the same command goes on from what is there.
    model: `preset` and any key of `ModelConfig`, which overrides the preset's. vocab_size, bos_token_id and
        eos_token_id are the view's tokenizer's where they are left out.
    seed: of the first weights.
    initial: a folder in Hugging Face's format whose weights the run begins with; the architecture must be the same.
    precision: of matrix products (docs/fp8.md). Weights, sums and what is sensitive are float32 with each.
    recompute: make activations again in the backward pass instead of keeping them.
    shapes: static: experts have a fixed number of rows and XLA compiles the step (docs/mesh.md); one process only.
    mesh: the processes that train together; each is started on its own (docs/mesh.md).
    microbatch: sequences whose activations exist at a time in a process; None: its whole part of the batch.
    ema: an exponential moving average of the weights, kept on the host beside them; None: none (docs/optimizer.md).
    balance_weight: alpha of the sequence-wise auxiliary loss.
    document_masking: whether tokens see only their own document; V3 trains without.
    evaluation: how much is evaluated after the last step, and before the first and after the last of each stage, on the
        views of all of them (docs/context_extension.md); None: nothing is.
    log_every: steps between two lines of progress; metrics.jsonl has every step.
    recovery: what is done about steps whose loss or gradient is bad (docs/recovery.md).
    step_timeout: seconds after which a step, or a batch of validation, counts as hung, and the process ends. The first
        step is traced meanwhile.
    monitor: what is measured beside each step, and alerts (docs/monitoring.md).
    stages: what the same model is trained on afterwards, one after another.
    """

    data: str
    cache: CacheConfig | None = None
    output: OutputFolder
    model: dict[str, Any]
    seed: int = Field(default=0, ge=0)
    initial: str | None = None
    precision: Precision = "float32"
    recompute: bool = False
    shapes: Literal["dynamic", "static"] = "dynamic"
    schedules: Schedules
    mesh: MeshConfig = MeshConfig()
    microbatch: int | None = Field(default=None, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: AverageConfig | None = None
    balance_weight: float = Field(default=1e-4, ge=0)
    document_masking: bool = True
    stop: Stop
    validation: ValidationConfig = ValidationConfig()
    evaluation: EvaluationConfig | None = None
    checkpoints: CheckpointConfig = CheckpointConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    log_every: int = Field(default=10, ge=1)
    step_timeout: float = Field(default=1800.0, gt=0)
    monitor: MonitorConfig = MonitorConfig()
    stages: tuple[StageConfig, ...] = ()

    @model_validator(mode="after")
    def _cached_is_remote(self) -> Self:
        if self.cache is not None and is_local(self.data):
            raise ValueError(f"cache is of views on gs://, and data is {self.data}; leave it out")
        return self

    @model_validator(mode="after")
    def _stages_differ(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"every stage needs a name of its own; these are {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _static_is_alone(self) -> Self:
        if self.shapes == "static" and self.mesh.processes > 1:
            raise ValueError(
                f"shapes: static is for one process, and the mesh has {self.mesh.processes}: leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _microbatches_fit(self) -> Self:
        processes = self.mesh.processes
        for sequences in _batch_sizes(self.schedules.batch_size):
            if sequences % processes:
                raise ValueError(f"{processes} processes must divide every batch; {sequences} sequences are one")
            if sequences // processes % self.rows(sequences):
                raise ValueError(
                    f"microbatch ({self.microbatch}) must divide every batch; {sequences} sequences are one"
                    + (f", {sequences // processes} of a process" if processes > 1 else "")
                )
        return self

    def rows(self, sequences: int) -> int:
        """Sequences of a microbatch in each process, in a batch of so many."""
        return self.microbatch or sequences // self.mesh.processes

    def dump_yaml(self) -> str:
        """The config with every default written out, as YAML that `load_run_config` reads back."""
        return yaml_config.dump_yaml(self.model_dump(mode="json"))


def load_run_config(path: str | Path, **replaced: str | None) -> RunConfig:
    """Read and validate a YAML file; `replaced` keys that are not None take the place of the file's.

    Raises:
        Refused: the file is absent, not YAML, or a key (the model's included) is unknown, ill-typed or out of range.
    """
    given = {key: value for key, value in replaced.items() if value is not None}
    config = yaml_config.load(RunConfig, path, given)
    architecture(config, f"{path}: model")
    return config


def architecture(config: RunConfig, origin: str = "model", **known: Any) -> ModelConfig:
    """The config's architecture; `known` keys take the preset's place where the config leaves them out.

    Raises Refused, naming `origin`, for an unknown preset or key, or what does not fit together.
    """
    chosen = dict(config.model)
    name = chosen.pop("preset", None)
    if not isinstance(name, str):
        raise Refused(f"{origin}: needs a preset, such as {{preset: tiny}}")
    return parse_model_config(preset(name).model_dump() | known | chosen, origin)


def model_config(config: RunConfig, shards: Shards, origin: str = "model") -> ModelConfig:
    """The architecture the run trains on a view.

    Raises:
        Refused, naming `origin`: the architecture, a batch or a microbatch does not fit itself or the view.
    """
    info = shards.tokenizer
    model = architecture(config, origin, vocab_size=info.vocab_size, bos_token_id=info.begin, eos_token_id=info.end)
    length = shards.sequence_length
    if model.vocab_size < info.vocab_size:
        raise Refused(
            f"{origin}.vocab_size is {model.vocab_size}, but {shards.folder} has tokens up to {info.vocab_size - 1}: "
            f"leave it out, or give {info.vocab_size} or more"
        )
    if shards.order.lanes % config.mesh.processes:
        raise Refused(
            f"the mesh has {config.mesh.processes} processes, which do not divide the {shards.order.lanes} lanes of "
            f"{shards.folder}: each process reads whole lanes"
        )
    if model.max_position_embeddings < length:
        raise Refused(
            f"{origin}.max_position_embeddings is {model.max_position_embeddings}, but {shards.folder} has sequences "
            f"of {length}: give {length} or more, or a shorter view"
        )
    return model


def _batch_sizes(batch: BatchSize) -> Iterable[int]:
    """Every batch size of a schedule."""
    return range(batch.start, batch.end + 1, batch.multiple) if isinstance(batch, BatchRamp) else [batch.sequences]
