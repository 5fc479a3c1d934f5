"""Where documents come from: list the inputs once, plan units of them, read the units anywhere.

`list_entries` and `plan_slices` run in the driver, `read_slices` in workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipelines.sources.base import (
    Entry,
    InputRead,
    RawDocument,
    Reject,
    Slice,
    SourceChanged,
    SourceUnreachable,
    one_line,
)
from pipelines.sources.files import read_files
from pipelines.sources.jsonl import read_jsonl
from pipelines.sources.listing import list_entries
from pipelines.sources.parquet import read_parquet
from pipelines.sources.plan import plan_slices
from pipelines.sources.tar import read_tar

if TYPE_CHECKING:
    from schemas.config import Source

__all__ = [
    "Entry",
    "InputRead",
    "RawDocument",
    "Reject",
    "Slice",
    "SourceChanged",
    "SourceUnreachable",
    "list_entries",
    "plan_slices",
    "read_slices",
]

_READERS = {"files": read_files, "jsonl": read_jsonl, "parquet": read_parquet, "tar": read_tar}


def read_slices(source: Source, root: str, slices: Sequence[Slice]) -> Iterator[RawDocument | Reject | InputRead]:
    """The documents of the slices in order, with rejects where they occur and one InputRead after each slice.

    A local input the operating system does not give is a reject `unreadable`, without an InputRead. Raises
    SourceChanged if an input is not as listed, SourceUnreachable if a remote one cannot be read.
    """
    read = _READERS[source.format]
    for slice_ in slices:
        try:
            yield from read(source, root, slice_)
        except OSError as error:
            yield Reject(slice_.path, 0, "unreadable", one_line(error), "")
