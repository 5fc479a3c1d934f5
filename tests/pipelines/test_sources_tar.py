"""Tar: members as documents, hostile members, and archives that end where they should not."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import InputRead
from pipelines.sources.base import Reject, Slice
from pipelines.sources.tar import read_tar
from schemas.config import Source
from tests.pipelines.test_sources_files import documents, read_all, rejects

CONTENT = {f"repo/file{index:03}.py": f"x = {index}\n".encode() * (index * 7 % 90) for index in range(120)}


def archive(content: dict[str, bytes], form: int = tarfile.GNU_FORMAT, **more: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **more) as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def from_bytes(tmp_path: Path, data: bytes, name: str = "x.tar", **more: object):
    (tmp_path / name).write_bytes(data)
    return read_all(Source.model_validate({"path": str(tmp_path / name), "format": "tar", **more}))


PACKERS = {"x.tar": bytes, "x.tar.gz": gzip.compress, "x.tgz": gzip.compress, "x.tar.zst": zstandard.compress}


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_documents(tmp_path: Path, name: str, form: int) -> None:
    content = {**CONTENT, "repo/" + "long/" * 30 + "é.py": b"long", "./dot.py": b"dot"}
    if form == tarfile.USTAR_FORMAT:
        content = {member: data for member, data in content.items() if len(member) < 100}
    packed = PACKERS[name](archive(content, form))
    items = from_bytes(tmp_path, packed, name, labels={"licence": "MIT"})
    assert {d.source.removeprefix(f"{name}#"): d.data for d in documents(items)} == content
    assert all(document.metadata == {"licence": "MIT"} for document in documents(items))
    assert items[-1] == InputRead(name, len(packed), hashlib.sha256(packed).hexdigest())
    assert not rejects(items)


def test_include_and_exclude_are_about_members(tmp_path: Path) -> None:
    data = archive({"a.py": b"1", "./b.py": b"2", "c/d.py": b"3", "c/e.txt": b"4", "c/test_f.py": b"5"})
    items = from_bytes(tmp_path, data, include=["**/*.py"], exclude=["**/test_*"])
    assert [document.source for document in documents(items)] == [
        "x.tar#a.py",
        "x.tar#./b.py",
        "x.tar#c/d.py",
    ]
    assert [d.source for d in documents(from_bytes(tmp_path, data, include=["b.py"]))] == ["x.tar#./b.py"]


def test_hostile_members(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    kinds = {
        "link.py": tarfile.SYMTYPE,
        "hard.py": tarfile.LNKTYPE,
        "pipe.py": tarfile.FIFOTYPE,
        "device.py": tarfile.CHRTYPE,
        "link.txt": tarfile.SYMTYPE,
        "folder.py": tarfile.DIRTYPE,
    }
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape", encoding="utf-8") as tar:
        for name in ("/etc/x.py", "a/../../x.py", "caf\udce9\\.py", "fine.py"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ok"))
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    items = from_bytes(tmp_path, buffer.getvalue(), include=["**/*.py"])
    assert [(reject.source, reject.reason) for reject in rejects(items)] == [
        ("x.tar#/etc/x.py", "unsafe_path"),
        ("x.tar#a/../../x.py", "unsafe_path"),
        *((f"x.tar#{name}.py", "not_a_regular_file") for name in ("link", "hard", "pipe", "device")),
    ]
    assert [document.source for document in documents(items)] == [r"x.tar#caf\xe9\x5c.py", "x.tar#fine.py"]


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, len(archive(CONTENT)) - 1))
def test_a_cut_archive_gives_its_complete_members(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    whole = archive(CONTENT)
    items = from_bytes(tmp_path_factory.mktemp("tar"), whole[:cut])
    found = documents(items)
    assert [document.data for document in found] == list(CONTENT.values())[: len(found)]
    problems = [reject.reason for reject in rejects(items)]
    marker = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    if cut >= marker + 512:
        assert not problems and len(found) == len(CONTENT)
    else:
        assert problems == ["truncated"]
    assert items[-1] == InputRead("x.tar", cut, hashlib.sha256(whole[:cut]).hexdigest())


def pax(body: bytes, size: int | None = None) -> bytes:
    """An extended header with this body, and a member it belongs to."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(body) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512) + archive({"a.py": b"a"})


