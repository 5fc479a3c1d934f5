"""From a source path to its documents.

The rule: a path is a document's source exactly as `show` and `trace` print it (`pkg/module.py`, `books.jsonl#1234`,
`code.tar#pkg/module.py`) or, where none is equal, the end of one after a `/` or `#`. Sources that share a path are all
found. The plan lists every input with its unit, so only units with a fitting input are read; members of archives are
not in the plan, and are searched for in all units when no input fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from loader.origins import Origins, row_groups
from schemas.errors import Refused, TokenmillError

_SHOWN = 10


@dataclass(frozen=True)
class Match:
    """A document with a fitting source or, without an id, what ingest rejected there and why."""

    source: str
    component: str
    id: str | None
    reason: str = ""
    detail: str = ""


def find_source(origins: Origins, path: str) -> list[Match]:
    """All documents and rejects of the source that `path` names, in the order of components and units.

    Raises:
        Refused: there is no run beside the view.
        TokenmillError: no source fits, or the end of a path fits several.
    """
    if origins.folder is None or not (origins.folder / "documents").is_dir():
        raise Refused(f"{path}: sources are known in a run alone, and this view is in none; give --document ID")
    units = list(_planned(origins, path)) or [
        (name, unit)
        for name, count in zip(origins.units.names, origins.units.counts, strict=True)
        for unit in range(count)
    ]
    exact: list[Match] = []
    ending: list[Match] = []
    for component, unit in dict.fromkeys(units):
        for match in _fitting(origins, component, unit, path):
            (exact if match.source == path else ending).append(match)
    found = exact or ending
    sources = list(dict.fromkeys(match.source for match in found))
    if not found:
        raise TokenmillError(
            f"{path}: is the source of no document of {origins.folder}, nor the end of one after a / or #"
        )
    if len(sources) > 1:
        shown = ", ".join(sources[:_SHOWN]) + (f", … ({len(sources):,} in all)" if len(sources) > _SHOWN else "")
        raise TokenmillError(f"{path}: fits several sources: {shown}; give more of the path")
    return found


def _planned(origins: Origins, path: str) -> Iterator[tuple[str, int]]:
    """(component, unit) of every unit with an input, read or passed over, that is `path` or a container in it."""
    assert origins.folder is not None
    plan = origins.folder / "plan" / "units.parquet"
    if not plan.is_file():
        return
    names = [path[:at] for at, character in enumerate(path) if character == "#" and at] + [path]
    for table in row_groups(plan, ["component", "unit", "slices", "rejects"]):
        for column, field in (("slices", "path"), ("rejects", "source")):
            lists = table[column].combine_chunks()
            inputs = pc.struct_field(pc.list_flatten(lists), field)
            fits = pc.is_in(inputs, value_set=pa.array(names, pa.string()))
            for name in names:
                fits = pc.or_(fits, pc.ends_with(inputs, "/" + name))
            rows = pc.list_parent_indices(lists).filter(fits)
            yield from zip(table["component"].take(rows).to_pylist(), table["unit"].take(rows).to_pylist(), strict=True)


def _fitting(origins: Origins, component: str, unit: int, path: str) -> Iterator[Match]:
    """Documents and rejects of a unit whose source is `path` or ends so."""
    for kind, columns in (("documents", ["id"]), ("rejected", ["reason", "detail"])):
        file = origins.file("documents", kind, component, unit)
        for group, table in enumerate(row_groups(file, ["source"]) if file else ()):
            sources = table["source"]
            mask = pc.equal(sources, path)
            for before in "/#":
                mask = pc.or_(mask, pc.ends_with(sources, before + path))
            if pc.any(mask).as_py():
                assert file is not None
                for whole in row_groups(file, ["source", *columns], [group]):
                    for row in whole.filter(mask).to_pylist():
                        yield Match(
                            row["source"], component, row.get("id"), row.get("reason", ""), row.get("detail", "")
                        )
