"""Files, local, on gs:// or on a filesystem that was added, and the one way a file becomes final.

A local file is written under a temporary name that carries the run's id, flushed to disk, then renamed; elsewhere
(`schemas.objects`) it is written locally and put once under its final name, because a rename in an object store is a
copy and a delete. Nothing is ever opened for writing under its final name, so a name that exists is a whole file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from schemas import objects
from schemas.errors import Refused, TokenmillError
from schemas.gcs import SCHEME

TEMPORARY = ".tmp-"
added: Callable[[], Any] | None = None
"""Gives a module with the functions of `schemas.objects` for paths that are neither local nor on gs://."""
_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class Written:
    """A committed file: its size in bytes and its sha256 in hex."""

    bytes: int
    sha256: str


def is_local(path: str) -> bool:
    """Whether a path is on this machine's filesystem."""
    return "://" not in path


def join(directory: str, *parts: str) -> str:
    """Join path parts with '/'."""
    return "/".join((directory.rstrip("/"), *parts))


def commit(path: str, write: Callable[[str], None], run_id: str, guard: Callable[[], None] | None = None) -> Written:
    """Write a file through `write(temporary_local_path)` and make it final.

    `guard` is called right before the file becomes visible; it raises when this process may no longer write.

    Raises:
        TokenmillError: the disk is full, or the filesystem refuses.
    """
    try:
        if is_local(path):
            return _commit_local(path, write, run_id, guard)
        return _commit_put(path, write, guard)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: str, error: OSError) -> TokenmillError:
    """What to say of a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return TokenmillError(
            f"{path}: the disk is full; free space and run the same command again, it goes on from what is done"
        )
    return TokenmillError(f"{path}: cannot be written: {error.strerror or error}")


def _commit_local(path: str, write: Callable[[str], None], run_id: str, guard: Callable[[], None] | None) -> Written:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY}{run_id}-{os.getpid()}-{next(_counter)}-{name}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        if guard is not None:
            guard()
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return Written(size, digest)


def _sync_folder(folder: str) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit_put(path: str, write: Callable[[str], None], guard: Callable[[], None] | None) -> Written:
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, "file")
        write(temporary)
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            _elsewhere(path).put(path, file, size, digest, guard)
    return Written(size, digest)


def write_bytes(path: str, data: bytes, run_id: str, guard: Callable[[], None] | None = None) -> Written:
    """Commit a file that holds `data`."""

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.write(data)

    return commit(path, write, run_id, guard)


@contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading; seekable."""
    with open(path, "rb") if is_local(path) else open_remote(path) as file:
        yield file


def open_remote(path: str) -> BinaryIO:
    """Open a remote file for reading; seekable, not decompressed."""
    file: BinaryIO = _elsewhere(path).open_read(path)
    return file


def read_bytes(path: str) -> bytes:
    """The whole of a small file. Raises FileNotFoundError when it is absent."""
    if not is_local(path):
        content: bytes = _elsewhere(path).read_bytes(path)
        return content
    with open(path, "rb") as file:
        return file.read()


def size_of(path: str) -> int | None:
    """Size of a file in bytes, or None when there is none."""
    if not is_local(path):
        size: int | None = _elsewhere(path).size_of(path)
        return size
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def sha256_of(path: str) -> str:
    """The sha256 of a file, in hex.

    An object in Cloud Storage is not read: the server took its bytes by their crc32c, with the sha256 we put with them.
    """
    if not is_local(path) and (stated := _elsewhere(path).sha256_of(path)):
        return str(stated)
    digest = hashlib.sha256()
    with open_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def names_in(folder: str) -> set[str]:
    """Names of what is directly in a folder; empty when it does not exist."""
    if not is_local(folder):
        return set(sizes_in(folder))
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def sizes_in(folder: str) -> dict[str, int]:
    """The sizes in bytes of what is directly in a folder, by name, from one listing; empty when it does not exist.

    A folder has a size that means nothing.
    """
    if not is_local(folder):
        return dict(_elsewhere(folder).inside(folder))
    sizes = {name: size_of(os.path.join(folder, name)) for name in names_in(folder)}
    return {name: size for name, size in sizes.items() if size is not None}


def below(prefix: str) -> Iterator[tuple[str, int]]:
    """(path, size) of every remote file whose path begins with `prefix`, from one listing."""
    yield from _elsewhere(prefix).below(prefix)


def remove(path: str) -> None:
    """Remove a file; nothing happens when it does not exist."""
    if size_of(path) is None:
        return
    if is_local(path):
        os.unlink(path)
    else:
        _elsewhere(path).delete([path])


def remove_tree(folder: str, first: str = "manifest.json") -> None:
    """Remove a folder and all in it; nothing happens when it does not exist.

    Files named `first` go before all others, so that what a kill leaves behind does not look whole.
    """
    if is_local(folder):
        for path in glob.glob(os.path.join(glob.escape(folder), "**", first), recursive=True):
            os.unlink(path)
        if os.path.isdir(folder):
            shutil.rmtree(folder)
        return
    paths = [path for path, _ in below(folder.rstrip("/") + "/")]
    for chosen in ([p for p in paths if p.endswith(f"/{first}")], [p for p in paths if not p.endswith(f"/{first}")]):
        _elsewhere(folder).delete(chosen)


def remove_temporaries(directory: str, keep_run: str | None = None) -> int:
    """Remove temporary files that killed runs left in a local run directory; returns how many.

    `keep_run`: the id of the run whose temporaries are in use.
    """
    if not is_local(directory):
        return 0  # object stores have none: a put is all or nothing
    removed = 0
    pattern = os.path.join(glob.escape(directory), "**", TEMPORARY + "*")
    for path in glob.glob(pattern, recursive=True, include_hidden=True):
        if keep_run is None or not os.path.basename(path).startswith(f"{TEMPORARY}{keep_run}-"):
            os.unlink(path)
            removed += 1
    return removed


def _elsewhere(path: str) -> Any:
    """The module for a path that is not local. Raises Refused when there is none."""
    if path.startswith(SCHEME):
        return objects
    if added is None:
        raise Refused(f"{path}: is neither on this machine nor on {SCHEME}")
    return added()
