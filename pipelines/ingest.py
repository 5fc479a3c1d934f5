"""ingest: units of raw input become documents, or rejects with a reason.

One pass over the text: read, decode, clean, measure the quality rules, name the language, hash, MinHash. A batch of
documents is one row group, so a worker holds a few megabytes of text whatever the unit's size.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import minhash, stages, unreadable
from pipelines.cleaning import clean_code, clean_natural_language
from pipelines.jobs import Each, Run, run_steps
from pipelines.language import LANGUAGE_MODEL, code_language, natural_language
from pipelines.plan import Unit, read_index, read_unit
from pipelines.quality import first_failures, measure
from pipelines.sources import InputRead, RawDocument, Reject, read_slices
from pipelines.sources.base import MAX_DOCUMENT_BYTES, sample
from pipelines.stages import Context, Receipt
from pipelines.text_table import UNICODE_VERSION, TextTable
from schemas import manifest
from schemas.arrow import HASH_BYTES, documents_schema
from schemas.config import Config
from schemas.errors import TokenmillError
from schemas.manifest import File, Input, StageManifest

FORMAT = 2  # raised when the same config and input would give other bytes
_BATCH_CHARACTERS = 4 << 20
_BATCH_DOCUMENTS = 2048
_BINARY_PROBE = 8000  # a NUL this early makes a file binary, as git has it


def fingerprint(config: Config, component: str, plan_fingerprint: str) -> str:
    """Identifies a component's documents: what is read, how it is cleaned, measured and signed."""
    sources = [
        source.model_dump(mode="json", exclude={"path", "priority"}) for source in config.components[component].sources
    ]
    bounds = {name: bound.model_dump() for name, bound in config.rule_bounds(component).items()}
    return manifest.fingerprint(
        {
            "stage": "ingest",
            "format": FORMAT,
            "plan": plan_fingerprint,
            "kind": config.kind(component),
            "sources": sources,
            "rules": bounds,
            "permutations": config.dedup.permutations,
            "shingle": config.dedup.shingle,
            "versions": _versions(),
        }
    )


def _versions() -> dict[str, str]:
    return stages.versions("pyarrow", "datasketch", "Pygments") | {
        "language_model": LANGUAGE_MODEL,
        "unicode": UNICODE_VERSION,
    }


@dataclass
class _Batch:
    """Documents on their way to one row group."""

    sources: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    quality: list[float | None] = field(default_factory=list)
    characters: int = 0

    def add(self, document: RawDocument, text: str) -> None:
        """Append one cleaned document."""
        self.sources.append(document.source)
        self.offsets.append(document.offset)
        self.texts.append(text)
        self.metadata.append(document.metadata)
        self.quality.append(document.quality)
        self.characters += len(text)

    def full(self) -> bool:
        """Whether the batch should become a row group."""
        return self.characters >= _BATCH_CHARACTERS or len(self.texts) >= _BATCH_DOCUMENTS


@dataclass(frozen=True)
class IngestUnit:
    """The task: one unit to one documents file and one rejected file."""

    config: Config
    folders: dict[str, str]

    def __call__(self, run: Run, task: int) -> None:
        """Ingest one unit and leave its receipt."""
        unit, root = read_unit(run, task)
        _Ingestion(self, run, task, unit, root).run()


