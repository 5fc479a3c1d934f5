"""Reading a unit's documents beside its drops: what the stages after dedup work on.

A worker checks every file it reads against the sha256 its stage's manifest states. A manifest grows with the corpus, so
workers do not read it: the driver cuts what they need out of it once (`state_files`), and a worker reads the row group
that holds its unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines import stages
from pipelines.jobs import Run
from pipelines.parquet import read_row_group, read_table, row_groups
from pipelines.plan import read_index, unit_file
from schemas.arrow import parquet_writer
from schemas.manifest import Stage, StageManifest

_KINDS = {"documents": "documents", "dedup": "drops", "tokens": "tokens"}  # what is read of a stage's folder
_STAGES: dict[str, Stage] = {folder: stage for stage, folder in stages.FOLDERS.items()}
_STATED = pa.schema([pa.field("sha256", pa.binary(32), nullable=False)])  # a row a unit
_UNITS_A_GROUP = 1024


def kept_documents(run: Run, task: int, columns: list[str]) -> Iterator[pa.Table]:
    """Row groups of the documents of a unit that were not dropped.

    Raises:
        TokenmillError: the documents or drops are not what their manifests say.
    """
    index = read_index(run)
    drops_path = index.path(run, "dedup", "drops", task)
    documents_path = index.path(run, "documents", "documents", task)
    check_unit_file(run, task, "dedup", drops_path)
    check_unit_file(run, task, "documents", documents_path)
    dropped = read_table(drops_path, ["row"])["row"].to_numpy()
    row = 0
    for table in row_groups(documents_path, columns):
        rows = np.arange(row, row + table.num_rows)
        row += table.num_rows
        yield table.filter(pa.array(~np.isin(rows, dropped)))


def checked_files(run: Run, folder: str, component: str) -> StageManifest:
    """The manifest of an input whose files are checked, and stated for the workers. Raises as `stages.check_files`."""
    whole = stages.check_files(run, folder, component)
    state_files(run, folder, component, whole)
    return whole


def state_files(run: Run, folder: str, component: str, whole: StageManifest) -> None:
    """Write, for workers, the sha256 of the file of each unit that they will read; before the step that does."""
    stated = {file.path: file.sha256 for file in whole.files}
    units = len(whole.units)
    names = [unit_file(_KINDS[folder], unit, units) for unit in range(units)]

    def write(path: str) -> None:
        with parquet_writer(path, _STATED) as writer:
            for start in range(0, units, _UNITS_A_GROUP):
                sums = [bytes.fromhex(stated[name]) for name in names[start : start + _UNITS_A_GROUP]]
                writer.write_table(pa.table({"sha256": sums}, schema=_STATED))

    run.commit(_stated_path(run, folder, component), write)


def check_unit_file(run: Run, task: int, folder: str, path: str) -> None:
    """Raise TokenmillError unless a unit's file in `folder` is what the manifest there says; names the file."""
    unit = read_index(run).unit(task)
    sums = _stated(run, folder, unit.component, unit.unit // _UNITS_A_GROUP)
    stages.check_sha256(path, sums[unit.unit % _UNITS_A_GROUP].as_py().hex(), _STAGES[folder])


@lru_cache(maxsize=16)
def _stated(run: Run, folder: str, component: str, group: int) -> pa.ChunkedArray:
    return read_row_group(_stated_path(run, folder, component), group)["sha256"]


def _stated_path(run: Run, folder: str, component: str) -> str:
    return run.work(f"files-{folder}-{component}.parquet")
