"""Targets: every reader, on altered inputs."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import resource
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, Final

from hypothesis import strategies as st

from pipelines.sources import InputRead, RawDocument, Reject, list_entries, plan_slices
from pipelines.sources.base import Slice
from pipelines.sources.files import read_files
from pipelines.sources.jsonl import read_jsonl
from pipelines.sources.parquet import read_parquet
from pipelines.sources.streams import Damaged, blocks, decompressed
from pipelines.sources.tar import read_tar
from schemas.config import Source
from tests.fuzz import expected
from tests.fuzz.inputs import contents
from tests.fuzz.target import Target

LIMIT: Final = 1 << 22
"""Bytes of a document in these runs: the readers hold one document whole, and a small file can claim a large one."""
MOST_MEMORY: Final = 400 << 20
MOST_SECONDS: Final = 20.0
WHOLE_FILE: Final = 1 << 30
_STREAM_REASONS: Final = {"truncated", "corrupt", "data_after_end"}

_READERS: Final[dict[str, Any]] = {
    "files": partial(read_files, limit=LIMIT),
    "jsonl": partial(read_jsonl, limit=LIMIT),
    "tar": partial(read_tar, limit=LIMIT),
    "parquet": read_parquet,
}
Items = list[RawDocument | Reject | InputRead]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the input under test lies; it stays there if the process dies."""
    return tempfile.TemporaryDirectory(prefix="tokenmill-fuzz-")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _source(path: Path, form: str) -> Source:
    columns = {"metadata": ("m", "n"), "quality": "q"} if form in ("jsonl", "parquet") else {}
    return Source.model_validate({"path": str(path), "format": form, **columns})


def _read(source: Source, unit_bytes: int) -> tuple[list[Slice], Items]:
    root, entries, refused = list_entries(source)
    assert not refused
    slices = [slice_ for unit in plan_slices(source, root, entries, unit_bytes) for slice_ in unit]
    read = _READERS[source.format]
    return slices, [item for slice_ in slices for item in read(source, root, slice_)]


def reader_law(name: str, data: bytes, unit_bytes: int) -> None:
    """Nothing raises, the account is exact, units agree with the whole, documents are those of another reading."""
    form, _, packing = name.partition(".")
    path = Path(_folder().name) / f"x.{'txt' if form == 'files' else name}"
    path.write_bytes(data)
    source = _source(path, form)
    start, peak = time.process_time(), _peak()
    slices, whole = _read(source, WHOLE_FILE)
    assert time.process_time() - start < MOST_SECONDS, "it takes too long"
    assert _peak() - peak < MOST_MEMORY, f"it takes {_peak() - peak >> 20} MiB"
    _check_items(whole, len(slices))
    _check_account(form, data, whole)
    if form == "parquet" or name == "jsonl":
        _check_units(source, data, whole, unit_bytes)
    documents = [item for item in whole if isinstance(item, RawDocument)]
    damaged = any(isinstance(item, Reject) and item.reason in _STREAM_REASONS for item in whole)
    content = expected.unpacked(data, packing)
    if content is not None or not packing:
        assert content is not None
        _check_documents(form, source, content, documents, damaged)
    if packing:
        _check_feeding(data, packing, unit_bytes)


def _check_items(items: Items, slices: int) -> None:
    """Everything is of a kind that tables hold, and every slice ends with one account."""
    assert sum(isinstance(item, InputRead) for item in items) == slices
    assert isinstance(items[-1], InputRead)
    for item in items:
        if isinstance(item, RawDocument):
            assert len(item.data) <= LIMIT
            texts = [item.source, *item.metadata, *item.metadata.values()]
            texts += [item.data] if isinstance(item.data, str) else []
            assert item.quality is None or item.quality == item.quality
        elif isinstance(item, Reject):
            assert item.reason and item.offset >= 0 and len(item.sample) <= 200
            assert (item.detail + item.sample).isprintable()
            texts = [item.source, item.reason, item.detail, item.sample]
        else:
            continue
        for text in texts:
            text.encode("utf-8")


