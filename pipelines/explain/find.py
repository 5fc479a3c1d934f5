"""From what a user typed to the inputs it names: an exact source, the end of one, or a container's path.

The plan lists every input with the unit it belongs to, so only the units that may hold an answer are read. Members of
tar archives are not in the plan; their names are searched when no input matches.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.explain.fates import Fates
from pipelines.jobs import Run
from pipelines.plan import PLAN
from pipelines.sources.paths import quote
from schemas import storage
from schemas.config import Config
from schemas.errors import TokenmillError

_COMPARED = 5000  # inputs whose names are compared with one that was not found
_SHOWN = 10


@dataclass(frozen=True, order=True)
class Target:
    """A source to look for in a unit. path: the input; source: that path, or `path#place` in a container."""

    component: str
    source_index: int
    source: str
    unit: int
    path: str


def find(run: Run, config: Config, what: str) -> list[Target]:
    """The targets of a source path or the end of one; of several sources or components when they share the path.

    Raises:
        TokenmillError: nothing matches, or the end of a path fits several.
    """
    typed = quote(os.fsencode(what))
    names = [what, typed] if typed.replace(r"\x5c", "\\") == what else [typed]  # as it is shown, or as it is
    for name in dict.fromkeys(names):
        exact, ending = _planned(run, name)
        found = exact or ending or _members(run, config, name)
        if found:
            break
    else:
        raise TokenmillError(_nothing(run, names[0]))
    sources = sorted({target.source for target in found})
    if not exact and len(sources) > 1:
        shown = ", ".join(sources[:_SHOWN]) + (f", … ({len(sources)} in all)" if len(sources) > _SHOWN else "")
        raise TokenmillError(f"{names[0]}: fits several sources: {shown}; give more of the path")
    return sorted(set(found))


def _planned(run: Run, what: str) -> tuple[list[Target], list[Target]]:
    """Targets whose input is named exactly, and those whose input's path ends so."""
    cuts = [at for at, character in enumerate(what) if character == "#"] + [len(what)]
    places = {what[:at]: what[at:] for at in cuts if at}
    exact: list[Target] = []
    ending: list[Target] = []
    for units, paths in _inputs(run):
        known = pc.is_in(paths, value_set=pa.array(places, pa.string()))
        for name in places:
            known = pc.or_(known, pc.ends_with(paths, "/" + name))
        for at, path in zip(units.filter(known).to_pylist(), paths.filter(known).to_pylist(), strict=True):
            ends = [place for name, place in places.items() if path.endswith("/" + name)]
            chosen, into = ([places[path]], exact) if path in places else (ends, ending)
            into += [Target(at["component"], at["source"], path + place, at["unit"], path) for place in chosen]
    return exact, ending


def _inputs(run: Run) -> Iterator[tuple[pa.Array, pa.Array]]:
    """All inputs, a row group of the plan at a time: structs of component, source and unit; paths."""
    path = run.path(PLAN)
    if storage.size_of(path) is None:
        raise TokenmillError(f"{run.directory}: its inputs are not listed yet; run its config first")
    with storage.open_read(path) as file:
        plan = pq.ParquetFile(file)
        for group in range(plan.num_row_groups):
            table = plan.read_row_group(group, use_threads=False)  # as in `rows_where`
            units = table.select(["component", "source", "unit"]).to_struct_array().combine_chunks()
            for column, name in (("slices", "path"), ("rejects", "source")):
                lists = table[column].combine_chunks()
                yield units.take(pc.list_parent_indices(lists)), pc.struct_field(pc.list_flatten(lists), name)


def _members(run: Run, config: Config, what: str) -> list[Target]:
    """Targets among the members of tar archives, by the end of their names."""
    units = {(at["component"], at["source"], at["unit"]) for found, _ in _inputs(run) for at in found.to_pylist()}
    archives = sorted(unit for unit in units if config.components[unit[0]].sources[unit[1]].format == "tar")
    fates = {component: Fates(run, component) for component, _, _ in archives}

    def ends_so(sources: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.or_(pc.ends_with(sources, "/" + what), pc.ends_with(sources, "#" + what))

    return [
        Target(component, index, source, unit, source.partition("#")[0])
        for component, index, unit in archives
        for source in fates[component].sources(unit, ends_so)
    ]


def _nothing(run: Run, what: str) -> str:
    """The sentence for a path no input has, with those that come closest."""
    base = what.partition("#")[0].rpartition("/")[2]
    alike: set[str] = set()
    compared: set[str] = set()
    for _, paths in _inputs(run):
        same = pc.or_(pc.equal(paths, base), pc.ends_with(paths, "/" + base))
        alike.update(paths.filter(same).to_pylist())
        compared.update(paths[: _COMPARED - len(compared)].to_pylist())
    near = sorted(alike, key=lambda path: (-_shared_end(path, what.partition("#")[0]), path))[:3]
    near = near or difflib.get_close_matches(what, sorted(compared), n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return (
        f"{what}: not among the inputs of {run.directory}, nor the end of one's path (inputs are named by their path "
        f"below their source's root, documents by COMPONENT/UNIT/ROW){hint}"
    )


def _shared_end(a: str, b: str) -> int:
    """How many parts two paths share, counted from their ends."""
    pairs = zip(reversed(a.split("/")), reversed(b.split("/")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
