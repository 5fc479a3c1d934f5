"""What a PATH on the command line is: a run directory, a view, or one stage's folder; and the manifests in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas import manifest
from schemas.errors import Refused, TokenmillError
from schemas.manifest import ShardManifest, Stage, StageManifest

MANIFEST = "manifest.json"
RUN_PARTS = ("config.yaml", "documents", "dedup", "tokenizer", "tokens", "shards")
COMPONENT_FOLDERS: dict[str, Stage] = {"documents": "ingest", "dedup": "dedup", "tokens": "tokenize"}


@dataclass(frozen=True)
class Place:
    """A folder to look at. view: `manifest.json` is a ShardManifest; stage: it is a StageManifest; run: neither."""

    kind: Literal["run", "view", "stage"]
    folder: Path


@dataclass(frozen=True)
class RunManifests:
    """Every manifest of a run directory. stages: by folder name, then component, in the run's order of components."""

    folder: Path
    stages: dict[str, dict[str, StageManifest]]
    tokenizer: StageManifest | None
    views: dict[str, ShardManifest]


def locate(path: str) -> Place:
    """Find out what `path` names.

    Raises:
        Refused: it is remote, absent, or none of the three.
        TokenmillError: its manifest is no JSON object.
    """
    if "://" in path:
        raise Refused(f"{path}: only local paths are read here; copy the run or the view to this machine first")
    folder = Path(path)
    if not folder.exists():
        raise Refused(f"{path}: there is no such file or folder")
    if folder.is_file():
        if folder.name != MANIFEST:
            raise Refused(f"{path}: give a run directory, a view such as RUN/shards/4096, or a {MANIFEST}")
        folder = folder.parent
    if (folder / MANIFEST).is_file():
        return Place("view" if _stage(folder / MANIFEST) == "shard" else "stage", folder)
    if any((folder / part).exists() for part in RUN_PARTS):
        return Place("run", folder)
    raise Refused(f"{path}: this is no run directory and no view; it holds no {MANIFEST} and no {RUN_PARTS[0]}")


def read_run(folder: Path) -> RunManifests:
    """Read the manifests of a run directory; what is not there yet is left out.

    Raises:
        TokenmillError: one of them is broken; names it.
    """
    stages: dict[str, dict[str, StageManifest]] = {}
    for name in COMPONENT_FOLDERS:
        stages[name] = {
            part: manifest.load(StageManifest, folder / name / part / MANIFEST) for part in _whole(folder / name)
        }
    tokenizer = None
    if (folder / "tokenizer" / MANIFEST).is_file():
        tokenizer = manifest.load(StageManifest, folder / "tokenizer" / MANIFEST)
    lengths = sorted(_whole(folder / "shards"), key=lambda name: (len(name), name))
    views = {name: manifest.load(ShardManifest, folder / "shards" / name / MANIFEST) for name in lengths}
    # The dedup manifests name all components in the config's order; the folders alone would give the alphabet's.
    order = [name for whole in stages["dedup"].values() for name in whole.inputs]
    rank = {name: at for at, name in reversed(list(enumerate(order)))}
    for name, found in stages.items():
        stages[name] = dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(order)), item[0])))
    return RunManifests(folder, stages, tokenizer, views)


def _whole(folder: Path) -> list[str]:
    """Names of the sub-folders of `folder` that have a manifest, sorted."""
    return sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))


def _stage(path: Path) -> str:
    try:
        content = json.loads(path.read_bytes())
        return str(content["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TokenmillError(f"{path}: this is no manifest: it is not a JSON object that names its stage") from None
