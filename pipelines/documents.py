"""Reading a unit's documents beside its drops: what the stages after dedup work on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines import stages
from pipelines.jobs import Run
from pipelines.parquet import read_table, row_groups
from pipelines.plan import read_index
from schemas.manifest import File, Stage


def kept_documents(run: Run, task: int, columns: list[str]) -> Iterator[pa.Table]:
    """Row groups of the documents of a unit that were not dropped.

    Raises:
        TokenmillError: the documents or drops are not what their manifests say.
    """
    index = read_index(run)
    drops_path = index.path(run, "dedup", "drops", task)
    documents_path = index.path(run, "documents", "documents", task)
    check_unit_file(run, task, "dedup", "dedup", drops_path)
    check_unit_file(run, task, "documents", "ingest", documents_path)
    dropped = read_table(drops_path, ["row"])["row"].to_numpy()
    row = 0
    for table in row_groups(documents_path, columns):
        rows = np.arange(row, row + table.num_rows)
        row += table.num_rows
        yield table.filter(pa.array(~np.isin(rows, dropped)))


def check_unit_file(run: Run, task: int, folder: str, stage: Stage, path: str) -> None:
    """Raise TokenmillError unless a unit's file in `folder` is what the manifest there says; names the file."""
    files = _files(run, folder, read_index(run).unit(task).component)
    stages.check_sha256(path, files[path.rsplit("/", 1)[1]], stage)


@lru_cache(maxsize=16)
def _files(run: Run, folder: str, component: str) -> dict[str, File]:
    return {file.path: file for file in stages.need_manifest(run, folder, component).files}
