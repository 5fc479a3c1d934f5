"""All access to checkpoint files, on a disk or on gs:// (trainer.checkpoint.bucket), by their path.

On a disk small files become final by rename (`commit_bytes`); data files are written under their own names, because
they count for nothing until the commit marker names them. Links are never followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence

from schemas import storage
from schemas.storage import Written
from trainer.checkpoint import bucket


class NotPlain(Exception):
    """A file or folder that is not what a save writes: a link, a device, too large. The message says which."""


def is_remote(path: str) -> bool:
    """Whether a path is on gs://."""
    return not storage.is_local(path)


def absolute(path: str) -> str:
    """A path without '.', '..' and a '/' at its end, whatever the current directory."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def commit_bytes(path: str, data: bytes, run: str) -> Written:
    """Write a small file as a whole: under a temporary name, flushed with its folder, then renamed; or by one put.

    Raises:
        TokenmillError: the disk is full, or the filesystem or the service refuses.
    """
    return storage.write_bytes(path, data, run)


def commit_new(path: str, data: bytes, run: str, guard: Callable[[], None] | None) -> Written:
    """As `commit_bytes`, of a file that must not be there. `guard` is called right before; it raises to prevent it."""
    if is_remote(path):
        return bucket.put_new(path, data, guard)
    return storage.write_bytes(path, data, run, guard)


def write_synced(path: str, data: bytes) -> None:
    """Write a data file, to stay: its folder's entry is flushed by `sync_tree`."""
    if is_remote(path):
        bucket.put(path, data)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:  # a write may be cut short where the disk is full or a limit is near; the next one says why
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Make a folder and those above it, where there are folders."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def sync_folder(path: str) -> None:
    """Flush a folder's entries, so that a new name in it survives a power cut."""
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: str) -> None:
    """Flush the entries of a folder and of all folders below it."""
    for folder, _, _ in os.walk(path) if not is_remote(path) else ():
        sync_folder(folder)


def names_in(folder: str) -> list[str]:
    """Names in a folder, sorted; none when there is no such folder."""
    if is_remote(folder):
        return bucket.names_in(folder)
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def having(directory: str, folders: Sequence[str], name: str) -> list[str]:
    """Those of the folders in a directory that hold something of this name."""
    if is_remote(directory):
        return bucket.having(directory, folders, name)
    return [folder for folder in folders if exists(os.path.join(directory, folder, name))]


def exists(path: str) -> bool:
    """Whether there is anything under this name, even a link that leads nowhere."""
    return bucket.exists(path) if is_remote(path) else os.path.lexists(path)


def files_below(folder: str) -> dict[str, int]:
    """Sizes in bytes of the files in a folder and all below it, by path relative to it.

    Raises:
        NotPlain: the folder or something in it is neither a regular file nor a folder, or a folder is empty.
        OSError: it cannot be listed.
    """
    if is_remote(folder):
        return bucket.files_below(folder)
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise NotPlain(f"{folder}: not a folder")
    found: dict[str, int] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        empty = True
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                empty = False
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    found[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise NotPlain(f"{os.path.join(folder, name)}: not a regular file")
        if empty and below:
            raise NotPlain(f"{os.path.join(folder, below)}: an empty folder that no save makes")
    return found


def read_small(path: str, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    Raises:
        NotPlain: it is a link or another special file, or larger than `limit` bytes.
        OSError: it is absent or cannot be read.
    """
    if is_remote(path):
        data = bucket.read(path, limit)
        if data is None:
            raise NotPlain(f"{path}: larger than {limit:,} bytes")
        return data
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise NotPlain(f"{path}: not a regular file")
    if found.st_size > limit:
        raise NotPlain(f"{path}: larger than {limit:,} bytes")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        return file.read(limit)


def sha256_of(path: str, size: int) -> str:
    """The sha256 of a file of `size` bytes in hex. All of it is read, whatever the service says of an object."""
    if is_remote(path):
        return hashlib.sha256(read_small(path, size)).hexdigest()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move(old: str, names: Iterable[str], marker: str) -> str:
    """Give a folder the first of `names` beside it that is free, for good; returns it. Its file `marker` goes last."""
    if is_remote(old):
        return bucket.move(old, names, marker)
    new = next(name for name in names if not exists(name))
    os.rename(old, new)
    sync_folder(os.path.dirname(new))
    return new


def remove(path: str) -> None:
    """Remove a file; nothing happens when there is none."""
    if is_remote(path):
        bucket.remove(path)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_tree(folder: str, first: str) -> None:
    """Remove a folder and all in it; nothing happens when there is none.

    The file `first` goes before all others, for good, so that what a kill leaves behind does not look whole.
    """
    if is_remote(folder):
        bucket.remove_tree(folder, first)
        return
    if os.path.islink(folder):
        os.unlink(folder)
        return
    if not os.path.isdir(folder):
        return
    if exists(os.path.join(folder, first)):
        os.unlink(os.path.join(folder, first))
        sync_folder(folder)
    shutil.rmtree(folder)
