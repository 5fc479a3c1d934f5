"""Altered bytes anywhere in an input never raise: they give documents, rejects and one account."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.sources import InputRead, RawDocument, Reject
from pipelines.sources.base import MAX_DOCUMENT_BYTES
from schemas.config import Source
from tests.pipelines.test_sources_files import read_all
from tests.pipelines.test_sources_tar import archive

LINES = b"".join(json.dumps({"text": f"row {index} é"}).encode() + b"\n" for index in range(40))
MEMBERS = {"a" * 150: b"long name", "é.py": b"x = 1\n" * 300, "b.py": b"", "c.py": b"y" * 700}


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {index}" for index in range(40)]}), buffer, row_group_size=10)
    return buffer.getvalue()


INPUTS = {
    "x.jsonl": LINES,
    "x.jsonl.gz": gzip.compress(LINES),
    "x.jsonl.zst": zstandard.compress(LINES),
    "x.parquet": parquet(),
    "g.tar": archive(MEMBERS),
    "p.tar": archive(MEMBERS, tarfile.PAX_FORMAT, pax_headers={"comment": "c"}),
    "x.tar.gz": gzip.compress(archive(MEMBERS)),
}
_CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.parametrize("name", INPUTS)
@given(changes=_CHANGES, cut=st.one_of(st.just(1.0), st.floats(0, 1)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_altered_bytes_never_raise(tmp_path: Path, name: str, changes: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(INPUTS[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    data = data[: round(cut * len(data))]
    (tmp_path / name).write_bytes(data)
    form = next(form for form in ("jsonl", "parquet", "tar") if form in name)
    items = read_all(Source.model_validate({"path": str(tmp_path / name), "format": form}))
    account = items.pop()
    assert isinstance(account, InputRead)
    if form != "parquet":
        assert account == InputRead(name, len(data), hashlib.sha256(data).hexdigest())
    for item in items:
        assert isinstance(item, RawDocument | Reject)
        item.source.encode("utf-8")
        if isinstance(item, RawDocument):
            assert len(item.data) <= MAX_DOCUMENT_BYTES
            item.data.encode("utf-8") if isinstance(item.data, str) else None
        else:
            (item.detail + item.sample).encode("utf-8")


def test_a_chain_of_long_names_ends(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10
    (tmp_path / "x.tar").write_bytes((info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 3000 + archive(MEMBERS))
    reject, _ = read_all(Source(path=str(tmp_path / "x.tar"), format="tar"))
    assert isinstance(reject, Reject) and reject.reason == "corrupt"
