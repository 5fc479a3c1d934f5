"""Reading a run's Parquet files: tables of finished stages, and single documents by their id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import stages
from pipelines.jobs import Run
from pipelines.parquet import read_row_group, row_group_starts, row_groups
from pipelines.plan import unit_file
from schemas.errors import TokenmillError
from schemas.manifest import Stage, StageManifest


def tables(run: Run, whole: StageManifest, kind: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of those of a stage's files whose names begin with `kind`, a row group at a time.

    Raises:
        TokenmillError: a file is missing or damaged; names it and the stage to make again.
    """
    for file in whole.files:
        if file.path.startswith(f"{kind}-") and file.records:
            path = run.path(stages.FOLDERS[whole.stage], whole.component or "", file.path)
            try:
                yield from row_groups(path, columns)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(path, whole.stage, error) from None


class Documents:
    """Documents by id, in the components that have `units` units each."""

    def __init__(self, run: Run, units: Mapping[str, int]) -> None:
        self._run, self._units = run, units
        self._starts = lru_cache(maxsize=64)(row_group_starts)

    def read(self, id_: str, column: str) -> str | None:
        """A text column of a document; None when the id is not one of this run. Holds one row group of the column.

        Raises:
            TokenmillError: the file is missing or damaged, or has no such row.
        """
        component, unit, row = id_.rsplit("/", 2)
        if component not in self._units:
            return None
        path = self._run.path("documents", component, unit_file("documents", int(unit), self._units[component]))
        try:
            starts: npt.NDArray[np.int64] = self._starts(path)
            group = int(np.searchsorted(starts, int(row), side="right")) - 1
            rows = read_row_group(path, group, [column])[column]
            found: str = rows[int(row) - int(starts[group])].as_py()
        except (OSError, pa.ArrowException, IndexError) as error:
            raise _unreadable(path, "ingest", error) from None
        return found


def _unreadable(path: str, stage: Stage, error: Exception) -> TokenmillError:
    problem = getattr(error, "strerror", None) or " ".join(str(error).split())
    return TokenmillError(
        f"{path}: cannot be read, although its stage is finished ({problem}); make it again with --replace-from {stage}"
    )
