"""From the columns of a row (JSON object or Parquet row) to a document: text, metadata, quality."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.sources.base import RawDocument, Reject, sample

if TYPE_CHECKING:
    from schemas.config import Source


def needed(source: Source) -> list[str]:
    """The columns a source reads, each once, text first."""
    names = (source.text, *source.metadata, source.quality)
    return list(dict.fromkeys(name for name in names if name is not None))


def document(source: Source, place: str, offset: int, row: Mapping[str, object], head: bytes) -> RawDocument | Reject:
    """The document of one row, or why it is none. head: the row's first bytes as stored, where there are any.

    Text is a string, or bytes still to be decoded. Metadata values that are no strings are written as JSON
    (keys sorted); null and absent ones are left out. A quality that is absent, not a number or NaN is None.
    """
    text = row.get(source.text)
    if text is None:
        return Reject(place, offset, "missing_text", f"no value in column {source.text!r}", sample(head))
    if not isinstance(text, str | bytes):
        detail = f"column {source.text!r} holds {type(text).__name__}, not text"
        return Reject(place, offset, "not_text", detail, sample(head or str(text)))
    metadata = dict(source.labels)
    for name in source.metadata:
        value = row.get(name)
        if value is not None:
            metadata[name] = _as_text(value)
    quality = _number(row.get(source.quality)) if source.quality is not None else None
    return RawDocument(place, offset, text, metadata, quality)


def _as_text(value: object) -> str:
    """A metadata value as text that any table can hold (lone surrogates are backslash-escaped)."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _number(value: object) -> float | None:
    """A quality score, if `value` is one."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return None if math.isnan(number) else number
