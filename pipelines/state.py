"""How far a run is: which stages are whole under the fingerprints its config and plan give them."""

from __future__ import annotations

from pipelines import ingest, stages, tokenize
from pipelines.dedup import job as dedup_job
from pipelines.jobs import Run
from pipelines.plan import Plan
from pipelines.shard import job as shard_job
from pipelines.tokenizer import job as tokenizer_job
from schemas.config import Config
from schemas.manifest import STAGES, Stage, StageManifest


def due_stages(run: Run, config: Config, plan: Plan) -> list[Stage]:
    """The stages that are not whole, in order; a stage after one that is due is due."""
    for stage, is_done in (
        ("ingest", _ingested),
        ("dedup", _deduplicated),
        ("tokenizer", _has_tokenizer),
        ("tokenize", _tokenized),
        ("shard", _sharded),
    ):
        if not is_done(run, config, plan):
            return list(STAGES[STAGES.index(stage) :])
    return []


def _manifests(run: Run, folder: str, plan: Plan) -> dict[str, StageManifest] | None:
    """The manifests of a stage, or None when one is missing."""
    found = {name: stages.read_manifest(run, folder, name) for name in plan.by_component}
    whole = {name: manifest for name, manifest in found.items() if manifest is not None}
    return whole if len(whole) == len(found) else None


def _prints(run: Run, folder: str, plan: Plan) -> dict[str, str]:
    found = _manifests(run, folder, plan) or {}
    return {name: manifest.fingerprint for name, manifest in found.items()}


def _ingested(run: Run, config: Config, plan: Plan) -> bool:
    expected = {name: ingest.fingerprint(config, name, plan.fingerprint(name)) for name in plan.by_component}
    return _prints(run, "documents", plan) == expected


def _deduplicated(run: Run, config: Config, plan: Plan) -> bool:
    expected = dedup_job.fingerprint(config, _prints(run, "documents", plan))
    return _prints(run, "dedup", plan) == dict.fromkeys(plan.by_component, expected)


def _has_tokenizer(run: Run, config: Config, plan: Plan) -> bool:
    drops = next(iter(_prints(run, "dedup", plan).values()))
    found = stages.read_manifest(run, "tokenizer")
    return found is not None and found.fingerprint == tokenizer_job.fingerprint(config, drops)


def _tokenized(run: Run, config: Config, plan: Plan) -> bool:
    model = stages.need_manifest(run, "tokenizer").fingerprint
    drops = _prints(run, "dedup", plan)
    expected = {name: tokenize.fingerprint(config, name, drops[name], model) for name in plan.by_component}
    return _prints(run, "tokens", plan) == expected


def _sharded(run: Run, config: Config, plan: Plan) -> bool:
    tokens = _prints(run, "tokens", plan)
    for length in config.shard.sequence_lengths:
        found = shard_job.read_view(run, length)
        if found is None or found.fingerprint != shard_job.fingerprint(config, length, tokens):
            return False
    return True
