"""The inputs of a source, listed once, in the driver: a sorted list that every later step relies on.

Local trees are walked without following linked folders, so a loop of links cannot trap the walk. A linked
file is followed when its target is a regular file inside the root; one that leads outside is rejected, so
that a tree cannot pull in what it does not hold (a link that is itself the source's `path` was chosen by the
user and is followed). What is neither file nor folder is never opened. Everything passed over this way is
returned as a `Reject`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pipelines.sources.base import Entry, Reject, one_line
from pipelines.sources.paths import folder_filter, is_remote, local_bytes, quote, selector, split_glob
from schemas import storage
from schemas.errors import Refused, TokenmillError

if TYPE_CHECKING:
    from schemas.config import Source

SUFFIXES = {
    "jsonl": tuple(stem + packed for stem in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst")),
    "parquet": (".parquet",),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
}
"""What is read of a folder given as `path`. A file or glob is taken at its word."""
_FOREIGN = (".bz2", ".xz", ".lz4", ".zip", ".7z", ".rar")
_KINDS = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def list_entries(source: Source) -> tuple[str, list[Entry], list[Reject]]:
    """The root of a source, its inputs in code-point order of their paths, and what was passed over.

    Linked folders, links that lead outside, special files and what the operating system refuses to show come
    back as rejects. Raises Refused if the path does not exist or nothing below it is selected.
    """
    root, entries, rejects = _remote(source) if is_remote(source.path) else _local(source)
    if source.format in ("jsonl", "tar"):
        foreign = [entry for entry in entries if entry.path.lower().endswith(_FOREIGN)]
        rejects += [
            Reject(entry.path, 0, "unsupported_compression", "only plain, .gz and .zst are read", "")
            for entry in foreign
        ]
        entries = [entry for entry in entries if entry not in set(foreign)] if foreign else entries
    if not entries:
        raise Refused(f"{source.path}: {_nothing(source, rejects)}")
    return (
        root,
        sorted(entries, key=lambda entry: entry.path),
        sorted(rejects, key=lambda reject: reject.source),
    )


def _nothing(source: Source, rejects: Sequence[Reject]) -> str:
    """Why nothing is listed, and the way out."""
    if rejects:
        first = rejects[0]
        return f"nothing readable is here ({len(rejects)} passed over; {first.source}: {first.detail})"
    if source.format == "files":
        return f"no file matches; check path, include {list(source.include)} and exclude {list(source.exclude)}"
    wanted = ", ".join(SUFFIXES[source.format])
    return f"no file matches; a folder gives its {wanted} files, other names need a glob such as folder/**/*.dat"


def _selection(source: Source, pattern: str) -> Callable[[str], bool]:
    """Which paths below the root are inputs; `pattern` is '' for a folder given whole."""
    below = selector([pattern or "**"], [])
    if source.format == "files":
        chosen = selector(source.include, source.exclude)
        return lambda path: below(path) and chosen(path)
    if pattern:
        return below
    return lambda path: path.lower().endswith(SUFFIXES[source.format])


def _local(source: Source) -> tuple[str, list[Entry], list[Reject]]:
    path = os.path.abspath(os.path.expanduser(source.path))
    try:
        mode = os.stat(local_bytes(path)).st_mode
    except OSError as error:
        root, pattern = split_glob(path)
        if not pattern:
            raise Refused(f"{source.path}: {error.strerror}; check the source's path") from None
        if not os.path.isdir(local_bytes(root)):
            raise Refused(f"{source.path}: {root} is no folder; check the source's path") from None
    else:
        root, pattern = path, ""
        if stat.S_ISREG(mode):
            size = os.stat(local_bytes(path)).st_size
            return os.path.dirname(path), [Entry(quote(os.path.basename(local_bytes(path))), size)], []
        if not stat.S_ISDIR(mode):
            raise Refused(f"{source.path}: neither a file nor a folder; name regular files")
    selected = _selection(source, pattern)
    exclude = source.exclude if source.format == "files" else ()
    found = list(_walk(local_bytes(root), selected, folder_filter(pattern or "**", exclude)))
    return root, [e for e in found if isinstance(e, Entry)], [r for r in found if isinstance(r, Reject)]


def _walk(root: bytes, selected: Callable[[str], bool], may_hold: Callable[[str], bool]) -> Iterator[Entry | Reject]:
    """Everything selected below a local folder, in no particular order."""
    inside = os.path.realpath(root).rstrip(b"/") + b"/"
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            children = os.scandir(os.path.join(root, folder))
        except OSError as error:
            yield _refused(folder, "unreadable", one_line(error))
            continue
        with children:
            for child in children:
                name = os.path.join(folder, child.name)
                path = name.decode("utf-8", "surrogateescape")
                if child.is_dir(follow_symlinks=False):
                    if may_hold(path):
                        waiting.append(name)
                else:
                    found = _leaf(child, name, inside, linked=may_hold(path), selected=selected(path))
                    if found is not None:
                        yield found


def _leaf(
    child: os.DirEntry[bytes], name: bytes, inside: bytes, *, linked: bool, selected: bool
) -> Entry | Reject | None:
    """What stands for one directory entry that is no folder; None if it is not selected."""
    try:
        if child.is_symlink() and child.is_dir():
            return _refused(name, "linked_folder", "linked folders are not followed") if linked else None
        if not selected:
            return None
        status = child.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
            return _refused(name, "special_file", f"a {kind} is not opened")
        if child.is_symlink() and not os.path.realpath(child.path).startswith(inside):
            return _refused(name, "link_outside_root", "leads out of the source")
    except OSError as error:
        return _refused(name, "unreadable", one_line(error)) if selected else None
    return Entry(quote(name), status.st_size)


def _refused(name: bytes, reason: str, detail: str) -> Reject:
    return Reject(quote(name), 0, reason, detail, "")


def _remote(source: Source) -> tuple[str, list[Entry], list[Reject]]:
    """One match of everything below the fixed prefix of the path, filtered by the same globs as local."""
    path = source.path.rstrip("/")
    root, pattern = split_glob(path)
    prefix = path if not pattern else path[: len(path) - len(pattern)] + pattern[: _fixed(pattern)]
    try:
        size = None if pattern else storage.size_of(path)
        if size is not None:
            folder, _, name = path.rpartition("/")
            return folder, [Entry(quote(name.encode("utf-8")), size)], []
        found = dict(storage.below(prefix if pattern else path + "/"))
    except TokenmillError:
        raise
    except Exception as error:
        raise Refused(f"{source.path}: cannot be listed: {one_line(error)}") from None
    selected = _selection(source, pattern)
    below = {name.removeprefix(root + "/"): size for name, size in found.items() if not name.endswith("/")}
    return (
        root,
        [Entry(quote(name.encode("utf-8")), size) for name, size in below.items() if selected(name)],
        [],
    )


def _fixed(pattern: str) -> int:
    """How many leading characters of a pattern hold no wildcard."""
    return next((at for at, character in enumerate(pattern) if character in "*?["), len(pattern))
