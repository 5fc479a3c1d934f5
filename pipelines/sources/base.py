"""What planning and reading exchange: inputs, slices of them, documents, and rejects with their reasons."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import TokenmillError

SAMPLE_CHARACTERS = 200
MAX_DOCUMENT_BYTES = 1 << 28
"""A longer line, file or archive member is rejected unread: one document is held whole in memory, some thirty times
over until its tokens are written, and they must fit a Parquet page (2 GiB at four bytes a token)."""


class SourceChanged(TokenmillError):
    """An input is not what the listing saw, so units planned from the listing no longer describe it."""

    def __init__(self, path: str, found: str):
        super().__init__(f"{path}: {found}; the listing no longer holds, so run into a fresh --output")


class SourceUnreachable(TokenmillError):
    """A remote input could not be read. No reject: a network failure must not decide what a corpus holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An input file. path: below its source's root, '/' between folders (see `paths.quote`); size: bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of one input: bytes [start, stop), or for Parquet row groups [start, stop).

    size: bytes of the input.
    A Parquet file whose footer could not be read is the slice 0..-1.
    """

    path: str
    size: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as its source holds it.

    source: the input's path, or `path#place` inside a container; place is the byte offset of a JSONL line (of
    the decompressed stream where there is one), the row in a Parquet file, or the name of a tar member.
    offset: that byte offset or row; for a tar member the byte offset of its header; 0 for a whole file.
    data: bytes still to be decoded, or text.
    """

    source: str
    offset: int
    data: bytes | str
    metadata: dict[str, str]
    quality: float | None


@dataclass(frozen=True, slots=True)
class Reject:
    """What could not become a document. reason: snake_case; sample: up to 200 printable characters of it."""

    source: str
    offset: int
    reason: str
    detail: str
    sample: str


@dataclass(frozen=True, slots=True)
class InputRead:
    """What reading one slice consumed: its bytes and their sha256 (hex). Absent when it was unreadable.

    Byte ranges of JSONL: the lines the slice owns. Compressed inputs: the compressed bytes. Parquet: the
    column chunks of the columns that are read, in file order.
    """

    path: str
    size: int
    sha256: str


def sample(data: bytes | str) -> str:
    """The beginning of `data` in at most 200 printable characters; everything else is backslash-escaped."""
    if isinstance(data, bytes):
        data = data[: 4 * SAMPLE_CHARACTERS].decode("utf-8", "backslashreplace")
    return printable(data[:SAMPLE_CHARACTERS])[:SAMPLE_CHARACTERS]


def printable(text: str) -> str:
    """`text` with everything unprintable backslash-escaped: no terminal obeys it, and it is one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """An error's text on one line, printable; its type when it has none. Of a system error no more than its meaning:
    the rest names where the source lies on this machine, which no output may depend on.
    """
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(told.split())) or type(error).__name__
