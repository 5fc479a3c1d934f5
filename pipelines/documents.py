"""Reading a unit's documents beside its drops: what the stages after dedup work on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import stages, storage
from pipelines.jobs import Run
from pipelines.plan import read_index
from schemas.manifest import File, Stage


def kept_documents(run: Run, task: int, columns: list[str]) -> Iterator[tuple[pa.Table, int]]:
    """Row groups of the documents of a unit that were not dropped, each with how many its group had.

    Raises:
        TokenmillError: the documents or drops are not what their manifests say.
    """
    index = read_index(run)
    drops_path = index.path(run, "dedup", "drops", task)
    documents_path = index.path(run, "documents", "documents", task)
    _check(run, task, "dedup", "dedup", drops_path)
    _check(run, task, "documents", "ingest", documents_path)
    with storage.open_read(drops_path) as file:
        dropped = pq.read_table(file, columns=["row"])["row"].to_numpy()
    row = 0
    with storage.open_read(documents_path) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=columns)
            rows = np.arange(row, row + table.num_rows)
            row += table.num_rows
            yield table.filter(pa.array(~np.isin(rows, dropped))), table.num_rows


def _check(run: Run, task: int, folder: str, stage: Stage, path: str) -> None:
    files = _files(run, folder, read_index(run).unit(task).component)
    stages.check_sha256(path, files[path.rsplit("/", 1)[1]], stage)


@lru_cache(maxsize=16)
def _files(run: Run, folder: str, component: str) -> dict[str, File]:
    return {file.path: file for file in stages.need_manifest(run, folder, component).files}
