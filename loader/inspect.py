"""`inspect`: what a run, a view or a stage's folder holds, read from its manifests alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from loader.locate import MANIFEST, Place, RunManifests, read_run
from schemas import manifest
from schemas.manifest import File, ShardManifest, StageManifest
from schemas.mixture import MAX_DENOMINATOR, pattern

Facts = dict[str, Any]


def inspect(place: Place) -> Facts:
    """The facts of a place, as JSON values: counts, and sizes in bytes.

    Raises:
        TokenmillError: a manifest is broken.
    """
    about: Facts = {"path": str(place.folder), "kind": place.kind}
    path = place.folder / MANIFEST
    if place.kind == "view":
        return about | view_facts(manifest.load(ShardManifest, path))
    if place.kind == "stage":
        return about | stage_facts(manifest.load(StageManifest, path))
    return about | run_facts(read_run(place.folder))


def run_facts(run: RunManifests) -> Facts:
    """A run: the documents' way from the sources to the tokens, the tokenizer, the views, and what is not finished."""
    components = {name: _funnel(run, name) for name in run.stages["documents"]}
    return {
        "documents": components,
        "tokenizer": run.tokenizer.details | {"bytes": _bytes(run.tokenizer.files)} if run.tokenizer else None,
        "bytes": {folder: sum(_bytes(whole.files) for whole in found.values()) for folder, found in run.stages.items()},
        "alarms": sorted({alarm for whole in run.stages["dedup"].values() for alarm in whole.alarms}),
        "views": {name: view_facts(view) for name, view in run.views.items()},
        "unfinished": unfinished(run),
    }


def unfinished(run: RunManifests) -> list[str]:
    """The folders of a run that should have a manifest and have none."""
    stages = run.stages
    expected = {
        name: None
        for found in stages.values()
        for whole in found.values()
        for name in (whole.component or "", *whole.inputs)
    }
    names = [name for name in expected if any(name in found for found in stages.values())]
    missing = [f"{folder}/{name}" for folder, found in stages.items() for name in names if name not in found]
    missing += [] if run.tokenizer else ["tokenizer"]
    views = {path.name for path in (run.folder / "shards").glob("[0-9]*") if path.is_dir()}
    return missing + ([f"shards/{name}" for name in sorted(views - run.views.keys())] if views else ["shards"])


def stage_facts(whole: StageManifest) -> Facts:
    """One stage's folder."""
    return {
        "stage": whole.stage,
        "component": whole.component,
        "fingerprint": whole.fingerprint,
        "units": len(whole.units),
        "files": len(whole.files),
        "bytes": _bytes(whole.files),
        "counts": whole.counts,
        "alarms": list(whole.alarms),
        "details": whole.details,
        "versions": whole.versions,
    }


def view_facts(view: ShardManifest) -> Facts:
    """One view: its shape, splits, mixture, and both conservation laws."""
    train, weights = view.splits.train, [component.weight for component in view.order.components]
    tiles = train.records // max(sum(weights), 1)
    held_out = view.splits.validation
    return {
        "fingerprint": view.fingerprint,
        "sequence_length": view.sequence_length,
        "token_dtype": view.token_dtype,
        "packing": view.packing,
        "tokenizer": view.tokenizer.model_dump(),
        "order": {"seed": view.order.seed, "lanes": train.lanes, "groups": train.groups, "rows": train.rows},
        "splits": {
            "train": {"records": train.records, "files": len(train.files), "bytes": _bytes(train.files)},
            "validation": {
                name: {"records": split.records, "files": len(split.files), "bytes": _bytes(split.files)}
                for name, split in held_out.items()
            },
        },
        "components": {
            component.name: component.model_dump(exclude={"name"})
            | {"records": component.weight * tiles}
            | view.components[component.name].model_dump()
            for component in view.order.components
            if component.name in view.components
        },
        "mixture_error": largest_prefix_error(tuple(weights)),
        "conservation": view.conservation.model_dump(by_alias=True),
        "bytes": {
            "shards": _bytes(train.files) + sum(_bytes(split.files) for split in held_out.values()),
            "provenance": _bytes(view.provenance),
        },
    }


def largest_prefix_error(weights: tuple[int, ...]) -> float | None:
    """The largest distance, in records, of any component from its exact share in any prefix of the order.

    The order repeats the pattern of D = sum(weights) records without end, in every epoch, and after D records every
    component has its share exactly: the largest |count_c(p) - p·a_c/D| over p <= D is the largest of all. None for
    weights no order has.
    """
    if not weights or min(weights) < 0 or not 0 < sum(weights) <= MAX_DENOMINATOR:
        return None
    chosen = pattern(weights)[:, None] == np.arange(len(weights))
    p = np.arange(1, len(chosen) + 1)[:, None]
    return float(np.abs(np.cumsum(chosen, axis=0) - p * np.array(weights) / sum(weights)).max())


def _funnel(run: RunManifests, component: str) -> Facts:
    """A component's documents: in, rejected and dropped by reason, kept by the last stage that is done."""
    documents = run.stages["documents"][component]
    drops = run.stages["dedup"].get(component)
    tokens = run.stages["tokens"].get(component)
    rejected, dropped = _reasons(documents, "rejected"), _reasons(drops, "dropped")
    for reason, count in _reasons(tokens, "rejected").items():
        rejected[reason] = rejected.get(reason, 0) + count
    kept = documents.counts.get("kept", 0) - sum(dropped.values())
    return {
        "in": documents.counts.get("documents_in", 0),
        "rejected": rejected,
        "dropped": dropped,
        "kept": tokens.counts.get("kept", 0) if tokens else kept,
        "tokens": tokens.counts.get("tokens") if tokens else None,
    }


def _reasons(whole: StageManifest | None, kind: str) -> dict[str, int]:
    counts = whole.counts if whole else {}
    return {key.split(".", 1)[1]: n for key, n in counts.items() if key.startswith(f"{kind}.") and n}


def _bytes(files: tuple[File, ...]) -> int:
    return sum(file.bytes for file in files)
