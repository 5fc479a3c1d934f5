"""A shard on its way: a file under a temporary name, its disk space taken in advance, locked by its process."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from io import BufferedRandom

from schemas.errors import TokenmillError


class Closed(TokenmillError):
    """The cache was closed while this was under way."""


class Temporary:
    """One temporary file. `discard` may come from another thread, at any time: later calls raise Closed.

    The open file carries the lock that tells other processes that its owner lives.
    """

    def __init__(self, path: str, file: BufferedRandom) -> None:
        self.path = path
        self._file: BufferedRandom | None = file
        self._lock = threading.RLock()  # the garbage collector may discard in the midst of a write

    def check(self) -> None:
        """Raise Closed after `discard`."""
        with self._lock:
            self._open()

    def rewind(self) -> None:
        """Write from the first byte again."""
        with self._lock:
            self._open().seek(0)

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        with self._lock, explained(self.path):
            self._open().write(data)

    def sync(self) -> None:
        """Flush everything to disk."""
        with self._lock, explained(self.path):
            file = self._open()
            file.flush()
            os.fsync(file.fileno())

    def rename(self, path: str) -> BufferedRandom:
        """Give the file its final name; returns the open file, which is the caller's from now on."""
        with self._lock, explained(self.path):
            file = self._open()
            os.rename(self.path, path)
            self._file = None
            return file

    def discard(self) -> None:
        """Remove the file; nothing happens after `rename` or a second time."""
        with self._lock:
            if self._file is not None:
                # Unlinked before its lock goes, so that nobody else can have put a new file in its place.
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
                with contextlib.suppress(OSError):  # what was not yet flushed may find no room; it is not wanted
                    self._file.close()
                self._file = None

    def _open(self) -> BufferedRandom:
        if self._file is None:
            raise Closed(f"{self.path}: the cache was closed during the download")
        return self._file


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what the filesystem refuses into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TokenmillError(
                f"{path}: the disk is full before the cache's budget is; free space or give a smaller budget"
            ) from error
        raise TokenmillError(f"{path}: the cache cannot be used: {error.strerror or error}") from error