@pytest.mark.parametrize(
    "body",
    [
        b"1" * 500_000,
        b"500000 comment=" + b"1" * 499_984 + b"\n",
        b"2 " * 50_000 + b"=",
        b"9 no sign\n",
        b"6 =ab\n",
        b"99 a=b\n",
        b"7 a=b c",
    ],
    ids=["number", "value", "overlapping", "no key", "empty key", "too long", "too short"],
)
def test_a_hostile_pax_header_is_corrupt_at_once(tmp_path: Path, body: bytes) -> None:
    start = time.process_time()
    items = from_bytes(tmp_path, pax(body))
    assert time.process_time() - start < 3
    assert [reject.reason for reject in rejects(items)] == ["corrupt"] and not documents(items)


def test_pax_records_are_read(tmp_path: Path) -> None:
    items = from_bytes(tmp_path, pax(b"13 path=b.py\n" + b"264 comment=" + b"1" * 251 + b"\n"))
    assert [document.source for document in documents(items)] == ["x.tar#b.py"] and not rejects(items)
    (reject, _) = from_bytes(tmp_path, pax(b"13 path=b.py\n")[: 512 + 100])
    assert reject.reason == "truncated"


@pytest.mark.parametrize("deeper", [0, 300])
def test_a_chain_of_headers_has_the_same_bound_whoever_calls(tmp_path: Path, deeper: int) -> None:
    if deeper:
        test_a_chain_of_headers_has_the_same_bound_whoever_calls(tmp_path, deeper - 1)
        return
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 10
    link = name.tobuf(tarfile.GNU_FORMAT) + b"long name".ljust(512, b"\0")
    for chain, expected in ((31, []), (32, ["corrupt"]), (150, ["corrupt"])):
        items = from_bytes(tmp_path, link * chain + archive({"a.py": b"a"}))
        assert [reject.reason for reject in rejects(items)] == expected


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.zst"])
def test_a_cut_compressed_archive(tmp_path: Path, name: str) -> None:
    packed = PACKERS[name](archive(CONTENT))
    items = from_bytes(tmp_path, packed[:-5], name)
    assert [reject.reason for reject in rejects(items)] == ["truncated"]
    assert items[-1] == InputRead(name, len(packed) - 5, hashlib.sha256(packed[:-5]).hexdigest())


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(archive({"a.py": b"a" * 100, "b.py": b"b" * 100, "c.py": b"c"}))
    data[1024 + 10] ^= 1
    items = from_bytes(tmp_path, bytes(data))
    assert [document.data for document in documents(items)] == [b"a" * 100]
    assert [(reject.reason, reject.offset) for reject in rejects(items)] == [("corrupt", 1024)]


def test_garbage_and_emptiness(tmp_path: Path) -> None:
    (reject, _) = from_bytes(tmp_path, b"garbage " * 1000)
    assert reject.reason == "corrupt"
    (reject, _) = from_bytes(tmp_path, b"")
    assert reject.reason == "truncated"
    assert not rejects(from_bytes(tmp_path, archive({})))


def test_archives_joined_end_to_end_are_noticed(tmp_path: Path) -> None:
    first = archive({"a.py": b"a"})
    items = from_bytes(tmp_path, first + archive({"b.py": b"b"}))
    assert [document.data for document in documents(items)] == [b"a"]
    assert [(reject.reason, reject.offset) for reject in rejects(items)] == [("data_after_end", 1024)]


def test_a_member_above_the_limit_is_passed_over(tmp_path: Path) -> None:
    data = archive({"big.py": b"x" * 3000, "small.py": b"y"})
    (tmp_path / "x.tar").write_bytes(data)
    source = Source(path=str(tmp_path), format="tar")
    items = list(read_tar(source, str(tmp_path), Slice("x.tar", len(data), 0, len(data)), limit=2999))
    assert [reject.reason for reject in rejects(items)] == ["file_too_long"]
    assert [document.data for document in documents(items)] == [b"y"]


def test_a_giant_extension_header_is_not_held(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 50 << 20
    items = from_bytes(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size) + archive({"a.py": b"a"}))
    (reject,) = rejects(items)
    assert isinstance(reject, Reject) and reject.reason == "corrupt" and "52428800" in reject.detail


def test_memory_does_not_grow_with_members(tmp_path: Path) -> None:
    data = archive({f"{index}.py": b"" for index in range(8_000)})
    (tmp_path / "x.tar").write_bytes(data)
    source = Source(path=str(tmp_path), format="tar")
    tracemalloc.start()
    count = sum(1 for _ in read_tar(source, str(tmp_path), Slice("x.tar", len(data), 0, len(data))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8_001 and peak < 4 << 20
