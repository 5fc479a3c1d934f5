"""All access to checkpoint files: the one module another kind of storage has to replace.

Small files become final by rename (`commit_json`); data files are written under their own names, because they count for
nothing until the commit marker names them. Links are never followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat

from schemas import storage
from schemas.storage import Written


class NotPlain(Exception):
    """A file or folder that is not what a save writes: a link, a device, too large. The message says which."""


def commit_bytes(path: str, data: bytes, run: str) -> Written:
    """Write a small file under a temporary name, flush it and its folder, and make it final by rename.

    Raises:
        TokenmillError: the disk is full, or the filesystem refuses.
    """
    return storage.write_bytes(path, data, run)


def write_synced(path: str, data: bytes) -> None:
    """Write a data file and flush it to disk. Its folder's entry is flushed by `sync_tree`."""
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
    """Make a folder and those above it."""
    os.makedirs(path, exist_ok=True)


def sync_folder(path: str) -> None:
    """Flush a folder's entries, so that a new name in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: str) -> None:
    """Flush the entries of a folder and of all folders below it."""
    for folder, _, _ in os.walk(path):
        sync_folder(folder)


def names_in(folder: str) -> list[str]:
    """Names in a folder, sorted; none when there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def exists(path: str) -> bool:
    """Whether there is anything under this name, even a link that leads nowhere."""
    return os.path.lexists(path)


def files_below(folder: str) -> dict[str, int]:
    """Sizes in bytes of the files in a folder and all below it, by path relative to it.

    Raises:
        NotPlain: the folder or something in it is neither a regular file nor a folder, or a folder is empty.
        OSError: it cannot be listed.
    """
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
    """A small file's bytes.

    Raises:
        NotPlain: it is a link or another special file, or larger than `limit` bytes.
        OSError: it is absent or cannot be read.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise NotPlain(f"{path}: not a regular file")
    if found.st_size > limit:
        raise NotPlain(f"{path}: larger than {limit:,} bytes")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        return file.read(limit)


def sha256_of(path: str) -> str:
    """The sha256 of a file in hex."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename(old: str, new: str) -> None:
    """Give a folder another name beside the old one, for good."""
    os.rename(old, new)
    sync_folder(os.path.dirname(new))


def remove(path: str) -> None:
    """Remove a file; nothing happens when there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_tree(folder: str, first: str) -> None:
    """Remove a folder and all in it; nothing happens when there is none.

    The file `first` goes before all others, for good, so that what a kill leaves behind does not look whole.
    """
    if os.path.islink(folder):
        os.unlink(folder)
        return
    if not os.path.isdir(folder):
        return
    if exists(os.path.join(folder, first)):
        os.unlink(os.path.join(folder, first))
        sync_folder(folder)
    shutil.rmtree(folder)
