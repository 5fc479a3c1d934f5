"""JSON Lines: any split gives the same documents; damage gives complete lines and a reject."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tempfile
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import InputRead, RawDocument, Reject, read_slices
from pipelines.sources import streams as streams_module
from pipelines.sources.base import Slice
from pipelines.sources.jsonl import MAX_NESTING, read_jsonl, split_jsonl
from schemas.config import Source
from tests.pipelines.test_sources_files import documents, read_all, reads, rejects

ROWS = [{"text": f"document {index} é\n" * (index % 7), "n": index} for index in range(500)]
PLAIN = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def from_bytes(tmp_path: Path, data: bytes, name: str = "x.jsonl", **more: object):
    (tmp_path / name).write_bytes(data)
    return read_all(Source.model_validate({"path": str(tmp_path / name), "format": "jsonl", **more}))


_LINES = st.lists(
    st.one_of(
        st.builds(lambda text: json.dumps({"text": text}).encode(), st.text(max_size=40)),
        st.sampled_from([b"", b"  ", b"{", b"[1]", b'{"text": 3}', b"\xff\xfe", b"{}"]),
        st.builds(lambda n: json.dumps({"text": "x" * n}).encode(), st.integers(0, 400)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(lines=_LINES, newline_at_end=st.booleans(), unit_bytes=st.integers(1, 700), block=st.integers(1, 64))
def test_any_split_gives_the_same(lines: list[bytes], newline_at_end: bool, unit_bytes: int, block: int) -> None:
    data = b"\n".join(lines) + (b"\n" if newline_at_end else b"")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "x.jsonl").write_bytes(data)
        source = Source(path=folder, format="jsonl")
        whole = list(read_slices(source, folder, [Slice("x.jsonl", len(data), 0, len(data))]))
        patch.setattr(streams_module, "BLOCK", block)
        slices = split_jsonl("x.jsonl", len(data), unit_bytes)
        assert (slices[0].start, slices[-1].stop) == (0, len(data))
        assert all(piece.stop - piece.start <= unit_bytes for piece in slices)
        items = list(read_slices(source, folder, slices))
    assert [item for item in items if not isinstance(item, InputRead)] == whole[:-1]
    assert whole[-1] == InputRead("x.jsonl", len(data), hashlib.sha256(data).hexdigest())
    position = 0
    for read in reads(items):
        owned = data[position : position + read.size]
        assert read.sha256 == hashlib.sha256(owned).hexdigest()
        position += read.size
    assert position == len(data)


@pytest.mark.parametrize("unit_bytes", [1024, 4096, 1 << 20])
def test_places_are_offsets_of_lines(tmp_path: Path, unit_bytes: int) -> None:
    (tmp_path / "x.jsonl").write_bytes(PLAIN)
    found = documents(read_all(Source(path=str(tmp_path), format="jsonl", metadata=("n",)), unit_bytes))
    assert [document.data for document in found] == [row["text"] for row in ROWS]
    for document, row in zip(found, ROWS, strict=True):
        assert document.source == f"x.jsonl#{document.offset}"
        assert json.loads(PLAIN[document.offset :].split(b"\n", 1)[0]) == row
        assert document.metadata == {"n": str(row["n"])}


PACKERS = {"gz": gzip.compress, "zst": zstandard.compress}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("cuts", [[], [1000, 1003, 20000]])
def test_compressed_in_any_number_of_members(tmp_path: Path, kind: str, cuts: list[int]) -> None:
    bounds = [0, *cuts, len(PLAIN)]
    pieces = [PLAIN[start:stop] for start, stop in pairwise(bounds)]
    packed = b"".join(map(PACKERS[kind], [b"", *pieces]))
    items = from_bytes(tmp_path, packed, f"x.jsonl.{kind}")
    plain = from_bytes(tmp_path, PLAIN)
    assert [(document.offset, document.data) for document in documents(items)] == [
        (document.offset, document.data) for document in documents(plain)
    ]
    assert items[-1] == InputRead(f"x.jsonl.{kind}", len(packed), hashlib.sha256(packed).hexdigest())
    assert not rejects(items)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "cut in the second member", "garbage at the end", "empty", "altered"])
def test_damaged_compression(tmp_path: Path, kind: str, damage: str) -> None:
    pack = PACKERS[kind]
    packed = pack(PLAIN)
    complete = len(ROWS)
    if damage == "cut":
        packed, complete = packed[: len(packed) - 9], 0
    elif damage == "cut in the second member":
        packed += pack(PLAIN)[:50]
    elif damage == "garbage at the end":
        packed += b"garbage!"
    elif damage == "empty":
        packed, complete = b"", 0
    else:
        middle = len(packed) // 2
        packed, complete = packed[:middle] + bytes(200) + packed[middle + 200 :], 0
    items = from_bytes(tmp_path, packed, f"x.jsonl.{kind}")
    found = documents(items)
    assert len(found) >= complete
    (*_, reject) = rejects(items)
    assert reject.reason == ("corrupt" if damage in ("garbage at the end", "altered") else "truncated")
    assert [document.data for document in found[: len(ROWS)]] == [row["text"] for row in ROWS[: len(found)]]
    if damage == "garbage at the end":
        assert reject.offset == len(PLAIN)
    assert items[-1] == InputRead(f"x.jsonl.{kind}", len(packed), hashlib.sha256(packed).hexdigest())


def test_a_cut_gzip_keeps_its_complete_lines(tmp_path: Path) -> None:
    rows = [{"text": hashlib.sha256(bytes([index])).hexdigest() * 40} for index in range(200)]
    plain = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    packed = gzip.compress(plain)
    items = from_bytes(tmp_path, packed[: len(packed) // 2], "x.jsonl.gz")
    found = documents(items)
    assert 50 < len(found) < 150
    (reject,) = rejects(items)
    assert (reject.reason, reject.offset) == ("truncated", found[-1].offset + len(json.dumps(rows[0])) + 1)


def test_skippable_zstd_frames_and_long_windows(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    packed = skippable + zstandard.ZstdCompressor(compression_params=parameters).compress(PLAIN) + skippable
    items = from_bytes(tmp_path, packed, "x.jsonl.zst")
    assert len(documents(items)) == len(ROWS) and not rejects(items)


def test_gzip_padded_with_zeros(tmp_path: Path) -> None:
    items = from_bytes(tmp_path, gzip.compress(PLAIN) + bytes(5000), "x.jsonl.gz")
    assert len(documents(items)) == len(ROWS) and not rejects(items)


def test_a_zstd_bomb_is_not_held(tmp_path: Path) -> None:
    packed = zstandard.compress(bytes(400_000_000))
    (tmp_path / "x.jsonl.zst").write_bytes(packed)
    source = Source(path=str(tmp_path), format="jsonl")
    tracemalloc.start()
    size = len(packed)
    items = list(read_jsonl(source, str(tmp_path), Slice("x.jsonl.zst", size, 0, size), limit=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [reject.reason for reject in rejects(items)] == ["line_too_long"]
    assert peak < 200_000_000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "broken_json"),
        (b"\0\0\0", "broken_json"),
        (b"[" * 200_000, "broken_json"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "broken_json"),
        (b'{"text": "a\tb"}', "broken_json"),
        (b'["text"]', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"other": "a"}', "missing_text"),
        (b'{"text": null}', "missing_text"),
        (b'{"text": 3}', "not_text"),
        (b'{"text": ["a"]}', "not_text"),
        (b'{"text": "caf\xe9"}', "not_utf8"),
        (b'{"text": "half \\ud800 pair"}', "lone_surrogate"),
    ],
)
def test_a_bad_line_is_a_reject_and_the_next_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    items = from_bytes(tmp_path, b'{"text": "one"}\n' + line + b'\r\n{"text": "two"}')
    assert [document.data for document in documents(items)] == ["one", "two"]
    (reject,) = rejects(items)
    assert (reject.source, reject.offset, reject.reason) == ("x.jsonl#16", 16, reason)
    assert reject.detail and reject.detail.isprintable() and reject.sample.isprintable()
    assert reject.sample[:4] == line[:4].decode("utf-8").encode("unicode_escape").decode()[:4]


def test_what_is_no_error(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "bom"}\r\n\r\n  \n{"text": "", "q": NaN}\n{"text": "\\ud83d\\ude00\\u2028"}'
    items = from_bytes(tmp_path, data)
    assert [document.data for document in documents(items)] == ["bom", "", "\U0001f600\u2028"]
    assert not rejects(items)


def test_metadata_and_quality(tmp_path: Path) -> None:
    rows = [
        {"body": "a", "m": {"b": [1, None], "a": "é"}, "score": 2},
        {"body": "b", "m": "plain", "score": "high"},
        {"body": "c", "m": None, "score": float("nan")},
        {"body": "d", "m": "\ud800", "score": True},
        {"body": "e", "m": 1.5, "score": 10**400},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    items = from_bytes(tmp_path, data, text="body", metadata=["m"], quality="score", labels={"set": "x"})
    found = documents(items)
    assert [document.metadata.pop("set") for document in found] == ["x"] * 5
    assert [document.metadata for document in found] == [
        {"m": '{"a": "é", "b": [1, null]}'},
        {"m": "plain"},
        {},
        {"m": r"\ud800"},
        {"m": "1.5"},
    ]
    assert [document.quality for document in found] == [2.0, None, None, None, None]


def test_a_line_above_the_limit_is_rejected_unheld(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}', b'{"text": "' + b"x" * 5_000_000 + b'"}', b'{"text": "two"}', b" " * 3000]
    data = b"\n".join(lines)
    (tmp_path / "x.jsonl").write_bytes(data)
    source = Source(path=str(tmp_path), format="jsonl")
    whole = Slice("x.jsonl", len(data), 0, len(data))
    items = list(read_jsonl(source, str(tmp_path), whole, limit=2000))
    assert [document.data for document in items if isinstance(document, RawDocument)] == ["one", "two"]
    first, second = (item for item in items if isinstance(item, Reject))
    assert (first.reason, first.offset, second.reason) == ("line_too_long", 16, "line_too_long")
    assert first.sample == '{"text": "' + "x" * 190
    assert items[-1] == InputRead("x.jsonl", len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("deeper", [0, 400])
def test_nesting_has_the_same_bound_whoever_calls(tmp_path: Path, deeper: int) -> None:
    if deeper:
        test_nesting_has_the_same_bound_whoever_calls(tmp_path, deeper - 1)
        return
    brackets = json.dumps("[" * 1000 + '\\"{' * 1000)
    within, above = ("[" * depth + "]" * depth for depth in (MAX_NESTING - 1, MAX_NESTING))
    lines = [
        f'{{"text": {brackets}, "n": {within}}}',
        f'{{"text": "a", "n": {above}}}',
        f'{{"text": "a", "n": {above}, "n": 1}}',
        f"[{above}]",
        "[" * 900,
        f'{{"text": "a", "n": [{"[], " * 1000}[]]}}',
    ]
    items = from_bytes(tmp_path, "\n".join(lines).encode(), metadata=("n",))
    assert [document.offset for document in documents(items)] == [0, sum(len(line) + 1 for line in lines[:5])]
    assert {(reject.reason, reject.detail) for reject in rejects(items)} == {
        ("broken_json", f"nested more than {MAX_NESTING} deep")
    }


def test_hostile_strings_take_linear_time(tmp_path: Path) -> None:
    start = time.process_time()
    items = from_bytes(tmp_path, b"[" * 300 + b'"' + b'\\"' * 1_000_000)
    assert time.process_time() - start < 3
    assert [reject.reason for reject in rejects(items)] == ["broken_json"]


class ShortReads(io.BytesIO):
    """Gives at most 1000 bytes at a time, as a network may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 1000))


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_what_a_damaged_stream_gives_does_not_depend_on_how_it_is_read(kind: str, place: float) -> None:
    noise = random.Random(1).randbytes(150_000).hex().encode()
    checked = zstandard.ZstdCompressor(write_checksum=True)
    data = bytearray(gzip.compress(noise) if kind == "gz" else checked.compress(noise))
    data[int(place * len(data))] ^= 0x10
    contents = []
    for file in (io.BytesIO(data), ShortReads(data)):
        contents.append(b"")
        with pytest.raises(streams_module.Damaged):
            for block in streams_module.decompressed(streams_module.blocks(file, "x", 0, len(data)), kind):
                contents[-1] += block
    assert contents[0] == contents[1]