def _check_account(form: str, data: bytes, items: Items) -> None:
    """The accounts say what was read: all of it, but for Parquet, where columns are left out."""
    account = items[-1]
    assert isinstance(account, InputRead)
    if form != "parquet":
        assert (account.size, account.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def _check_units(source: Source, data: bytes, whole: Items, unit_bytes: int) -> None:
    """Units of any size give the same documents and rejects, and read every byte once."""
    slices, parts = _read(source, unit_bytes)
    _check_items(parts, len(slices))
    assert [item for item in parts if isinstance(item, RawDocument)] == [d for d in whole if isinstance(d, RawDocument)]
    rejects = [item for item in parts if isinstance(item, Reject)]
    if source.format == "jsonl":
        assert rejects == [item for item in whole if isinstance(item, Reject)]
        assert sum(item.size for item in parts if isinstance(item, InputRead)) == len(data)
    else:  # a file without a usable footer or text is one reject a slice
        assert {*rejects} == {item for item in whole if isinstance(item, Reject)}
        assert _total(parts) == _total(whole)


def _total(items: Items) -> int:
    return sum(item.size for item in items if isinstance(item, InputRead))


def _check_documents(form: str, source: Source, content: bytes, documents: list[RawDocument], damaged: bool) -> None:
    if form == "files":
        assert [document.data for document in documents] == [content]
    elif form == "jsonl":
        found = [(document.offset, document.data) for document in documents]
        # Python's gzip accepts headers with a wrong checksum.
        assert found == expected.jsonl(source, content)[: len(found) if damaged else None]
    elif form == "parquet":
        rows = expected.parquet(source, content)
        if rows is not None and not damaged:
            assert [(document.offset, document.data) for document in documents] == rows
    else:
        members, sparse = expected.tar(content, LIMIT)
        contents = [document.data for document in documents]
        safe = [data for name, data in members if not name.startswith("/") and ".." not in name.split("/")]
        assert contents == safe[: len(contents) if damaged else None]
        assert sparse or all(isinstance(data, bytes) and data in content for data in contents)


class _ShortReads(io.BytesIO):
    """A file that gives at most `most` bytes at a time, as network file systems do."""

    def __init__(self, data: bytes, most: int):
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._most if size is None or size < 0 else min(size, self._most)
        return super().read(wanted)


def _check_feeding(data: bytes, packing: str, most: int) -> None:
    """Content and damage of a stream do not depend on how many bytes the file gives at a time."""
    assert _stream(_ShortReads(data, most), len(data), packing) == _stream(io.BytesIO(data), len(data), packing)


def _stream(file: IO[bytes], size: int, packing: str) -> tuple[bytes, str]:
    content = bytearray()
    try:
        for block in decompressed(blocks(file, "x", 0, size), packing):
            content += block[: max(0, LIMIT - len(content))]
    except Damaged as damage:
        return bytes(content), damage.reason
    return bytes(content), ""


_NOISE: Final = random.Random(1).randbytes(150_000).hex().encode()
_EXAMPLES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "jsonl": ({"data": b'{"text": "a", "m": ' + b"[" * 300 + b"]" * 300 + b"}", "unit_bytes": 99},),
    "jsonl.gz": ({"data": gzip.compress(_NOISE, mtime=0)[:-8] + bytes(8), "unit_bytes": 1000},),
}


def _target(name: str) -> Target:
    arguments = {"data": contents(name), "unit_bytes": st.one_of(st.integers(16, 300), st.integers(300, 1 << 16))}

    def law(data: bytes, unit_bytes: int) -> None:
        reader_law(name, data, unit_bytes)

    law.__name__ = name.replace(".", "_") + "_law"  # hypothesis keeps what failed by name
    return Target(name, law, arguments, _EXAMPLES.get(name, ()))


TARGETS: Final = [
    _target(name) for name in ("files", "jsonl", "jsonl.gz", "jsonl.zst", "parquet", "tar", "tar.gz", "tar.zst")
]
