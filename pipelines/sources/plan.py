"""Units of input: bounded groups of slices in listing order, from the inputs and `unit_bytes` alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING

from pipelines.sources.base import Entry, Slice
from pipelines.sources.jsonl import split_jsonl
from pipelines.sources.parquet import split_parquet

if TYPE_CHECKING:
    from schemas.config import Source

MAX_UNIT_SLICES = 4096
_FOOTERS_AT_ONCE = 8


def plan_slices(source: Source, root: str, entries: Sequence[Entry], unit_bytes: int) -> list[list[Slice]]:
    """Cut inputs into slices and gather them in order into units of about `unit_bytes`, at most 4096 slices.

    Plain JSONL is cut at bytes, Parquet at row groups; everything else stays whole, and what cannot be made
    smaller is a unit of its own. Where members of a tar begin is known only by reading through it, which a
    driver should not do over a network, and units must not depend on where a source lies.
    """
    if source.format == "parquet":
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:  # footers are small and, remote, slow to come
            runs = pool.map(lambda e: split_parquet(source, root, e.path, e.size, unit_bytes), entries)
            return _gather(chain.from_iterable(runs), unit_bytes)
    if source.format == "jsonl":
        slices: Iterable[Slice] = chain.from_iterable(split_jsonl(e.path, e.size, unit_bytes) for e in entries)
    else:
        slices = (Slice(e.path, e.size, 0, e.size) for e in entries)
    return _gather(((slice_, slice_.stop - slice_.start) for slice_ in slices), unit_bytes)


def _gather(pieces: Iterable[tuple[Slice, int]], unit_bytes: int) -> list[list[Slice]]:
    """Units of slices, each given with the bytes it counts for."""
    units: list[list[Slice]] = []
    held = 0
    for slice_, weight in pieces:
        if not units or held + weight > unit_bytes or len(units[-1]) == MAX_UNIT_SLICES:
            units.append([])
            held = 0
        units[-1].append(slice_)
        held += weight
    return units
