"""Parquet: rows, row groups as units, hostile columns and broken files."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import InputRead, list_entries, plan_slices, read_slices
from schemas.config import Source
from tests.pipelines.test_sources_files import documents, read_all, reads, rejects

TEXTS = [f"row {index} " + hashlib.sha256(bytes([index % 256])).hexdigest() for index in range(1000)]


def write(path: Path, columns: dict[str, object], rows: int = 100, **more: object) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=rows, **more)


def test_rows_with_metadata_and_quality(tmp_path: Path) -> None:
    columns = {
        "body": ["a", None, ""],
        "extra": pa.array([{"k": [1]}, None, {"k": []}]),
        "stars": [5, None, 2],
        "unread": [b"\xff"] * 3,
    }
    write(tmp_path / "x.parquet", columns)
    source = Source(path=str(tmp_path), format="parquet", text="body", metadata=("extra", "absent"), quality="stars")
    items = read_all(source)
    assert [(d.source, d.offset, d.data, d.metadata, d.quality) for d in documents(items)] == [
        ("x.parquet#0", 0, "a", {"extra": '{"k": [1]}'}, 5.0),
        ("x.parquet#2", 2, "", {"extra": '{"k": []}'}, 2.0),
    ]
    assert [(reject.source, reject.reason) for reject in rejects(items)] == [("x.parquet#1", "missing_text")]


@pytest.mark.parametrize(("unit_bytes", "expected_units"), [(1024, 12), (20_000, 3), (1 << 30, 1)])
def test_row_groups_make_units_and_rows_keep_their_number(tmp_path: Path, unit_bytes: int, expected_units: int) -> None:
    write(tmp_path / "a.parquet", {"text": TEXTS}, compression="zstd")
    write(tmp_path / "b.parquet", {"text": TEXTS[:50]})
    write(tmp_path / "c.parquet", {"text": pa.array([], pa.string())})
    source = Source(path=str(tmp_path), format="parquet")
    root, entries, _ = list_entries(source)
    units = plan_slices(source, root, entries, unit_bytes)
    assert len(units) == expected_units
    items = [item for unit in units for item in read_slices(source, root, unit)]
    expected = [(f"a.parquet#{index}", text) for index, text in enumerate(TEXTS)]
    expected += [(f"b.parquet#{index}", text) for index, text in enumerate(TEXTS[:50])]
    assert [(document.source, document.data) for document in documents(items)] == expected
    assert {read.path for read in reads(items)} == {"a.parquet", "b.parquet", "c.parquet"}


def test_the_account_is_that_of_the_column_chunks_read(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"other": list(range(1000)), "text": TEXTS}, compression="none")
    data = (tmp_path / "x.parquet").read_bytes()
    metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
    expected = b""
    for group in range(10):
        chunk = metadata.row_group(group).column(1)
        expected += data[chunk.dictionary_page_offset :][: chunk.total_compressed_size]
    (read,) = reads(read_all(Source(path=str(tmp_path), format="parquet")))
    assert read == InputRead("x.parquet", len(expected), hashlib.sha256(expected).hexdigest())


def test_kinds_of_text_columns(tmp_path: Path) -> None:
    for name, kind in {"a": pa.large_string(), "b": pa.string_view(), "c": pa.binary()}.items():
        write(tmp_path / f"{name}.parquet", {"text": pa.array(["é"], pa.string()).cast(kind)})
    write(tmp_path / "d.parquet", {"text": pa.array(["é", "é"]).dictionary_encode()})
    items = read_all(Source(path=str(tmp_path), format="parquet"))
    assert [document.data for document in documents(items)] == ["é", "é", "é".encode(), "é", "é"]


def test_undecodable_strings_cost_their_rows_alone(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"t\xffo", b"three"], pa.binary()).buffers())
    write(tmp_path / "x.parquet", {"text": bad, "m": bad})
    items = read_all(Source(path=str(tmp_path), format="parquet", metadata=("m",)))
    assert [document.data for document in documents(items)] == ["one", "three"]
    (reject,) = rejects(items)
    assert (reject.source, reject.reason, reject.sample) == ("x.parquet#1", "not_utf8", r"t\xffo")


@pytest.mark.parametrize(
    ("columns", "reason", "detail"),
    [({"body": ["a"]}, "missing_text", "there are body"), ({"text": [1]}, "not_text", "int64")],
)
def test_a_file_without_text_is_one_reject(
    tmp_path: Path, columns: dict[str, list[object]], reason: str, detail: str
) -> None:
    write(tmp_path / "x.parquet", columns)
    reject, read = read_all(Source(path=str(tmp_path), format="parquet"))
    assert reject.reason == reason and detail in reject.detail
    assert read == InputRead("x.parquet", 0, hashlib.sha256().hexdigest())


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_file_without_footer_is_one_reject(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "x.parquet", {"text": TEXTS})
    data = (tmp_path / "x.parquet").read_bytes()
    data = {"cut": data[:20_000], "garbage": b"garbage " * 50, "empty": b""}[damage]
    (tmp_path / "x.parquet").write_bytes(data)
    write(tmp_path / "y.parquet", {"text": TEXTS[:3]})
    reject, read, *others = read_all(Source(path=str(tmp_path), format="parquet"))
    assert reject.reason == ("truncated" if damage == "cut" else "corrupt") and reject.detail
    assert read == InputRead("x.parquet", len(data), hashlib.sha256(data).hexdigest())
    assert [document.data for document in documents(others)] == TEXTS[:3]


def test_a_broken_row_group_loses_its_rows_alone(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"text": TEXTS}, compression="zstd", use_dictionary=False)
    chunk = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(3).column(0)
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    (tmp_path / "x.parquet").write_bytes(data)
    items = read_all(Source(path=str(tmp_path), format="parquet"))
    assert [document.offset for document in documents(items)] == [*range(300), *range(400, 1000)]
    (reject,) = rejects(items)
    assert (reject.source, reject.reason) == ("x.parquet#300", "corrupt")
    assert reject.detail.startswith("rows 300 to 399, the rest of row group 3:")


@pytest.mark.parametrize("column", ["text", "n", "other"])
def test_a_footer_that_arrow_would_die_of_is_a_reject(tmp_path: Path, column: str) -> None:
    buffer = io.BytesIO()
    values = {"text": list("abcde"), "n": [[i] for i in range(5)], "other": list(range(5))}
    pq.write_table(pa.table({name: values[name] for name in (column, *values)}), buffer, compression="none")
    data = buffer.getvalue()
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    # The first column's list of how many values have each definition level, 0 to 1 or 3: one level too many.
    found = re.search(rb"[\x26\x46]\x00(?:\x00\x00)?\x0a", footer)
    assert found
    level = bytes([found[0][0] + 0x10]) + found[0][1:] + b"\x00"
    footer = footer[: found.start()] + level + footer[found.end() :]
    (tmp_path / "x.parquet").write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    items = read_all(Source(path=str(tmp_path), format="parquet", metadata=("n",)))
    if column == "other":  # it is not read
        assert [document.data for document in documents(items)] == list("abcde")
    else:
        (reject,) = rejects(items)
        assert reject.reason == "corrupt" and "histogram size mismatch" in reject.detail


def test_a_value_outside_its_dictionary_ends_the_row_group(tmp_path: Path) -> None:
    column = pa.array(["a", "b", "c", "a", "b", "c"]).dictionary_encode()
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": column}), buffer, row_group_size=3, compression="none")
    data = bytearray(buffer.getvalue())
    # The first page of numbers: its bit width 2, a run of 8 that are packed, 0 1 2.
    at = data.index(b"\x02\x03\x24\x00")
    data[at + 2] = 0b110100
    (tmp_path / "x.parquet").write_bytes(data)
    items = read_all(Source(path=str(tmp_path), format="parquet"))
    assert [(reject.offset, reject.reason) for reject in rejects(items)] == [(0, "corrupt")]
    assert [(document.offset, document.data) for document in documents(items)] == [(3, "a"), (4, "b"), (5, "c")]
