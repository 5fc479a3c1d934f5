"""Target: JSON lines of any values, read with any options, against the values they were made from."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from pipelines.sources import InputRead, RawDocument, Reject, read_slices
from pipelines.sources.base import Slice
from schemas.config import Source
from tests.fuzz.target import Target
from tests.fuzz.texts import TEXTS

_NAMES: Final = ("text", "m", "", "é", "quality", "a.b", "\ud800")
_SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    TEXTS,
)
VALUES: Final = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
_NUMBERS: Final = st.one_of(st.floats(), st.integers(), st.booleans(), _SCALARS)
_DOCUMENTS: Final = st.builds(
    lambda row, text, value, number: {**row, "text": text, "m": value, "q": number},
    st.dictionaries(st.sampled_from(_NAMES), VALUES, max_size=2),
    TEXTS,
    VALUES,
    _NUMBERS,
)
_ROWS: Final = st.one_of(
    _DOCUMENTS,
    _DOCUMENTS,
    st.dictionaries(st.one_of(st.sampled_from(_NAMES), TEXTS), VALUES, max_size=5),
    VALUES,
)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tokenmill-fuzz-")


def rows_law(rows: list[Any], text: str, metadata: list[str], quality: str | None, ascii_only: bool) -> None:
    """A row is a document with exactly its text, metadata and quality, or a reject that says why it is none."""
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for row in rows]
    data = b"\n".join(lines)
    path = Path(_folder().name) / "x.jsonl"
    path.write_bytes(data)
    source = Source(path=str(path), format="jsonl", text=text, metadata=tuple(metadata), quality=quality)
    *items, account = read_slices(source, str(path.parent), [Slice("x.jsonl", len(data), 0, len(data))])
    assert isinstance(account, InputRead) and account.size == len(data)
    assert len(items) == len(rows)
    offset = 0
    for row, line, item in zip(rows, lines, items, strict=True):
        assert not isinstance(item, InputRead) and item.offset == offset
        assert item.source == f"x.jsonl#{offset}"
        reason = _reason(row, line, text)
        if isinstance(item, Reject):
            assert item.reason == reason
        else:
            assert reason == ""
            _check(item, row, source)
        offset += len(line) + 1


def _reason(row: Any, line: bytes, column: str) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    if not isinstance(row, dict):
        return "not_an_object"
    text = row.get(column)
    if text is None:
        return "missing_text"
    if not isinstance(text, str):
        return "not_text"
    return "" if _encodes(text) else "lone_surrogate"


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check(item: RawDocument, row: dict[str, Any], source: Source) -> None:
    assert item.data == row[source.text]
    present = {name for name in source.metadata if row.get(name) is not None}
    assert set(item.metadata) == present
    for name in present:
        value, told = row[name], item.metadata[name]
        told.encode("utf-8")
        if isinstance(value, str):
            assert not _encodes(value) or told == value
        elif _encodes(json.dumps(value, ensure_ascii=False)):
            # NaN is unequal to itself, so texts are compared.
            assert json.dumps(json.loads(told), sort_keys=True) == json.dumps(value, sort_keys=True)
    number = row.get(source.quality) if source.quality is not None else None
    if not isinstance(number, int | float) or isinstance(number, bool) or str(number) == "nan":
        assert item.quality is None
    elif abs(number) <= 1e308:
        assert item.quality == float(number)


_COLUMNS: Final = st.one_of(st.sampled_from([*_NAMES[:-1], "m", "m"]), TEXTS.filter(_encodes))
TARGETS: Final = [
    Target(
        "rows",
        rows_law,
        {
            "rows": st.lists(_ROWS, min_size=1, max_size=4),
            "text": st.one_of(st.just("text"), _COLUMNS),
            "metadata": st.lists(_COLUMNS, max_size=3, unique=True),
            "quality": st.one_of(st.none(), st.just("q"), st.just("q"), _COLUMNS),
            "ascii_only": st.booleans(),
        },
        (
            {
                "rows": [{"": 0.5, "text": "a"}],
                "text": "text",
                "metadata": [],
                "quality": "",
                "ascii_only": False,
            },
        ),
    )
]
