"""Checkpoint files as objects of Cloud Storage, under the names and with the bytes they have on a disk.

An object becomes visible whole, by one put (schemas.objects), and a listing shows it from then on, so nothing has to be
flushed. There are no folders: a checkpoint is put aside object by object, in an order that a kill cannot spoil.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from schemas import objects
from schemas.errors import TokenmillError
from schemas.gcs import Absent, Changed
from schemas.storage import Written

_THREADS = 16


def put(path: str, data: bytes) -> None:
    """Make an object of `data`, in place of what a failed save may have left there."""
    objects.put(path, io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest(), None)


def put_new(path: str, data: bytes, guard: Callable[[], None] | None) -> Written:
    """Make an object where there is none. Raises TokenmillError when there is one with other bytes."""
    digest = hashlib.sha256(data).hexdigest()
    if guard is not None:
        guard()
    try:
        objects.put_if(path, data, digest, 0)
    except Changed:
        raise TokenmillError(f"{path}: is there already, written by another process") from None
    return Written(len(data), digest)


def names_in(folder: str) -> list[str]:
    """Names directly in a folder, sorted, from one listing."""
    return sorted(name for name in objects.inside(folder) if name)


def having(directory: str, folders: Sequence[str], name: str) -> list[str]:
    """Those of the folders in which there is an object of this name; they are asked for at the same time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(exists, (f"{directory}/{folder}/{name}" for folder in folders))
        return [folder for folder, there in zip(folders, found, strict=True) if there]


def exists(path: str) -> bool:
    """Whether there is an object of this name."""
    return objects.stat(path) is not None


def files_below(folder: str) -> dict[str, int]:
    """Sizes by path relative to the folder, from one listing. What programs put for empty folders is passed over."""
    prefix = f"{folder}/"
    found = {path.removeprefix(prefix): size for path, size in objects.below(prefix)}
    return {name: size for name, size in found.items() if size or not (name.endswith("/") or not name)}


def read(path: str, limit: int) -> bytes | None:
    """An object's bytes; None when it has more than `limit`. Raises FileNotFoundError when there is none."""
    found = objects.stat(path)
    if found is None:
        raise FileNotFoundError(2, "No such object", path)
    if found.bytes > limit:
        return None
    try:
        return objects.read_bytes(path)
    except Absent:
        raise FileNotFoundError(2, "No such object", path) from None


def remove(path: str) -> None:
    """Remove an object; nothing happens when there is none."""
    objects.delete_if(path)


def remove_tree(folder: str, first: str) -> None:
    """Remove all below a folder, the object `first` before all others."""
    objects.delete_if(f"{folder}/{first}")
    objects.delete([path for path, _ in objects.below(f"{folder}/")])


def move(old: str, names: Iterable[str], marker: str) -> str:
    """Give what is below a folder the first of `names` that is free; returns it.

    All is copied, by the server, the marker last; then the old marker is removed, then the rest. So at every moment
    there is a whole checkpoint under one of the two names, and a move that was killed is gone on with: its name is the
    one with no marker, or with this very marker.
    """
    mark = _kind(f"{old}/{marker}")
    new = next(name for name in names if _kind(f"{name}/{marker}") in (None, mark))
    paths = [path for path, _ in objects.below(f"{old}/") if path != f"{old}/{marker}"]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda path: objects.copy(path, new + path.removeprefix(old)), paths))
    objects.copy(f"{old}/{marker}", f"{new}/{marker}")
    remove_tree(old, marker)
    return new


def _kind(path: str) -> tuple[int, str] | None:
    """Size and crc32c of an object, by which two saves' markers differ; None when there is none."""
    found = objects.stat(path)
    return None if found is None else (found.bytes, found.crc32c)
