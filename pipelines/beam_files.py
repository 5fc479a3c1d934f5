"""Any filesystem Beam knows by its scheme, with what Beam offers: no preconditions, and Beam's own retries."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

_TYPE = "application/octet-stream"


def put(path: str, file: BinaryIO, size: int, sha256: str, guard: Callable[[], None] | None) -> None:
    """Write a local file's bytes under a final name, which is whole only where the filesystem makes it so."""
    if guard is not None:
        guard()
    file.seek(0)
    with FileSystems.create(path, _TYPE) as target:
        shutil.copyfileobj(file, target, 1 << 20)


def open_read(path: str) -> BinaryIO:
    """A file opened for reading; seekable."""
    opened: Any = FileSystems.open(path, _TYPE, CompressionTypes.UNCOMPRESSED)
    return opened


def read_bytes(path: str) -> bytes:
    """The whole of a small file. Raises FileNotFoundError when it is absent."""
    if size_of(path) is None:
        raise FileNotFoundError(path)
    with open_read(path) as file:
        return file.read()


def sha256_of(path: str) -> str:
    """'': Beam knows no such statement."""
    return ""


def size_of(path: str) -> int | None:
    """Size of a file in bytes, or None when there is none."""
    found = _match(path)
    return found[0].size_in_bytes if found else None


def below(prefix: str) -> Iterator[tuple[str, int]]:
    """(path, size) of every file whose path begins with `prefix`."""
    for found in _match(prefix + "**"):
        yield found.path, found.size_in_bytes


def inside(folder: str) -> dict[str, int]:
    """Names of the files directly in a folder and their sizes; folders are not told."""
    return {found.path.rsplit("/", 1)[1]: found.size_in_bytes for found in _match(folder.rstrip("/") + "/*")}


def delete(paths: Iterable[str]) -> None:
    """Remove files."""
    if chosen := list(paths):
        FileSystems.delete(chosen)


def _match(pattern: str) -> list[Any]:
    return list(FileSystems.match([pattern])[0].metadata_list)
