"""Objects of Google Cloud Storage: each becomes visible whole, by one put, under its final name.

A put is made for a *generation* (0: the name is free), so a request that comes late, or a second time because the
answer to the first was lost, changes nothing: the server refuses it (412). What lies there then has our sha256, which
every put states in the object's metadata, or it is another file; that is replaced only if the writer still owns the
run. The client sends each file's crc32c along, and the server takes no bytes that do not have it.
"""

from __future__ import annotations

import functools
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from schemas.errors import Refused
from schemas.gcs import SCHEME, Absent, Changed, explained, make_client, split_url
from schemas.retry import Retry, Transient, retried

T = TypeVar("T")
RETRY = Retry()
"""The limits of every request here."""
_TYPE = "application/octet-stream"
_THREADS = 16
_LEAST_AHEAD, _MOST_AHEAD = 1 << 16, 1 << 24  # bytes a reader asks for beyond what it was asked for


@dataclass(frozen=True)
class Stat:
    """What the server says of an object. sha256: as its writer stated it; '' when it stated none. crc32c: in base64."""

    bytes: int
    generation: int
    sha256: str
    crc32c: str


def put(path: str, file: BinaryIO, size: int, sha256: str, guard: Callable[[], None] | None) -> None:
    """Make an object of a local file's bytes; done, too, when the same bytes are there already.

    guard: called before each try; raises when this process may no longer write.

    Raises:
        TokenmillError: no permission, no bucket, or given up; the object is not there then, or whole.
    """
    generation = 0
    while True:
        try:
            _put(path, file, size, sha256, generation, guard)
            return
        except Changed:
            found = stat(path)
            generation = found.generation if found else 0


def put_if(path: str, data: bytes, sha256: str, generation: int) -> int:
    """Replace an object of a known generation (0: there is none) by `data`; returns the new generation.

    Raises:
        Changed: another process was there before.
    """
    return _put(path, io.BytesIO(data), len(data), sha256, generation, None)


def _put(path: str, file: BinaryIO, size: int, sha256: str, generation: int, guard: Callable[[], None] | None) -> int:
    blob = _blob(path)
    blob.metadata = {"sha256": sha256}

    def attempt() -> int:
        if guard is not None:
            guard()
        file.seek(0)
        with explained(path, "write"):
            blob.upload_from_file(
                file, size=size, content_type=_TYPE, if_generation_match=generation, checksum="crc32c",
                timeout=_timeout(), retry=None,
            )  # fmt: skip
        return int(blob.generation)

    try:
        return _retried(attempt, path, size)
    except Changed:
        found = stat(path)
        if found is not None and (found.bytes, found.sha256) == (size, sha256):
            return found.generation  # the answer to an earlier try was lost
        raise


def stat(path: str) -> Stat | None:
    """What the server says of an object; None when there is none."""
    blob = _blob(path)

    def attempt() -> Stat:
        with explained(path):
            blob.reload(timeout=_timeout(), retry=None)
        stated = (blob.metadata or {}).get("sha256", "")
        return Stat(int(blob.size), int(blob.generation), stated, blob.crc32c or "")

    try:
        return _retried(attempt, path)
    except Absent:
        return None


def read_bytes(path: str) -> bytes:
    """The whole of a small object, checked against the server's crc32c. Raises FileNotFoundError when there is none."""
    blob = _blob(path)

    def attempt() -> bytes:
        with explained(path):
            content: bytes = blob.download_as_bytes(
                raw_download=True, checksum="crc32c", timeout=_timeout(), retry=None
            )
        return content

    try:
        return _retried(attempt, path)
    except Absent:
        raise FileNotFoundError(path) from None


def read_generation(path: str) -> tuple[bytes, int]:
    """A small object and its generation; (b"", 0) when there is none."""
    while (found := stat(path)) is not None:
        try:
            return _range(path, 0, found.bytes, found.generation), found.generation
        except (Absent, Changed):
            continue
    return b"", 0


def sha256_of(path: str) -> str:
    """The sha256 its writer stated, or '' where none did or there is no object."""
    found = stat(path)
    return found.sha256 if found else ""


def size_of(path: str) -> int | None:
    """Size of an object in bytes, or None when there is none."""
    found = stat(path)
    return found.bytes if found else None


