"""How far a run is: which stages are whole under the fingerprints its config and plan give them."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines import ingest, stages, tokenize
from pipelines.dedup import job as dedup_job
from pipelines.jobs import Run
from pipelines.plan import Plan
from pipelines.shard import job as shard_job
from pipelines.tokenizer import job as tokenizer_job
from schemas.config import Config
from schemas.manifest import STAGES, Stage

Prints = dict[str, str | None]  # fingerprints by component, view, or "" for the tokenizer


def due_stages(run: Run, config: Config, plan: Plan) -> list[Stage]:
    """The stages that are not whole, in order; a stage after one that is due is due."""
    for stage, expected, found in _stages(run, config, plan):
        if found != expected:
            return list(STAGES[STAGES.index(stage) :])
    return []


def outdated_stage(run: Run, config: Config, plan: Plan) -> Stage | None:
    """The first stage that was made whole under another fingerprint: by other versions, since config and plan agree."""
    for stage, expected, found in _stages(run, config, plan):
        if found != expected:
            return stage if any(found[key] not in (None, expected[key]) for key in expected) else None
    return None


def check_files(run: Run, config: Config) -> None:
    """Raise TokenmillError unless every file of every finished stage is there and of its size; names the first."""
    for folder in ("documents", "dedup", "tokens"):
        for name in config.components:
            if stages.read_manifest(run, folder, name) is not None:
                stages.check_files(run, folder, name)
    if stages.read_manifest(run, "tokenizer") is not None:
        stages.check_files(run, "tokenizer")
    for length in config.shard.sequence_lengths:
        view = shard_job.read_view(run, length)
        if view is not None:
            shards = [*view.splits.train.files, *view.provenance]
            shards += [file for split in view.splits.validation.values() for file in split.files]
            stages.check_sizes(run.path(shard_job.view_folder(length)), shards, "shard")


def _stages(run: Run, config: Config, plan: Plan) -> Iterator[tuple[Stage, Prints, Prints]]:
    """(stage, expected fingerprints, found ones); each is asked for only when the stages before are whole."""
    names = list(plan.by_component)
    documents = _found(run, "documents", names)
    yield "ingest", {name: ingest.fingerprint(config, name, plan.fingerprint(name)) for name in names}, documents

    whole = {name: str(documents[name]) for name in names}
    drops = _found(run, "dedup", names)
    yield "dedup", dict.fromkeys(names, dedup_job.fingerprint(config, whole, plan.earlier)), drops

    model = stages.read_manifest(run, "tokenizer")
    expected = tokenizer_job.fingerprint(config, str(drops[names[0]]))
    yield "tokenizer", {"": expected}, {"": model.fingerprint if model else None}

    tokens = _found(run, "tokens", names)
    yield "tokenize", {name: tokenize.fingerprint(config, name, str(drops[name]), expected) for name in names}, tokens

    views = {length: shard_job.read_view(run, length) for length in config.shard.sequence_lengths}
    whole = {name: str(tokens[name]) for name in names}
    wanted: Prints = {str(length): shard_job.fingerprint(config, length, whole) for length in views}
    yield "shard", wanted, {str(length): view.fingerprint if view else None for length, view in views.items()}


def _found(run: Run, folder: str, names: list[str]) -> Prints:
    """The fingerprints of a stage's manifests; None where there is none."""
    manifests = {name: stages.read_manifest(run, folder, name) for name in names}
    return {name: manifest.fingerprint if manifest else None for name, manifest in manifests.items()}
