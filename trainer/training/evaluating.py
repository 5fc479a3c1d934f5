"""Evaluation before and after each stage, at the lengths of all of them (docs/context_extension.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from trainer.evaluation.evaluate import EvaluatedView, evaluate, write
from trainer.text import text_of
from trainer.training.records import StartRecord
from trainer.training.stages import Stage
from trainer.training.trainer import Trainer

BEGIN, END = "evaluation_begin", "evaluation"  # .json and .html, in a stage's output


class StageEvaluation:
    """Writes what `python -m trainer evaluate` does of a trainer's model, on the views of `stages`, all those of a run.

    alive: called after each batch. say: of what was found, in process 0. All processes of a mesh call both methods;
    they do nothing where the config asks for no evaluation.
    """

    def __init__(
        self, stages: Sequence[Stage], trainer: Trainer, alive: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._views = list({each.shards.folder: each for each in stages}.values())
        self._trainer, self._alive, self._say = trainer, alive, say
        self._output = Path(trainer.config.output)

    def begin(self, start: StartRecord) -> None:
        """Before the first step of a stage that goes on from another; not again where that was done."""
        if start.step == 0 and start.checkpoint is not None:
            mesh = self._trainer.mesh
            if not mesh.from_first(int((self._output / f"{BEGIN}.json").exists())):
                self._write(BEGIN, start.checkpoint)

    def end(self) -> None:
        """After the last step."""
        self._write(END, self._trainer.config.output)

    def _write(self, name: str, origin: str) -> None:
        trainer, config = self._trainer, self._trainer.config
        if config.evaluation is None:
            return
        with ExitStack() as stack:
            caches = [stack.enter_context(each.cache(trainer.mesh)) for each in self._views]
            views = [
                EvaluatedView(each.shards, text_of(each.shards), cache)
                for each, cache in zip(self._views, caches, strict=True)
            ]
            step, masking = trainer.progress.step, config.document_masking
            found = evaluate(trainer.model, views, config.evaluation, masking, origin, step, trainer.mesh, self._alive)
        if trainer.mesh.rank == 0:
            for line in write(found, self._output, name):
                self._say(line)
