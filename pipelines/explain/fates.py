"""What became of documents, unit by unit: ingest's rows, dedup's drops, the token rules, the records of each view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.explain.accounts import Document, Drop, Record, Rejection, View
from pipelines.explain.tables import Mask, one_of, rows_where
from pipelines.jobs import Run
from pipelines.plan import unit_file
from pipelines.shard.job import read_view, view_folder
from pipelines.stages import read_manifest
from schemas.errors import TokenmillError
from schemas.manifest import ShardManifest, StageManifest

_ABOUT = ("id", "source", "language", "characters", "words")
_REJECTED = ("source", "offset", "reason", "detail", "sample")
_OF_DOCUMENT = "; document "  # tokenize ends the detail of a reject with this and the id


@dataclass(frozen=True)
class Fates:
    """The finished stages of one component, and what they say of its documents."""

    run: Run
    component: str

    @cached_property
    def _ingested(self) -> StageManifest | None:
        return read_manifest(self.run, "documents", self.component)

    @cached_property
    def _deduplicated(self) -> StageManifest | None:
        return read_manifest(self.run, "dedup", self.component)

    @cached_property
    def _tokenized(self) -> StageManifest | None:
        return read_manifest(self.run, "tokens", self.component)

    @property
    def units(self) -> int | None:
        """Units of the component; None before ingest is finished."""
        return len(self._ingested.units) if self._ingested is not None else None

    def documents_in(self, unit: int) -> int:
        """How many documents a unit has. Needs ingest finished."""
        name = self._path("documents", "documents", unit).rpartition("/")[2]
        assert self._ingested is not None
        return next(file.records for file in self._ingested.files if file.path == name)

    def sources(self, unit: int, wanted: Mask) -> list[str]:
        """The wanted sources of a unit's documents and rejects; none before ingest is finished."""
        if self._ingested is None:
            return []
        found: list[str] = []
        for kind in ("documents", "rejected"):
            table = rows_where(self._path("documents", kind, unit), "source", wanted, [], "ingest")
            found += table["source"].to_pylist()
        return found

    def of_sources(self, unit: int, wanted: Mask) -> list[Document] | None:
        """Documents and rejects of a unit with a wanted source, without views; None before ingest is finished.

        In the order of the input where places are numbers (byte offsets or rows); else documents, then rejects.
        """
        if self._ingested is None:
            return None
        path = self._path("documents", "rejected", unit)
        rejected = rows_where(path, "source", wanted, _REJECTED[1:], "ingest").to_pylist()
        found = self._documents(unit, "source", wanted) + [
            Document(row["source"], self.component, unit, "rejected", "ingest", rejection=_rejection(row))
            for row in rejected
        ]
        places = [document.source.rpartition("#")[2] for document in found]
        if all(place.isdecimal() for place in places):
            found.sort(key=lambda document: int(document.source.rpartition("#")[2]))
        return found

    def of_id(self, unit: int, id_: str) -> Document | None:
        """The document of an id, without views; None when the unit has no such row. Needs ingest finished."""
        found = self._documents(unit, "id", one_of([id_]))
        return found[0] if found else None

    def source_of(self, id_: str) -> str:
        """The source of a document."""
        path = self._path("documents", "documents", int(id_.split("/")[1]))
        found = rows_where(path, "id", one_of([id_]), ["source"], "ingest")["source"].to_pylist()
        if not found:
            raise TokenmillError(f"{path}: has no document {id_}; the stages of this run do not belong together")
        source: str = found[0]
        return source

    def _documents(self, unit: int, key: str, wanted: Mask) -> list[Document]:
        """Documents of a unit with a wanted key, each as far as the finished stages decided."""
        path = self._path("documents", "documents", unit)
        rows = rows_where(path, key, wanted, [name for name in _ABOUT if name != key], "ingest").to_pylist()
        about = {row["id"]: row for row in rows}
        if not about:
            return []
        drops = self._drops(unit, about)
        rejections = self._rejections(unit, about)
        tokens = self._tokens(unit, about)
        found = []
        for id_, row in about.items():
            document = Document(component=self.component, unit=unit, fate="undecided", stage="dedup", **row)
            if id_ in drops:
                document = replace(document, fate="dropped", drop=drops[id_])
            elif id_ in rejections:
                document = replace(document, fate="rejected", stage="tokenize", rejection=rejections[id_])
            elif id_ in tokens:
                document = replace(document, fate="kept", stage="tokenize", tokens=tokens[id_])
            elif self._tokenized is not None:
                raise TokenmillError(f"{id_}: neither dropped, rejected nor kept; this is a defect, please report it")
            elif self._deduplicated is not None:
                document = replace(document, stage="tokenize")
            found.append(document)
        return found

    def _drops(self, unit: int, ids: Iterable[str]) -> dict[str, Drop]:
        """Drops by id; the kept one's source is left empty."""
        if self._deduplicated is None:
            return {}
        path = self._path("dedup", "drops", unit)
        columns = ["reason", "kept_id", "jaccard", "cluster"]
        rows = rows_where(path, "id", one_of(ids), columns, "dedup").to_pylist()
        return {row.pop("id"): Drop(kept_source="", **row) for row in rows}

    def _rejections(self, unit: int, ids: Iterable[str]) -> dict[str, Rejection]:
        """Rejects of the token rules, by id."""
        if self._tokenized is None:
            return {}
        endings = {_OF_DOCUMENT + id_: id_ for id_ in ids}
        chosen = pa.array(endings, pa.string())

        def wanted(details: pa.ChunkedArray) -> pa.ChunkedArray:
            ending = pc.extract_regex(details, f"(?s).*(?P<ending>{_OF_DOCUMENT}[^;]*)$")
            return pc.is_in(pc.struct_field(ending, "ending"), value_set=chosen)

        columns = [name for name in _REJECTED if name != "detail"]
        rows = rows_where(self._path("tokens", "rejected", unit), "detail", wanted, columns, "tokenize").to_pylist()
        found = {}
        for row in rows:
            row["detail"], _, id_ = row["detail"].rpartition(_OF_DOCUMENT)
            found[id_] = _rejection(row)
        return found

    def _tokens(self, unit: int, ids: Iterable[str]) -> dict[str, int]:
        """Token counts of kept documents, by id."""
        if self._tokenized is None:
            return {}
        found = rows_where(self._path("tokens", "tokens", unit), "id", one_of(ids), ["count"], "tokenize")
        return dict(zip(found["id"].to_pylist(), found["count"].to_pylist(), strict=True))

    def _path(self, folder: str, kind: str, unit: int) -> str:
        assert self.units is not None
        return self.run.path(folder, self.component, unit_file(kind, unit, self.units))


