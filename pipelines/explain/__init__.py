"""explain: what became of a document or an input, and why.

An id is looked up in its unit's files. A path is looked up in the plan first, which tells the units to read. Each unit
is then followed through the stages: its documents and rejects, its drops, its tokens, and the provenance of each view.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter

import pyarrow.compute as pc

from pipelines.explain.accounts import Account, Container, Document, Drop, Record, Rejection, View
from pipelines.explain.fates import Fates, with_kept_sources, with_views
from pipelines.explain.find import Target, find
from pipelines.explain.render import as_json, as_text
from pipelines.explain.tables import Mask, one_of
from pipelines.jobs import Run
from pipelines.parquet import read_table
from pipelines.run import read_config
from pipelines.stages import need_manifest
from schemas.config import Config
from schemas.errors import TokenmillError

__all__ = [
    "Account",
    "Container",
    "Document",
    "Drop",
    "Record",
    "Rejection",
    "View",
    "a_drop",
    "explain",
    "run_explain",
]

FIRST = 20  # documents of a container that are told in full


def run_explain(directory: str, what: str, as_machine_text: bool) -> int:
    """Print what became of `what`, as JSON or for reading; returns the exit code. Raises as `explain` does."""
    accounts = explain(directory, what)
    print(as_json(accounts) if as_machine_text else as_text(accounts))
    return 0


def explain(directory: str, what: str) -> list[Account]:
    """What became of a document, or of everything in an input.

    what: an id `component/unit/row`, where `component` is one of the run's; else a source as the documents have it
    (`dir/file.py`, `file.jsonl#123`), the path of a container (`file.jsonl`), or the end of a path that fits no other.
    Sources that share a path, and copies of a name in one archive, get an account each.

    Raises:
        Refused: `directory` is no run.
        TokenmillError: nothing matches, several paths end so, or an output is missing or damaged.
    """
    run = Run(directory.rstrip("/") if "://" in directory else os.path.abspath(directory), "explain")
    config = read_config(run)
    id_ = re.fullmatch(r"([^/]+)/(\d{1,18})/(\d{1,18})", what, re.ASCII)
    if id_ and id_[1] in config.components:
        return [*_complete(run, config, [_by_id(run, id_[1], int(id_[2]), int(id_[3]))])]
    accounts: list[Account] = []
    targets = find(run, config, what.removeprefix("./"))
    for _, group in itertools.groupby(targets, lambda target: (target.component, target.source_index, target.source)):
        accounts += _by_source(run, config, list(group))
    if not accounts:
        path = targets[0].path
        raise TokenmillError(
            f"{targets[0].source}: {path} is an input of {targets[0].component}, but nothing in it has this place; "
            f"explain {path} counts what it holds and lists the first {FIRST}"
        )
    return accounts


def a_drop(directory: str) -> str:
    """The id of the first near-duplicate that was dropped, or of the first exact one where there is no other.

    Raises:
        Refused: `directory` is no run.
        TokenmillError: nothing was dropped, or dedup is not finished.
    """
    run = Run(directory, "explain")
    first: str | None = None
    for component in read_config(run).components:
        for file in need_manifest(run, "dedup", component).files:
            drops = read_table(run.path("dedup", component, file.path), ["id", "reason"]) if file.records else None
            for drop in drops.to_pylist() if drops else ():
                if drop["reason"] == "near_duplicate":
                    return str(drop["id"])
                first = first or drop["id"]
    if first is None:
        raise TokenmillError(f"{directory}: no document was dropped as a duplicate")
    return first


def _by_id(run: Run, component: str, unit: int, row: int) -> Document:
    fates = Fates(run, component)
    id_ = f"{component}/{unit}/{row}"
    if fates.units is None:
        raise TokenmillError(f"{id_}: no document has an id yet, ingest of {component} is not finished")
    if unit >= fates.units:
        raise TokenmillError(f"{id_}: no such document, {component} has {fates.units} units, counted from 0")
    found = fates.of_id(unit, id_)
    if found is None:
        rows = fates.documents_in(unit)
        raise TokenmillError(f"{id_}: no such document, unit {unit} of {component} has {rows}, counted from 0")
    return found


def _by_source(run: Run, config: Config, targets: list[Target]) -> list[Account]:
    """Accounts of one source; `targets` are the units its input is spread over."""
    first = targets[0]
    fates = Fates(run, first.component)
    files = config.components[first.component].sources[first.source_index].format == "files"
    whole = first.source == first.path and not files
    shown: list[Document] = []
    counts: Counter[str] = Counter()
    for target in targets:
        found = fates.of_sources(target.unit, _inside(first.path) if whole else one_of([first.source]))
        if found is None:
            return [Document(first.source, first.component, first.unit, "undecided", "ingest")]
        counts.update(document.outcome for document in found)
        shown += found[: FIRST - len(shown)] if whole else found
        if found and not whole:
            break  # a place in an input belongs to one unit
    told = _complete(run, config, shown)
    return [Container(first.source, first.component, dict(sorted(counts.items())), tuple(told))] if whole else [*told]


def _inside(path: str) -> Mask:
    """Whether a source is the container `path` or a place in it."""
    return lambda column: pc.or_(pc.equal(column, path), pc.starts_with(column, path + "#"))


def _complete(run: Run, config: Config, documents: list[Document]) -> list[Document]:
    told = with_kept_sources(run, config.dedup.check == "signature", documents)
    return with_views(run, config.shard.sequence_lengths, told)
