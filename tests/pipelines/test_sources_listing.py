"""Listing: order, globs, links, special files, names that are no text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources import list_entries, read_slices
from pipelines.sources.base import RawDocument, Slice
from pipelines.sources.paths import folder_filter, matcher, quote, unquote
from schemas.config import Source
from schemas.errors import Refused


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def listed(path: Path | str, form: str = "files", **more: object) -> list[str]:
    source = Source.model_validate({"path": str(path), "format": form, **more})
    return [entry.path for entry in list_entries(source)[1]]


def test_order_is_by_code_point(tmp_path: Path) -> None:
    names = ["a/b.py", "a.py", "Z.py", "a b.py", "é.py", "\U0001f600.py", "\uffee.py", "a/b/c.py"]
    tree(tmp_path, *names)
    assert listed(tmp_path) == sorted(names, key=lambda name: name.encode())


def test_include_and_exclude(tmp_path: Path) -> None:
    tree(tmp_path, "x.py", "a/x.py", "a/b/x.c", ".git/x.py", "sub/.git/deep/x.py", "a/test_x.py")
    assert listed(tmp_path, include=["**/*.py"], exclude=["**/.git/**"]) == ["a/test_x.py", "a/x.py", "x.py"]
    assert listed(tmp_path, include=["*.py"]) == ["x.py"]
    assert listed(tmp_path, include=["a/**"], exclude=["**/test_*"]) == ["a/b/x.c", "a/x.py"]
    assert listed(tmp_path, include=["**/[!t]*.[ch]"]) == ["a/b/x.c"]


def test_globs_in_the_path(tmp_path: Path) -> None:
    tree(tmp_path, "one/p-1.jsonl", "one/p-2.jsonl.gz", "two/p-1.jsonl", "two/deep/p-1.jsonl", "p-9.jsonl")
    assert listed(tmp_path / "*/p-*.jsonl", "jsonl") == ["one/p-1.jsonl", "two/p-1.jsonl"]
    assert listed(tmp_path / "two/**/*.jsonl", "jsonl") == ["deep/p-1.jsonl", "p-1.jsonl"]
    assert listed(tmp_path / "two/p-1.jsonl", "jsonl") == ["p-1.jsonl"]
    root, entries, _ = list_entries(Source(path=str(tmp_path / "t?o/*.jsonl"), format="jsonl"))
    assert (root, [entry.path for entry in entries]) == (str(tmp_path), ["two/p-1.jsonl"])


def test_a_folder_gives_the_files_of_its_format(tmp_path: Path) -> None:
    tree(tmp_path, "README.md", "a.jsonl", "b/c.JSONL.zst", "d.parquet", "e.tar.gz", "_SUCCESS")
    assert listed(tmp_path, "jsonl") == ["a.jsonl", "b/c.JSONL.zst"]
    assert listed(tmp_path, "parquet") == ["d.parquet"]
    assert listed(tmp_path, "tar") == ["e.tar.gz"]


def test_a_name_with_wildcard_characters_is_found_as_it_is(tmp_path: Path) -> None:
    tree(tmp_path, "set[1]/a.jsonl", "set1/b.jsonl")
    assert listed(tmp_path / "set[1]", "jsonl") == ["a.jsonl"]


def test_links(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "secret.py")
    root = tree(tmp_path / "root", "real.py", "folder/x.py")
    (root / "inside.py").symlink_to("real.py")
    (root / "leads_out.py").symlink_to(outside / "secret.py")
    (root / "broken.py").symlink_to("nowhere")
    (root / "itself.py").symlink_to("itself.py")
    (root / "folder" / "loop").symlink_to("..")
    (root / "folder" / "away").symlink_to(outside)
    _, entries, passed = list_entries(Source(path=str(root), format="files"))
    assert [entry.path for entry in entries] == ["folder/x.py", "inside.py", "real.py"]
    assert [(reject.source, reject.reason) for reject in passed] == [
        ("broken.py", "unreadable"),
        ("folder/away", "linked_folder"),
        ("folder/loop", "linked_folder"),
        ("itself.py", "unreadable"),
        ("leads_out.py", "link_outside_root"),
    ]
    (tmp_path / "chosen").symlink_to(root)
    assert listed(tmp_path / "chosen", include=["*.py"]) == ["inside.py", "real.py"]


def test_special_files_are_never_opened(tmp_path: Path) -> None:
    tree(tmp_path, "a.py")
    os.mkfifo(tmp_path / "pipe.py")
    _, entries, passed = list_entries(Source(path=str(tmp_path), format="files"))
    assert [entry.path for entry in entries] == ["a.py"]
    assert [(reject.source, reject.reason) for reject in passed] == [("pipe.py", "special_file")]
    with pytest.raises(Refused, match="regular files"):
        listed(tmp_path / "pipe.py")


def test_names_that_are_not_utf8_can_be_opened(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"back\\x41slash.txt", b"new\nline.txt"):
        (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).write_bytes(name)
    source = Source(path=str(tmp_path), format="files", include=("*.txt",))
    root, entries, _ = list_entries(source)
    assert [entry.path for entry in entries] == [r"back\x5cx41slash.txt", r"caf\xe9.txt", r"new\x0aline.txt"]
    for entry in entries:
        document = next(read_slices(source, root, [Slice(entry.path, entry.size, 0, entry.size)]))
        assert isinstance(document, RawDocument) and document.data == unquote(entry.path)


@given(st.binary())
def test_quoting_is_reversible(name: bytes) -> None:
    assert unquote(quote(name)) == name
    quote(name).encode("utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "No such file"),
        ("absent/*.jsonl", "is no folder"),
        ("*.csv", "no file matches"),
        (".", r"\.jsonl"),
    ],
)
def test_nothing_there_is_refused(tmp_path: Path, name: str, message: str) -> None:
    tree(tmp_path, "notes.txt")
    with pytest.raises(Refused, match=message) as caught:
        listed(tmp_path / name, "jsonl")
    assert str(tmp_path) in str(caught.value)


def test_nothing_but_what_is_passed_over_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "books.jsonl.xz")
    with pytest.raises(Refused, match=r"only plain, \.gz and \.zst"):
        listed(tmp_path / "*.xz", "jsonl")


@pytest.mark.parametrize("glob", ["src**/x", "**.py", "[z-a].py"])
def test_a_malformed_glob_is_refused(tmp_path: Path, glob: str) -> None:
    tree(tmp_path, "x.py")
    with pytest.raises(Refused, match=r"\*\*/\*\.py|not a glob"):
        listed(tmp_path, include=[glob])


_PARTS = st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=4)
_GLOBS = st.lists(st.sampled_from(["a", "b", "*", "?", "**", "a*", "*b", "[ab]", "[!a]"]), min_size=1, max_size=4)


def _matches(parts: list[str], globs: list[str]) -> bool:
    """The meaning of a glob, part by part."""
    if not globs:
        return not parts
    if globs[0] == "**":
        if len(globs) == 1:
            return bool(parts)
        return any(_matches(parts[skipped:], globs[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and _part(parts[0], globs[0]) and _matches(parts[1:], globs[1:])


def _part(name: str, glob: str) -> bool:
    if glob == "*":
        return True
    if glob in ("?", "[ab]", "[!a]"):
        return len(name) == 1 and (glob == "?" or (name in "ab" if glob == "[ab]" else name != "a"))
    return {"a*": name.startswith("a"), "*b": name.endswith("b")}.get(glob, name == glob)


@given(parts=_PARTS, globs=_GLOBS)
def test_globs_mean_what_they_say(parts: list[str], globs: list[str]) -> None:
    assert matcher(["/".join(globs)])("/".join(parts)) == _matches(parts, globs)


@given(parts=_PARTS, globs=_GLOBS)
def test_a_walk_never_misses_a_match(parts: list[str], globs: list[str]) -> None:
    may_hold = folder_filter("/".join(globs), [])
    if _matches(parts, globs):
        assert all(may_hold("/".join(parts[:depth])) for depth in range(1, len(parts)))