def _rejection(row: dict[str, Any]) -> Rejection:
    return Rejection(row["reason"], row["detail"], row["offset"], row["sample"])


def with_kept_sources(run: Run, estimated: bool, documents: Sequence[Document]) -> list[Document]:
    """The same documents, with the source of what each dropped one is a duplicate of, where that is this run's.

    estimated: whether their similarities are.
    """
    kept_ids = {document.drop.kept_id for document in documents if document.drop and not document.drop.kept_before}
    fates = {component: Fates(run, component) for component in {id_.split("/")[0] for id_ in kept_ids}}
    sources = {id_: fates[id_.split("/")[0]].source_of(id_) for id_ in kept_ids}
    return [
        document
        if document.drop is None
        else replace(
            document,
            drop=replace(document.drop, kept_source=sources.get(document.drop.kept_id, ""), estimated=estimated),
        )
        for document in documents
    ]


def with_views(run: Run, lengths: Sequence[int], documents: Sequence[Document]) -> list[Document]:
    """The same documents, kept ones with their records in the views of these sequence lengths."""
    counts = {doc.id: doc.tokens for doc in documents if doc.id is not None and doc.tokens is not None}
    views: dict[str, list[View]] = {id_: [] for id_ in counts}
    for length in lengths if counts else ():
        whole = read_view(run, length)
        records = _records(run, whole, counts) if whole is not None else {}
        for id_, tokens in counts.items():
            if whole is None:
                views[id_].append(View(length, finished=False))
            else:
                held = records.get(id_, [])
                views[id_].append(View(length, True, tuple(held), tuple(_gaps(held, tokens))))
    return [replace(doc, views=tuple(views.get(doc.id or "", ()))) for doc in documents]


def _records(run: Run, view: ShardManifest, ids: Iterable[str]) -> dict[str, list[Record]]:
    """Records that hold tokens of these documents, by id, in the order of tokens, shards and rows."""
    wanted = one_of(ids)
    folder = view_folder(view.sequence_length)
    train = {file.path for file in view.splits.train.files}

    def search(name: str) -> list[dict[str, Any]]:
        table = rows_where(run.path(folder, name), "document", wanted, ["shard", "row", "start", "length"], "shard")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    spans: dict[str, dict[tuple[int, int], list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    with ThreadPoolExecutor(16) as pool:  # remote shards are many, and each answers slowly
        for rows in pool.map(search, [file.path for file in view.provenance]):
            for row in rows:
                spans[row["document"]][row["start"], row["length"]].append((row["shard"], row["row"]))
    return {
        id_: [
            Record("train" if shard in train else "validation", shard, row, start, length, len(places))
            for (start, length), places in sorted(of_document.items())
            for shard, row in places
        ]
        for id_, of_document in spans.items()
    }


def _gaps(records: Sequence[Record], tokens: int) -> Iterator[tuple[int, int]]:
    """Spans [start, stop) of [0, tokens) that no record holds. records: by ascending start."""
    at = 0
    for record in records:
        if record.start > at:
            yield at, record.start
        at = max(at, record.start + record.length)
    if at < tokens:
        yield at, tokens
