"""Reading trees of files, and what holds for every format: accounts, changed inputs, units."""

from __future__ import annotations

import hashlib
import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import (
    Entry,
    InputRead,
    RawDocument,
    Reject,
    SourceChanged,
    list_entries,
    plan_slices,
    read_slices,
)
from pipelines.sources.base import Slice, sample
from pipelines.sources.files import read_files
from schemas.config import Source


def read_all(source: Source, unit_bytes: int = 1 << 20) -> list[RawDocument | Reject | InputRead]:
    """Everything a source gives: rejects of the listing, then every unit in order."""
    root, entries, rejects = list_entries(source)
    units = plan_slices(source, root, entries, unit_bytes)
    return [*rejects, *(item for unit in units for item in read_slices(source, root, unit))]


def documents(items: list[RawDocument | Reject | InputRead]) -> list[RawDocument]:
    return [item for item in items if isinstance(item, RawDocument)]


def rejects(items: list[RawDocument | Reject | InputRead]) -> list[Reject]:
    return [item for item in items if isinstance(item, Reject)]


def reads(items: list[RawDocument | Reject | InputRead]) -> list[InputRead]:
    return [item for item in items if isinstance(item, InputRead)]


def test_files_are_read_whole_with_labels_and_accounts(tmp_path: Path) -> None:
    content = {"b/x.py": b"x = 1\n", "a.py": b"\xff\xfe", "b.py": b""}
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    items = read_all(Source(path=str(tmp_path), format="files", labels={"licence": "MIT"}))
    assert items == [
        item
        for name in ("a.py", "b.py", "b/x.py")
        for item in (
            RawDocument(name, 0, content[name], {"licence": "MIT"}, None),
            InputRead(name, len(content[name]), hashlib.sha256(content[name]).hexdigest()),
        )
    ]


def test_a_file_above_the_limit_is_rejected_but_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_bytes(b"0123456789")
    source = Source(path=str(tmp_path), format="files")
    reject, read = read_files(source, str(tmp_path), Slice("big.txt", 10, 0, 10), limit=9)
    assert isinstance(reject, Reject) and isinstance(read, InputRead)
    assert (reject.reason, reject.sample, read.size) == ("file_too_long", "0123456789", 10)


@pytest.mark.parametrize("form", ["files", "jsonl", "tar", "parquet"])
@pytest.mark.parametrize("change", ["longer", "shorter", "gone", "folder", "fifo", "socket", "device"])
def test_a_changed_input_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, change: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\n')
    source = Source.model_validate({"path": str(path), "format": form})
    root, entries, _ = list_entries(source)
    units = plan_slices(source, root, entries, 1 << 20)
    if change in ("longer", "shorter"):
        os.truncate(path, 20 if change == "longer" else 5)
    else:
        path.unlink()
    if change == "folder":
        path.mkdir()
    elif change == "fifo":
        os.mkfifo(path)
    elif change == "socket":
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    elif change == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(SourceChanged, match=r"in\.jsonl.*--output"):
        list(read_slices(source, root, units[0]))


def test_what_the_system_does_not_give_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("a.txt")
    source = Source(path=str(tmp_path), format="files")
    (reject,) = read_slices(source, str(tmp_path), [Slice("a.txt", 1, 0, 1)])
    assert isinstance(reject, Reject) and reject.reason == "unreadable" and "symbolic links" in reject.detail


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    unit_bytes=st.integers(1024, 8192),
)
def test_units_keep_order_and_are_full(sizes: list[int], unit_bytes: int) -> None:
    entries = [Entry(f"{index:03}", size) for index, size in enumerate(sizes)]
    units = plan_slices(Source(path="/", format="files"), "/", entries, unit_bytes)
    assert [piece.path for unit in units for piece in unit] == [entry.path for entry in entries]
    weights = [[piece.stop - piece.start for piece in unit] for unit in units]
    assert all(sum(unit) <= unit_bytes or len(unit) == 1 for unit in weights)
    for before, after in pairwise(weights):
        assert sum(before) + after[0] > unit_bytes


def test_a_unit_holds_at_most_4096_files() -> None:
    entries = [Entry(f"{index:05}", 0) for index in range(5000)]
    units = plan_slices(Source(path="/", format="files"), "/", entries, 1024)
    assert [len(unit) for unit in units] == [4096, 904]


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=900), st.text(max_size=300)))
def test_samples_are_short_and_printable(data: bytes | str) -> None:
    shown = sample(data)
    assert len(shown) <= 200 and shown.isprintable()
    shown.encode("utf-8")


def test_samples_show_undecodable_bytes() -> None:
    assert sample(b"ok \xff\x00\n") == r"ok \xff\x00\n"
