"""What explain answers: the fate of a document, or of all documents of a container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.manifest import Stage

Fate = Literal["kept", "dropped", "rejected", "undecided"]


@dataclass(frozen=True)
class Rejection:
    """Why a document was rejected. offset: byte or row in its input; sample: the beginning of it, printable."""

    reason: str
    detail: str
    offset: int
    sample: str


@dataclass(frozen=True)
class Drop:
    """Which kept document made another a duplicate, and how similar they are (Jaccard similarity).

    kept_id: of an earlier run's document, `<run>#<id there>`; kept_source is empty then. estimated: whether the
    similarity is the signatures' or, with `dedup.check: text`, the texts'.
    """

    reason: str
    kept_id: str
    kept_source: str
    jaccard: float
    cluster: str
    estimated: bool = True

    @property
    def kept_before(self) -> bool:
        """Whether the kept document is an earlier run's."""
        return "#" in self.kept_id


@dataclass(frozen=True)
class Record:
    """A record of a view that holds tokens [start, start + length) of a document.

    repeats: how many records of the view hold this same span; more than one when the component is repeated.
    """

    split: Literal["train", "validation"]
    shard: str
    row: int
    start: int
    length: int
    repeats: int


@dataclass(frozen=True)
class View:
    """A document in one view. unused: spans [start, stop) of its tokens whose sequences are in no record.

    finished: False when the view is not cut yet; it then says nothing of the document.
    """

    sequence_length: int
    finished: bool
    records: tuple[Record, ...] = ()
    unused: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Document:
    """One document, or what could not become one (it has no id then).

    stage: the stage that decided, or for `undecided` the first that has yet to.
    language, characters, words: known from ingest on; tokens: of a kept document, with begin and end.
    """

    source: str
    component: str
    unit: int
    fate: Fate
    stage: Stage
    id: str | None = None
    language: str | None = None
    characters: int | None = None
    words: int | None = None
    tokens: int | None = None
    rejection: Rejection | None = None
    drop: Drop | None = None
    views: tuple[View, ...] = ()

    @property
    def outcome(self) -> str:
        """The fate with its reason, such as `dropped: near_duplicate`."""
        if self.rejection is not None:
            return f"rejected: {self.rejection.reason}"
        if self.drop is not None:
            return f"dropped: {self.drop.reason}"
        return "kept" if self.fate == "kept" else f"undecided: {self.stage} is not finished"


@dataclass(frozen=True)
class Container:
    """An input of many documents. counts: documents by outcome; documents: the first of them."""

    source: str
    component: str
    counts: dict[str, int]
    documents: tuple[Document, ...]


Account = Document | Container