class _Ingestion:
    """The state of one unit's ingestion."""

    def __init__(self, work: IngestUnit, run: Run, task: int, unit: Unit, root: str) -> None:
        self._work, self._run, self._task, self._unit, self._root = work, run, task, unit, root
        self._kind = work.config.kind(unit.component)
        self._clean = clean_code if self._kind == "code" else clean_natural_language
        self._bounds = {name: (bound.min, bound.max) for name, bound in work.config.rule_bounds(unit.component).items()}
        self._schema = documents_schema(work.config.dedup.permutations, self._bounds)
        self._rejects = stages.Rejects()
        self._told: list[str] = []
        self._unreadable = 0  # what the listing refused, such as linked folders, is no unreadable document
        self._inputs: list[Input] = []
        self._counts: Counter[str] = Counter(documents_in=len(unit.rejects))
        self._row = 0

    def run(self) -> None:
        """Write the documents and, beside them, the rejects; then the receipt."""
        documents, rejected = (
            read_index(self._run).path(self._run, "documents", kind, self._task) for kind in ("documents", "rejected")
        )
        files = stages.commit_with_rejects(self._run, documents, self._tables(), self._schema, rejected, self._rejects)
        self._counts.update(self._rejects.counts)
        self._counts["kept"] = self._row
        self._counts[f"source.{self._unit.source}.documents_in"] = self._counts["documents_in"]
        self._counts[f"source.{self._unit.source}.unreadable"] = self._unreadable
        receipt = Receipt(
            task=self._task,
            files=files,
            unit=manifest.Unit(
                unit=self._unit.unit, inputs=tuple(self._inputs), counts=dict(sorted(self._counts.items()))
            ),
            facts={unreadable.FACT: self._told},
        )
        stages.write_receipt(self._run, self._work.folders[self._unit.component], receipt)

    def _tables(self) -> Iterator[pa.Table]:
        for reject in self._unit.rejects:
            self._rejects.add(reject)
        batch = _Batch()
        source = self._work.config.components[self._unit.component].sources[self._unit.source]
        for found in read_slices(source, self._root, self._unit.slices):
            if isinstance(found, InputRead):
                self._inputs.append(Input(path=found.path, size=found.size, sha256=found.sha256))
                continue
            self._counts["documents_in"] += 1
            if isinstance(found, Reject):
                self._refuse(found)
                continue
            text = self._text(found)
            if text is None:
                continue
            batch.add(found, text)
            if batch.full():
                yield self._table(batch)
                batch = _Batch()
        if batch.texts:
            yield self._table(batch)

    def _refuse(self, reject: Reject) -> None:
        self._unreadable += 1
        if len(self._told) < unreadable.SHOWN:
            self._told.append(unreadable.told(reject))
        self._rejects.add(reject)

    def _text(self, document: RawDocument) -> str | None:
        """The cleaned text, or None after a reject."""
        data = document.data
        if isinstance(data, bytes):
            if b"\0" in data[:_BINARY_PROBE]:
                at = data.index(b"\0")
                self._refuse(Reject(document.source, document.offset, "binary", f"NUL at byte {at}", sample(data)))
                return None
            try:
                data = data.decode("utf-8")
            except UnicodeDecodeError as error:
                detail = f"{error.reason} at byte {error.start}"
                shown = sample(data[max(0, error.start - 40) :])
                self._refuse(Reject(document.source, document.offset, "not_utf8", detail, shown))
                return None
        text = self._clean(data)
        if not text:
            self._rejects.add(Reject(document.source, document.offset, "empty", "no text after cleaning", sample(data)))
            return None
        if 4 * len(text) > MAX_DOCUMENT_BYTES and len(text.encode()) > MAX_DOCUMENT_BYTES:
            detail = f"at most {MAX_DOCUMENT_BYTES} bytes of UTF-8 are one document"
            self._refuse(Reject(document.source, document.offset, "text_too_long", detail, sample(text)))
            return None
        return text

    def _languages(self, batch: _Batch) -> list[str]:
        if self._kind == "natural_language":
            return [language for language, _ in natural_language(batch.texts)]
        return [
            metadata.get("language") or code_language(metadata.get("path") or source)
            for source, metadata in zip(batch.sources, batch.metadata, strict=True)
        ]

    def _table(self, batch: _Batch) -> pa.Table:
        table = TextTable.from_texts(batch.texts)
        languages = self._languages(batch)
        values = measure(table, batch.texts, self._kind, languages, batch.sources, self._bounds)
        kept = np.ones(len(batch.texts), bool)
        for i, failure in enumerate(first_failures(values, self._bounds)):
            if failure is not None:
                rule, value, bound = failure
                kept[i] = False
                detail = f"{rule} = {value:.6g}, {bound}"
                self._rejects.add(Reject(batch.sources[i], batch.offsets[i], rule, detail, sample(batch.texts[i])))
        shingles, offsets = minhash.shingle_hashes(table, self._work.config.dedup.shingle)
        signatures = minhash.signatures(shingles, offsets, self._work.config.dedup.permutations)
        texts = pa.array(batch.texts, pa.string())
        count = int(kept.sum())
        columns: dict[str, Any] = {
            "id": [f"{self._unit.name}/{row}" for row in range(self._row, self._row + count)],
            "source": _select(batch.sources, kept),
            "text": texts.filter(pa.array(kept)),
            "language": _select(languages, kept),
            "hash": pa.array([content_hash(text) for text in _select(batch.texts, kept)], pa.binary(HASH_BYTES)),
            "signature": _fixed_binary(signatures[kept]),
            "metadata": [list(metadata.items()) for metadata in _select(batch.metadata, kept)],
            "characters": [len(text) for text in _select(batch.texts, kept)],
            "words": np.diff(table.token_offsets)[kept],
            "quality": _select(batch.quality, kept),
        }
        for name in self._bounds:
            columns[name] = pa.array(values[name][kept], pa.float64(), from_pandas=True)
        self._row += count
        self._counts["characters"] += sum(columns["characters"])
        return pa.table(columns, schema=self._schema)


