"""The plan: sources listed once, cut into units, and written to `plan/units.parquet` for the workers.

Units are numbered within a component in the order of its sources, so a source added at the end renumbers none. The
plan holds no roots and no times: the same content under another path makes the same plan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.earlier import Earlier, find_earlier
from pipelines.jobs import Run
from pipelines.parquet import read_row_group, read_table
from pipelines.sources import Reject, Slice, list_entries, plan_slices
from schemas import manifest, storage
from schemas.arrow import UNITS, parquet_writer
from schemas.config import Config

PLAN = "plan/units.parquet"
EARLIER = "plan/earlier.json"  # only where the config names earlier runs
ROOTS = "roots.json"
SUMMARY = "plan.json"  # a work file
_ROWS_A_GROUP = 32  # a worker reads one row group to find its unit


@dataclass(frozen=True)
class Unit:
    """A bounded piece of one source. `rejects`: what the listing itself had to refuse (in a source's first unit)."""

    component: str
    unit: int
    source: int
    slices: tuple[Slice, ...]
    rejects: tuple[Reject, ...] = ()

    @property
    def name(self) -> str:
        """The first part of the ids of this unit's documents."""
        return f"{self.component}/{self.unit}"


@dataclass(frozen=True)
class Summary:
    """What is to be known of all slices together. bytes: of all inputs; fingerprints: of each component."""

    bytes: int
    fingerprints: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """All units, components in config order. A task number is an index into `units`.

    earlier: the runs whose documents count as kept already. known: the summary, where the units are without slices.
    """

    units: tuple[Unit, ...]
    roots: dict[str, list[str]]
    earlier: tuple[Earlier, ...] = ()
    known: Summary | None = None

    @cached_property
    def by_component(self) -> dict[str, range]:
        """Task numbers of each component's units."""
        ranges: dict[str, range] = {}
        start = 0
        for name in self.roots:
            count = sum(unit.component == name for unit in self.units)
            ranges[name] = range(start, start + count)
            start += count
        return ranges

    def fingerprint(self, component: str) -> str:
        """Identifies what a component reads: paths below the roots, sizes and cuts."""
        return self.summary.fingerprints[component]

    @cached_property
    def summary(self) -> Summary:
        """Of all slices."""
        return self.known or Summary(
            sum(piece.size for unit in self.units for piece in unit.slices),
            {
                name: manifest.fingerprint_of_list(_row(self.units[task]) for task in tasks)
                for name, tasks in self.by_component.items()
            },
        )


@dataclass(frozen=True)
class UnitIndex:
    """Which unit a task number is, for workers: the plan without its slices."""

    components: tuple[str, ...]
    component: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]

    def unit(self, task: int) -> Unit:
        """The unit of a task, without its slices."""
        return Unit(self.components[self.component[task]], int(self.number[task]), int(self.source[task]), ())

    def name(self, document: int) -> str:
        """The id of the document numbered `task << 32 | row`."""
        return f"{self.unit(document >> 32).name}/{document & 0xFFFFFFFF}"

    @cached_property
    def _units(self) -> list[int]:
        """How many units each component has."""
        units: list[int] = np.bincount(self.component, minlength=len(self.components)).tolist()
        return units

    def path(self, run: Run, folder: str, kind: str, task: int) -> str:
        """The path of a unit's output file, such as documents/code/documents-00003-of-00012.parquet."""
        unit = self.unit(task)
        units = self._units[self.component[task]]
        return run.path(folder, unit.component, unit_file(kind, unit.unit, units))


def read_index(run: Run) -> UnitIndex:
    """The index of a run's plan; read once a process."""
    return _read_index(run.path(PLAN))


@lru_cache(maxsize=8)
def _read_index(path: str) -> UnitIndex:
    table = read_table(path, ["component", "unit", "source"])
    component = table["component"].combine_chunks().dictionary_encode()
    return UnitIndex(
        tuple(component.dictionary.to_pylist()),
        component.indices.to_numpy(),
        table["unit"].to_numpy(),
        table["source"].to_numpy(),
    )


def unit_file(kind: str, unit: int, units: int) -> str:
    """The name of an output file of unit `unit` among `units`."""
    return f"{kind}-{unit:05d}-of-{units:05d}.parquet"


