"""Manifests: what a stage wrote, from what, under which fingerprint.

A stage's `manifest.json` is written last: it exists if and only if the stage is whole. The
JSON Schema of both kinds is in `schemas/json/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import TokenmillError

FORMAT_VERSION = 1
Stage = Literal["ingest", "dedup", "tokenizer", "tokenize", "shard"]
STAGES: tuple[Stage, ...] = ("ingest", "dedup", "tokenizer", "tokenize", "shard")
ManifestT = TypeVar("ManifestT", bound="BaseModel")


class Model(BaseModel):
    """A strict, immutable manifest part."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Model):
    """One file beside the manifest: its name, records (rows), bytes and sha256 (hex)."""

    path: str
    records: int
    bytes: int
    sha256: str


class ShardFile(File):
    """A shard of records. ends: what `schemas.record.end_checksums` gives of it, so that a reader can tell it from
    another shard of the same size."""

    ends: str


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a unit: path below its source's root, bytes read, sha256 (hex) of those bytes."""

    # No `Model`, which takes four times the memory: a tree of sources has an input a file.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str
    size: int
    sha256: str


class Unit(Model):
    """What one unit read and what became of it; `counts` are additive over units."""

    unit: int
    inputs: tuple[Input, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)


class StageManifest(Model):
    """Manifest of `documents/`, `dedup/`, `tokens/` (one a component) and `tokenizer/`."""

    format_version: Literal[1] = 1
    stage: Stage
    component: str | None = None
    fingerprint: str
    inputs: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    files: tuple[File, ...] = ()
    units: tuple[Unit, ...] = ()
    alarms: tuple[str, ...] = ()
    details: dict[str, Any] = Field(default_factory=dict)


class TokenizerInfo(Model):
    """The tokenizer a view was cut with; ids of the reserved tokens."""

    fingerprint: str
    vocab_size: int
    begin: int
    end: int
    pad: int
    fim_begin: int
    fim_hole: int
    fim_end: int


class OrderComponent(Model):
    """A component's integer weight in the order, its requested share and the share it got."""

    name: str
    weight: int
    requested: float
    realised: float


class OrderInfo(Model):
    """Everything the order is computed from, beside the split's lanes, groups and rows."""

    version: Literal[1] = 1
    permutation: str
    seed: int
    period: int
    components: tuple[OrderComponent, ...]


class ComponentCounts(Model):
    """A component in a view: its documents and their tokens, its packed sequences, its share of the train tokens."""

    documents: int
    tokens: int
    available: int
    used: int
    unused: int
    repeats: int
    token_share: float


class TrainSplit(Model):
    """The train split: groups x lanes shards of `rows` records each."""

    lanes: int
    groups: int
    rows: int
    records: int
    files: tuple[ShardFile, ...]


class ValidationSplit(Model):
    """One component's held-out records, read once, in file order."""

    records: int
    files: tuple[ShardFile, ...]


class Splits(Model):
    """The splits of a view."""

    train: TrainSplit
    validation: dict[str, ValidationSplit]


class UnitsFile(Model):
    """The file that holds the packed sequences of each unit."""

    path: str
    sha256: str


class DocumentLaw(Model):
    """in = kept + sum(dropped) + sum(rejected), in documents."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    into: int = Field(validation_alias="in", serialization_alias="in")
    kept: int
    dropped: dict[str, int]
    rejected: dict[str, int]

    def holds(self) -> bool:
        """Whether every document is accounted for."""
        return self.into == self.kept + sum(self.dropped.values()) + sum(self.rejected.values())


class TokenLaw(Model):
    """encoded = in_records + unused; in_records + repeated + padding = records x (sequence_length + 1)."""

    encoded: int
    in_records: int
    repeated: int
    padding: int
    unused: int

    def holds(self, records: int, sequence_length: int) -> bool:
        """Whether every token and every place in a record is accounted for."""
        places = self.in_records + self.repeated + self.padding
        return self.encoded == self.in_records + self.unused and places == records * (sequence_length + 1)


class Conservation(Model):
    """The two laws nothing may break."""

    documents: DocumentLaw
    tokens: TokenLaw


class ShardManifest(Model):
    """Manifest of one view, `shards/<sequence_length>/manifest.json`."""

    format_version: Literal[1] = 1
    stage: Literal["shard"] = "shard"
    fingerprint: str
    sequence_length: int
    token_dtype: Literal["uint16", "int32"]
    packing: str
    tokenizer: TokenizerInfo
    order: OrderInfo
    components: dict[str, ComponentCounts]
    splits: Splits
    provenance: tuple[File, ...]
    units: UnitsFile
    conservation: Conservation
    versions: dict[str, str] = Field(default_factory=dict)
    parent: str | None = None


def dump(manifest: BaseModel) -> bytes:
    """A manifest as JSON bytes, the same for the same content."""
    return (manifest.model_dump_json(indent=1, by_alias=True) + "\n").encode()


def parse(model: type[ManifestT], data: bytes, origin: str) -> ManifestT:
    """Read a manifest; `origin` is named in errors.

    Raises:
        TokenmillError: not a manifest of this kind or format version.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TokenmillError(
            f"{origin}: not a {model.__name__} of format version {FORMAT_VERSION}: {place}: {first['msg']}"
        ) from None


def load(model: type[ManifestT], path: str | Path) -> ManifestT:
    """Read a local manifest. Raises TokenmillError when it is absent or not one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TokenmillError(f"{path}: cannot read the manifest: {error.strerror}") from None
    return parse(model, data, str(path))


def fingerprint(content: Any) -> str:
    """The sha256 (hex) of canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(_canonical(content)).hexdigest()


def fingerprint_of_list(items: Iterable[Any]) -> str:
    """`fingerprint` of a list that need not be in memory."""
    digest = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        digest.update((b"," if number else b"") + _canonical(item))
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