class Reader(io.RawIOBase):
    """One generation of an object, by ranges: twice as far ahead each time while it is read on, little after a seek.

    Raises:
        Absent, Changed: it is gone, or another one has its place.
        TokenmillError: no permission, or given up.
    """

    def __init__(self, path: str) -> None:
        found = stat(path)
        if found is None:
            raise Absent(f"{path}: there is no such object")
        self._path, self._size, self._generation = path, found.bytes, found.generation
        self._at, self._start, self._held, self._ahead = 0, 0, b"", _LEAST_AHEAD

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the bytes at hand go; asks the server when there are none."""
        if self._at >= self._size:
            return 0
        end = self._start + len(self._held)
        if not self._start <= self._at < end:
            self._ahead = min(2 * self._ahead, _MOST_AHEAD) if self._at == end else _LEAST_AHEAD
            stop = min(self._size, self._at + max(len(buffer), self._ahead))
            self._held = b""  # not two of them at once
            self._held = _range(self._path, self._at, stop, self._generation)
            self._start = self._at
        skip = self._at - self._start
        count = min(len(buffer), len(self._held) - skip)
        buffer[:count] = memoryview(self._held)[skip : skip + count]
        self._at += count
        return count


def open_read(path: str) -> BinaryIO:
    """An object opened for reading; seekable. Raises as `Reader`."""
    return io.BufferedReader(Reader(path), _LEAST_AHEAD)


def _range(path: str, start: int, stop: int, generation: int) -> bytes:
    """Bytes [start, stop) of one generation."""
    if start >= stop:
        return b""
    blob = _blob(path)

    def attempt() -> bytes:
        with explained(path):
            content: bytes = blob.download_as_bytes(
                start=start, end=stop - 1, raw_download=True, if_generation_match=generation, checksum=None,
                timeout=_timeout(), retry=None,
            )  # fmt: skip
        if len(content) != stop - start:
            raise Transient(f"{len(content)} bytes came instead of {stop - start}")
        return content

    return _retried(attempt, path, stop - start)


def below(prefix: str) -> Iterator[tuple[str, int]]:
    """(path, size) of every object whose path begins with `prefix`, in code-point order. Raises Refused: no bucket."""
    for objects, _ in _pages(prefix, ""):
        yield from objects


def inside(folder: str) -> dict[str, int]:
    """Names directly in a folder and their sizes; -1 for a folder's. Empty when there is none."""
    prefix = folder.rstrip("/") + "/"
    found: dict[str, int] = {}
    for objects, folders in _pages(prefix, "/"):
        found.update({path.removeprefix(prefix): size for path, size in objects})
        found.update({path.removeprefix(prefix).rstrip("/"): -1 for path in folders})
    return found


def _pages(prefix: str, delimiter: str) -> Iterator[tuple[list[tuple[str, int]], list[str]]]:
    """(objects, folders) a page of a listing."""
    bucket, _ = split_url(prefix)
    root = f"{SCHEME}{bucket}/"
    token: str | None = None

    def attempt() -> tuple[list[tuple[str, int]], list[str], str | None]:
        with explained(prefix, "list"):
            listing = _client(os.getpid()).list_blobs(
                bucket, prefix=prefix.removeprefix(root), delimiter=delimiter or None, page_token=token,
                fields="items(name,size),prefixes,nextPageToken", timeout=_timeout(), retry=None,
            )  # fmt: skip
            objects = [(root + blob.name, int(blob.size)) for blob in next(listing.pages, ())]
        return objects, [root + name for name in listing.prefixes], listing.next_page_token

    while True:
        try:
            objects, folders, token = _retried(attempt, prefix)
        except Absent:
            raise Refused(f"{prefix}: there is no bucket {bucket}; make it first") from None
        yield objects, folders
        if not token:
            return


def copy(old: str, new: str) -> None:
    """Make an object with the bytes of another, by the server, in place of what is there. Raises Absent: no `old`."""
    source, blob = _blob(old), _blob(new)
    token: str | None = None

    def attempt() -> str | None:
        with explained(old, "copy"):
            further: str | None = blob.rewrite(source, token=token, timeout=_timeout(), retry=None)[0]
        return further

    while True:
        token = _retried(attempt, old)
        if token is None:
            return


def delete(paths: Iterable[str]) -> None:
    """Remove objects; one that is not there is passed over."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(delete_if, paths))


def delete_if(path: str, generation: int | None = None) -> None:
    """Remove an object, or only one generation of it. Raises Changed when it is of another."""
    blob = _blob(path)

    def attempt() -> None:
        with explained(path, "delete"):
            blob.delete(if_generation_match=generation, timeout=_timeout(), retry=None)

    try:
        _retried(attempt, path)
    except Absent:
        return


def _blob(path: str) -> Any:
    bucket, name = split_url(path)
    return _client(os.getpid()).bucket(bucket).blob(name)


@functools.lru_cache(maxsize=1)
def _client(process: int) -> Any:
    """This process's client: a fork must not go on with its parent's connections."""
    return make_client("gs://")


def _timeout() -> tuple[float, float]:
    return RETRY.connect, RETRY.read


def _retried(action: Callable[[], T], path: str, size: int = 0) -> T:
    return retried(action, path, RETRY.seconds(size), RETRY, time.sleep)
