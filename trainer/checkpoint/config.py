"""The part of a training config that says where its files lie and which checkpoints are kept. Needs no TensorFlow."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.gcs import SCHEME
from schemas.storage import is_local
from trainer.config import Strict

FOLDER, STAGES = "checkpoints", "stages"


def _local(path: str) -> str:
    if not is_local(path):
        raise ValueError(
            f"{path} is not a local folder, which logs and TensorBoard need, as they grow from step to step; give one, "
            f"and put what must outlast the machine on gs:// with checkpoints: {{directory: {SCHEME}BUCKET/PREFIX}}"
        )
    return path


def _local_or_bucket(path: str) -> str:
    bucket = path.removeprefix(SCHEME).partition("/")[0]
    if not is_local(path) and not (path.startswith(SCHEME) and bucket):
        raise ValueError(f"{path} is neither a local folder nor {SCHEME}BUCKET/PREFIX")
    return path


OutputFolder = Annotated[str, AfterValidator(_local)]
"""The folder a run writes."""


def stage_output(output: str, name: str) -> str:
    """The folder that a stage of a run writes."""
    return os.path.join(output, STAGES, name)


class CheckpointConfig(Strict):
    """Checkpoints (docs/checkpoints.md). There is one after the last step, too.

    directory: a folder or gs://BUCKET/PREFIX, of this run alone; None: `checkpoints/` of the output.
    every: steps between two. keep: so many of the newest stay; the best by validation always does. keep_every: besides,
        those whose step is a multiple of it; None: no others.
    """

    directory: Annotated[str, AfterValidator(_local_or_bucket)] | None = None
    every: int = Field(default=1000, ge=1)
    keep: int = Field(default=5, ge=1)
    keep_every: int | None = Field(default=None, ge=1)

    def of_stage(self, name: str) -> CheckpointConfig:
        """The same for a stage of the run: a folder beside the run's, DIRECTORY-NAME, where it is not the output's."""
        directory = self.directory and f"{self.directory.rstrip('/')}-{name}"
        return self.model_copy(update={"directory": directory})

    def below(self, output: str | os.PathLike[str]) -> str:
        """The folder of the checkpoints of a run that writes to `output`."""
        return self.directory or os.path.join(output, FOLDER)
