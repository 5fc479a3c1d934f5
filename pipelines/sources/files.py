"""Source trees and text files: a document a file, its bytes still to be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.sources.base import MAX_DOCUMENT_BYTES, InputRead, RawDocument, Reject, Slice, sample
from pipelines.sources.streams import Tally, blocks, open_input

if TYPE_CHECKING:
    from schemas.config import Source


def read_files(
    source: Source, root: str, slice_: Slice, limit: int = MAX_DOCUMENT_BYTES
) -> Iterator[RawDocument | Reject | InputRead]:
    """The document of one file. A file of more than `limit` bytes is rejected; it is hashed all the same."""
    tally = Tally()
    with open_input(root, slice_.path, slice_.size) as file:
        content = tally.over(blocks(file, slice_.path, 0, slice_.size))
        if slice_.size <= limit:
            yield RawDocument(slice_.path, 0, b"".join(content), dict(source.labels), None)
        else:
            head = next(content)
            for _ in content:
                pass
            detail = f"{slice_.size} bytes, at most {limit} are read as one document"
            yield Reject(slice_.path, 0, "file_too_long", detail, sample(head))
    yield tally.input_read(slice_.path)