def make_plan(config: Config) -> Plan:
    """List every source and cut it into units.

    Raises:
        Refused: a source is not there or matches nothing, or an earlier run cannot be compared with.
    """
    earlier = find_earlier(config)
    units: list[Unit] = []
    roots: dict[str, list[str]] = {}
    for name, component in config.components.items():
        number = 0
        roots[name] = []
        for index, source in enumerate(component.sources):
            root, entries, rejects = list_entries(source.expanded())
            roots[name].append(root)
            cuts = plan_slices(source, root, entries, config.ingest.unit_bytes) or [[]]
            for cut in cuts:
                units.append(Unit(name, number, index, tuple(cut), tuple(rejects)))
                rejects = []
                number += 1
    return Plan(tuple(units), roots, earlier)


def _row(unit: Unit) -> dict[str, Any]:
    return {
        "component": unit.component,
        "unit": unit.unit,
        "source": unit.source,
        "rejects": [_fields(reject) for reject in unit.rejects],
        "slices": [_fields(slice_) for slice_ in unit.slices],
    }


def _fields(record: Slice | Reject) -> dict[str, Any]:
    """What `asdict` gives, without its deep copies: a plan has a slice a file."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def write_plan(run: Run, plan: Plan) -> None:
    """Write the units for the workers, and beside them the roots this run reads them under."""

    def write(path: str) -> None:
        with parquet_writer(path, UNITS) as writer:
            for start in range(0, len(plan.units), _ROWS_A_GROUP):
                rows = [_row(unit) for unit in plan.units[start : start + _ROWS_A_GROUP]]
                writer.write_table(pa.Table.from_pylist(rows, schema=UNITS))

    run.commit(run.path(PLAN), write)
    if plan.earlier:
        rows = [asdict(earlier) for earlier in plan.earlier]
        run.commit_bytes(run.path(EARLIER), (json.dumps(rows, indent=1) + "\n").encode())
    else:
        storage.remove(run.path(EARLIER))
    run.commit_bytes(run.work(SUMMARY), json.dumps(asdict(plan.summary)).encode())
    # Where the sources lie for this run; the only place the workers learn it from.
    run.commit_bytes(run.work(ROOTS), json.dumps(plan.roots).encode())


def read_units(run: Run) -> tuple[Unit, ...]:
    """The units as written."""
    return tuple(_unit(row) for row in read_table(run.path(PLAN)).to_pylist())


def read_earlier(run: Run) -> tuple[Earlier, ...]:
    """The earlier runs as written."""
    try:
        return tuple(Earlier(**row) for row in json.loads(storage.read_bytes(run.path(EARLIER))))
    except FileNotFoundError:
        return ()


def read_plan(run: Run) -> Plan:
    """The plan of a run under way, with the roots it reads from; the units without their slices."""
    index = read_index(run)
    summary = Summary(**json.loads(storage.read_bytes(run.work(SUMMARY))))
    units = tuple(index.unit(task) for task in range(len(index.number)))
    return Plan(units, _roots(run.work(ROOTS)), read_earlier(run), summary)


def read_unit(run: Run, task: int) -> tuple[Unit, str]:
    """One unit and its source's root, for a worker."""
    group = read_row_group(run.path(PLAN), task // _ROWS_A_GROUP)
    row = group.slice(task % _ROWS_A_GROUP, 1).to_pylist()[0]
    unit = _unit(row)
    return unit, _roots(run.work(ROOTS))[unit.component][unit.source]


def _unit(row: dict[str, Any]) -> Unit:
    return Unit(
        row["component"],
        row["unit"],
        row["source"],
        tuple(Slice(**slice_) for slice_ in row["slices"]),
        tuple(Reject(**reject) for reject in row["rejects"]),
    )


@lru_cache(maxsize=4)
def _roots(path: str) -> dict[str, list[str]]:
    roots: dict[str, list[str]] = json.loads(storage.read_bytes(path))
    return roots


def difference(old: Sequence[Unit], new: Sequence[Unit]) -> str | None:
    """How the listing of an existing run differs from today's, in one phrase; None when it does not."""
    if tuple(old) == tuple(new):
        return None
    before = {(unit.component, slice_.path): slice_.size for unit in old for slice_ in unit.slices}
    after = {(unit.component, slice_.path): slice_.size for unit in new for slice_ in unit.slices}
    added, removed = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    changed = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
    parts = [
        f"{len(keys)} {what} (first: {keys[0][1]})"
        for what, keys in (("added", added), ("removed", removed), ("of another size", changed))
        if keys
    ]
    return ", ".join(parts) or "the units are cut differently"
