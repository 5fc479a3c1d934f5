"""A model evaluated on views: what `python -m trainer evaluate` does (docs/evaluation.md)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from loader import Shards
from loader.cache import ShardCache
from schemas import yaml_config
from schemas.errors import Refused
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.needle import Haystacks, retrieval
from trainer.evaluation.page import page
from trainer.evaluation.positions import LossByPosition
from trainer.evaluation.results import Evaluation, Retrieval, ViewResult
from trainer.exchange import CONFIG, read_model
from trainer.held_out import HeldOut, weighted
from trainer.mesh import Mesh
from trainer.model import Model
from trainer.text import Text, text_beside, text_of

TOKENS = 8192
"""Of a batch, at most, unless a single sequence has more."""


@dataclass(frozen=True)
class EvaluatedView:
    """A view, its cache if it is remote, and its tokenizer if there is one."""

    shards: Shards
    text: Text | None
    cache: ShardCache | None = None


def evaluate(
    model: Model,
    views: Sequence[EvaluatedView],
    config: EvaluationConfig,
    document_masking: bool,
    origin: str,
    step: int | None = None,
    mesh: Mesh | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Losses and retrieval on each view, in their order. All processes of a mesh call it, and have the same result.

    origin: where the model was read, and step, that it was trained for: for the result alone. alive: called now and
    then.
    """
    mesh, begun = mesh or Mesh(), time.perf_counter()
    found = []
    for view in views:
        shards, length = view.shards, view.shards.sequence_length
        rows = max(1, TOKENS // length)
        held_out = HeldOut(shards, mesh, rows, config.records, document_masking, alive, view.cache)
        components = LossByPosition(model, held_out)()
        loss = weighted({name: each.loss for name, each in components.items()}, shards)
        if view.text is None:
            needles = Retrieval(length, [], [], 0, "the view's tokenizer is neither in its run nor beside the model")
        else:
            haystacks = Haystacks(shards, view.text, length, config.depths, config.samples, view.cache)
            needles = retrieval(model, haystacks, mesh, rows, alive)
        found.append(ViewResult(shards.folder, length, loss, math.exp(loss), components, needles))
    yarn = model.config.yarn
    seconds = time.perf_counter() - begun
    return Evaluation(origin, step, None if yarn is None else yarn.model_dump(), seconds, found)


def write(evaluation: Evaluation, folder: Path, name: str = "evaluation") -> list[str]:
    """Write NAME.json and NAME.html, the first one last and at once; lines for a terminal: what was found, and where it
    is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.html").write_text(page(evaluation), encoding="utf-8")
    path = folder / f"{name}.json"
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(evaluation.as_json(), indent=1), encoding="utf-8")
    os.replace(new, path)
    return [*evaluation.lines(), f"written to {path} and {path.with_suffix('.html').name}"]


class _Stage(BaseModel):
    data: str


class _Run(BaseModel):
    """What a run's config says of its data."""

    data: str | None = None
    document_masking: bool = True
    stages: list[_Stage] = []


def evaluate_folder(
    directory: str,
    data: Sequence[str],
    output: str | None,
    config: EvaluationConfig,
    step: int | None = None,
    document_masking: bool | None = None,
) -> str:
    """Evaluate the model that `read_model` finds in `directory`, and write it to `output`; what was found.

    data: views; none: those of the run. output: None: `directory`. document_masking: None: as the run trained, or with.

    Raises:
        Refused: there is no model or view, or they do not fit each other.
        TokenmillError: a view is damaged.
    """
    given = Path(directory) / CONFIG
    run = yaml_config.load(_Run, given) if given.exists() else _Run()
    folders = list(data) or list(
        dict.fromkeys([*([run.data] if run.data else []), *(each.data for each in run.stages)])
    )
    if not folders:
        raise Refused(f"{directory}: is no run's output, which would say what data it is for; give --data VIEW")
    opened = [Shards(folder) for folder in folders]
    model, place, origin = read_model(directory, step)
    views = [EvaluatedView(shards, _text(shards, place)) for shards in opened]
    for shards in opened:
        if shards.tokenizer.vocab_size > model.config.vocab_size:
            raise Refused(
                f"{shards.folder}: has tokens up to {shards.tokenizer.vocab_size - 1}, the model {origin} only up to "
                f"{model.config.vocab_size - 1}; give a view that was cut with the model's tokenizer"
            )
    masking = run.document_masking if document_masking is None else document_masking
    found = evaluate(model, views, config, masking, origin, step)
    return "\n".join(write(found, Path(output or directory)))


def _text(shards: Shards, place: Path) -> Text | None:
    """The tokenizer of both, as far as it is there. Raises Refused where the model's is another one than the view's."""
    beside = text_beside(place)
    if beside is None:
        return text_of(shards)
    if not beside.cut(shards):
        raise Refused(
            f"{shards.folder}: was cut with another tokenizer than the one in {place}; give a view of the model's"
        )
    return beside
