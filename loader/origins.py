"""What a run's other folders say of documents: their sources, texts, tokens, and why some are in no record.

A view may lie there without its run: whatever is not there is None. Of a unit's file only the columns asked for are
read, and of text and tokens only the row group that has the document.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loader.verify.ids import IntArray, Units
from loader.view import View
from schemas.errors import Refused, TokenmillError

Row = dict[str, Any]
_ID = re.compile(r"([^/]+)/(0|[1-9][0-9]{0,9})/(0|[1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True)
class Id:
    """A document's id: row `row` of its unit's documents file."""

    component: str
    unit: int
    row: int

    def __str__(self) -> str:
        return f"{self.component}/{self.unit}/{self.row}"


@dataclass(frozen=True)
class About:
    """What is known of a document. source: as ingest named it. tokens: with begin and end; None if it was not kept."""

    source: str | None = None
    tokens: int | None = None


class Origins:
    """The documents of the run a view lies in. folder: None where there is no run."""

    def __init__(self, folder: Path | None, units: Units) -> None:
        self.folder = folder
        self.units = units

    @classmethod
    def of(cls, view: View) -> Origins:
        """The documents a view was cut from."""
        return cls(view.run, view.packed.units)

    def parse(self, text: str) -> Id:
        """A document's id. Raises Refused when no unit of this view has documents of such an id."""
        match = _ID.fullmatch(text)
        names, counts = self.units.names, self.units.counts
        if match is None or match[1] not in names:
            raise Refused(f"{text}: is no id of a document: ids are COMPONENT/UNIT/ROW, of {', '.join(names)}")
        found = Id(match[1], int(match[2]), int(match[3]))
        count = counts[names.index(found.component)]
        if found.unit >= count:
            raise Refused(f"{text}: there is no such document: {found.component} has {count} units, counted from 0")
        return found

    def file(self, folder: str, kind: str, component: str, unit: int) -> Path | None:
        """A unit's file, such as documents/code/documents-00003-of-00012.parquet; None when it is not there."""
        if self.folder is None:
            return None
        count = self.units.counts[self.units.names.index(component)]
        path = self.folder / folder / component / f"{kind}-{unit:05d}-of-{count:05d}.parquet"
        return path if path.is_file() else None

    def has_documents(self, id_: str) -> bool:
        """Whether the documents of the unit of `id_` are there."""
        parsed = self.parse(id_)
        return self.file("documents", "documents", parsed.component, parsed.unit) is not None

    def about(self, ids: Iterable[str]) -> dict[str, About]:
        """Source and number of tokens of documents, as far as they are known, each unit's files being opened once."""
        by_unit: dict[tuple[str, int], list[Id]] = defaultdict(list)
        for id_ in dict.fromkeys(ids):
            parsed = self.parse(id_)
            by_unit[parsed.component, parsed.unit].append(parsed)
        found: dict[str, About] = {}
        for (component, unit), documents in by_unit.items():
            sources = self._sources(component, unit, [document.row for document in documents])
            path = self.file("tokens", "tokens", component, unit)
            names = [str(document) for document in documents]
            counts = {row["id"]: row["count"] for row in _with_ids(path, names, ["count"])} if path else {}
            for document in documents:
                found[str(document)] = About(sources.get(document.row), counts.get(str(document)))
        return found

    def text(self, id_: str) -> str | None:
        """The cleaned text of a document."""
        parsed = self.parse(id_)
        path = self.file("documents", "documents", parsed.component, parsed.unit)
        row = next(iter(_in_rows(path, [parsed.row], ["text"])), None) if path else None
        return None if row is None else str(row["text"])

    def tokens(self, id_: str) -> IntArray | None:
        """All tokens of a document, from begin to end, int64 [tokens]."""
        parsed = self.parse(id_)
        path = self.file("tokens", "tokens", parsed.component, parsed.unit)
        row = next(iter(_with_ids(path, [id_], ["tokens"])), None) if path else None
        return None if row is None else np.array(row["tokens"], np.int64)

    def drop(self, id_: str) -> Row | None:
        """Why dedup dropped a document: `reason`, `kept_id`, `jaccard`, `cluster`; None where it did not."""
        parsed = self.parse(id_)
        path = self.file("dedup", "drops", parsed.component, parsed.unit)
        return next(iter(_with_ids(path, [id_], ["reason", "kept_id", "jaccard", "cluster"])), None) if path else None

    def refusal(self, id_: str) -> Row | None:
        """Why a token rule rejected a document: `reason`, `detail`. None: it did not, or is not known."""
        parsed = self.parse(id_)
        path = self.file("tokens", "rejected", parsed.component, parsed.unit)
        ending = f"; document {id_}"  # tokenize ends the detail with it
        for table in row_groups(path, ["reason", "detail"]) if path else ():
            for row in table.filter(pc.ends_with(table["detail"], ending)).to_pylist():
                return {"reason": row["reason"], "detail": row["detail"].removesuffix(ending)}
        return None

    def _sources(self, component: str, unit: int, rows: list[int]) -> dict[int, str]:
        path = self.file("documents", "documents", component, unit)
        wanted = sorted(rows)
        return {row["at"]: row["source"] for row in _in_rows(path, wanted, ["source"])} if path else {}


def row_groups(path: Path, columns: list[str], wanted: Iterable[int] | None = None) -> Iterator[pa.Table]:
    """Columns of a file, a row group at a time, or of some of its row groups.

    Raises:
        TokenmillError: the file is damaged; names it.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups) if wanted is None else wanted:
                yield parquet.read_row_group(group, columns, use_threads=False)
    except (OSError, pa.ArrowException, KeyError) as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TokenmillError(f"{path}: cannot be read: {problem}") from None


def _in_rows(path: Path, rows: list[int], columns: list[str]) -> Iterator[Row]:
    """Columns of some rows of a file, ascending, with `at`, the row; rows it has not are left out."""
    try:
        about = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise TokenmillError(f"{path}: cannot be read: {error}") from None
    ends = np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)], dtype=np.int64)
    groups = np.searchsorted(ends, rows, side="right")
    wanted = [group for group in np.unique(groups).tolist() if group < len(ends)]
    for group, table in zip(wanted, row_groups(path, columns, wanted), strict=True):
        first = int(ends[group]) - table.num_rows
        here = np.array(rows, np.int64)[groups == group]
        for at, row in zip(here.tolist(), table.take(pa.array(here - first)).to_pylist(), strict=True):
            yield row | {"at": at}


def _with_ids(path: Path, ids: list[str], columns: list[str]) -> Iterator[Row]:
    """`id` and other columns of the rows with these ids; the others are read of row groups with such a row alone."""
    chosen = pa.array(ids, pa.string())
    for group, named in enumerate(row_groups(path, ["id"])):
        mask = pc.is_in(named["id"], value_set=chosen)
        if pc.any(mask).as_py():
            for table in row_groups(path, ["id", *columns], [group]):
                yield from table.filter(mask).to_pylist()