def content_hash(text: str) -> bytes:
    """The content hash of a cleaned text: the first 16 bytes of SHA-256 over its UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).digest()[:HASH_BYTES]


def _select(values: list[Any], mask: np.ndarray) -> list[Any]:
    return [value for value, chosen in zip(values, mask, strict=True) if chosen]


def _fixed_binary(rows: np.ndarray) -> pa.Array:
    """Rows of a 2-D array as fixed-size binaries, little-endian."""
    little = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    width = little.shape[1] * little.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(little), [None, pa.py_buffer(little.tobytes())])


def run(context: Context) -> None:
    """Ingest what is not yet ingested and write each component's manifest.

    Raises:
        TokenmillError: a component is empty, or too much of a source is unreadable.
    """
    config, plan = context.config, context.plan
    prints = {name: fingerprint(config, name, plan.fingerprint(name)) for name in plan.by_component}
    due = [name for name in plan.by_component if not stages.is_done(context.run, "documents", name, prints[name])]
    folders = {name: stages.work_folder("ingest", prints[name]) for name in due}
    tasks = [task for name in due for task in stages.unfinished(context.run, folders[name], plan.by_component[name])]
    context.say(
        "stage",
        name="ingest",
        tasks=sum(len(plan.by_component[name]) for name in due),
        folders=list(folders.values()),
    )
    if tasks:
        run_steps(context.run, _steps(context, folders, tasks), context.options, context.small)
    for name in due:
        receipts = stages.read_receipts(context.run, folders[name], plan.by_component[name])
        counts = stages.total(receipt.unit.counts for receipt in receipts)
        _check(config, name, counts, receipts)
        files: list[File] = [file for receipt in receipts for file in receipt.files]
        whole = StageManifest(
            stage="ingest",
            component=name,
            fingerprint=prints[name],
            inputs={"plan": plan.fingerprint(name)},
            versions=_versions(),
            counts=counts,
            files=tuple(sorted(files, key=lambda file: file.path)),
            units=tuple(receipt.unit for receipt in receipts),
        )
        stages.write_manifest(context.run, whole, "documents", name)


def _steps(context: Context, folders: dict[str, str], tasks: list[int]) -> list[Each]:
    """The units by which sources are judged early, their judgement, and all others; where there are others."""
    work = IngestUnit(context.config, folders)
    due = [task for name in folders for task in context.plan.by_component[name]]
    first = unreadable.first_units(context.plan.units, due, context.config.seed)
    early = {task for _, _, drawn in first for task in drawn}
    others = [task for task in tasks if task not in early]
    if not others:
        return [Each("ingest", tasks, work)]
    return [
        Each("first units", [task for task in tasks if task in early], work),
        Each("judge", [0], unreadable.Judge(context.config, folders, first)),
        Each("ingest", others, work),
    ]


def _check(config: Config, component: str, counts: dict[str, int], receipts: list[Receipt]) -> None:
    """Refuse to go on with a source that is too much unreadable, or with nothing."""
    for source in range(len(config.components[component].sources)):
        unreadable.check_source(config, component, source, receipts, config.ingest.max_rejected_fraction)
    if not counts.get("kept"):
        raise TokenmillError(
            f"components.{component}: nothing is left of {counts['documents_in']} documents (rejects: "
            f"{unreadable.reasons(counts)}); look at documents/{component}/rejected-*.parquet and at the quality rules"
        )
