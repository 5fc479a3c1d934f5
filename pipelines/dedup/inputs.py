"""What deduplication reads: the documents of the run's own units, then those that earlier runs kept.

The units of earlier runs are numbered on after the run's own. Their documents are compared like all others, but always
kept: they are ranked before all others and never dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedup.records import Records, fixed_binary, numbers, signed
from pipelines.jobs import Run
from pipelines.parquet import read_table, row_groups
from pipelines.plan import read_index


@dataclass(frozen=True)
class EarlierUnits:
    """The units of an earlier run: its name, where it lies, the number of its first unit here, and how many."""

    name: str
    directory: str
    first: int
    units: int


@dataclass(frozen=True)
class Inputs:
    """All units. own: how many are the run's; priorities: of each of its components' sources."""

    own: int
    priorities: dict[str, tuple[int, ...]]
    earlier: tuple[EarlierUnits, ...] = ()

    @property
    def units(self) -> int:
        """How many units there are."""
        return self.own + sum(earlier.units for earlier in self.earlier)

    def name(self, run: Run, document: int) -> str:
        """The id of a document; with `<earlier run>#` before it where it is not the run's own."""
        found, task, prefix = self._place(run, document >> 32)
        return prefix + read_index(found).name(task << 32 | document & 0xFFFFFFFF)

    def path(self, run: Run, task: int) -> str:
        """The documents file of a unit."""
        found, task, _ = self._place(run, task)
        return read_index(found).path(found, "documents", "documents", task)

    def ranked(self, run: Run, task: int, column: str, dtype: np.dtype[np.void]) -> Records:
        """A record a document of a unit, by number, with its rank and its `hash` or `signature`."""
        priority = 0
        if task < self.own:
            unit = read_index(run).unit(task)
            priority = self.priorities[unit.component][unit.source]
        parts = [np.empty(0, dtype)]
        for docs, table in self._documents(run, task, [column, "characters", "quality"]):
            part = np.zeros(len(docs), dtype)
            part["doc"] = docs
            part["earlier"] = task >= self.own
            part["source_priority"] = priority
            part["quality"] = table["quality"].to_numpy(zero_copy_only=False)
            part["length"] = table["characters"].to_numpy()
            if column == "hash":
                halves = fixed_binary(table["hash"], "<u8")
                part["hash0"], part["hash1"] = halves[:, 0], halves[:, 1]
            else:
                part["signature"] = fixed_binary(table["signature"], "<u4")
            parts.append(part)
        return np.concatenate(parts)

    def signed(
        self, run: Run, task: int, min_tokens: int, permutations: int, copies: npt.NDArray[np.uint64]
    ) -> Records:
        """Numbers and signatures of a unit's documents of at least `min_tokens` words, without `copies`."""
        dtype = signed(permutations)
        parts = [np.empty(0, dtype)]
        for docs, table in self._documents(run, task, ["words", "signature"]):
            part = np.empty(len(docs), dtype)
            part["doc"] = docs
            part["signature"] = fixed_binary(table["signature"], "<u4")
            long_enough = table["words"].to_numpy() >= min_tokens
            parts.append(part[long_enough & ~np.isin(docs, copies)])
        return np.concatenate(parts)

    def _documents(self, run: Run, task: int, columns: list[str]) -> Iterator[tuple[npt.NDArray[np.uint64], pa.Table]]:
        """Numbers and columns of a unit's documents, a row group at a time; of an earlier run, of those it kept."""
        found, own_task, _ = self._place(run, task)
        index = read_index(found)
        dropped = np.empty(0, np.int64)
        if task >= self.own:
            dropped = read_table(index.path(found, "dedup", "drops", own_task), ["row"])["row"].to_numpy()
        row = 0
        for table in row_groups(index.path(found, "documents", "documents", own_task), columns):
            rows = np.arange(row, row + table.num_rows)
            row += table.num_rows
            kept = ~np.isin(rows, dropped)
            yield numbers(task, rows[kept]), table if kept.all() else table.filter(pa.array(kept))

    def _place(self, run: Run, task: int) -> tuple[Run, int, str]:
        """The run a unit belongs to, its number there, and what its ids begin with here."""
        for earlier in self.earlier:
            if earlier.first <= task < earlier.first + earlier.units:
                return Run(earlier.directory, run.run_id), task - earlier.first, f"{earlier.name}#"
        return run, task, ""
