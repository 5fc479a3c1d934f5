"""One object into one reserved temporary file: hashed as it comes, resumed where a connection broke.

A try goes on from the byte the last one reached. Bytes that are complete but wrong are thrown away and downloaded anew,
up to `MISMATCHES` times: one flipped bit on the way is repaired, an object that is not the manifest's is an error.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from loader.cache.remote import Remote
from loader.cache.temporary import Temporary
from schemas.errors import TokenmillError
from schemas.manifest import File
from schemas.retry import Retry, Transient, retried

MISMATCHES = 3


class _TooLong(Exception):
    """More bytes came than the manifest says."""


class _Hashing:
    """A sink that writes to the temporary file and keeps the sha256 of what it wrote."""

    def __init__(self, temporary: Temporary, file: File, name: str, until: float) -> None:
        self._temporary, self._file, self._name, self._until = temporary, file, name, until
        self.restart()

    def restart(self) -> None:
        """Begin again at the first byte."""
        self.offset, self._sha256 = 0, hashlib.sha256()
        self._temporary.rewind()

    def write(self, data: bytes) -> None:
        """The next bytes of the object."""
        if self.offset + len(data) > self._file.bytes:
            raise _TooLong
        if time.monotonic() > self._until:  # a trickle never ends a request by itself
            raise TokenmillError(f"{self._name}: given up, {self.offset} of {self._file.bytes} bytes in all the time")
        self._temporary.write(data)
        self._sha256.update(data)
        self.offset += len(data)

    def mismatch(self) -> str | None:
        """What was found instead of the manifest's object, or None when it is that."""
        if self.offset != self._file.bytes:
            return f"{self.offset} bytes"
        found = self._sha256.hexdigest()
        return None if found == self._file.sha256 else f"sha256 {found}"


def download(remote: Remote, file: File, temporary: Temporary, retry: Retry, sleep: Callable[[float], object]) -> None:
    """Fill `temporary` with the object `file` names.

    Raises:
        TokenmillError: there is no such object, no permission; it was given up; it is not the manifest's object.
    """
    name, seconds = remote.name(file.path), retry.seconds(file.bytes)
    sink = _Hashing(temporary, file, name, time.monotonic() + seconds)
    mismatches = 0

    def attempt() -> None:
        nonlocal mismatches
        temporary.check()
        before = sink.offset
        try:
            if before < file.bytes or not before:
                remote.read(file.path, sink, before)
            if before < sink.offset < file.bytes:
                raise Transient("the connection ended early")
            found = sink.mismatch()
        except Transient as error:
            raise Transient(str(error), progressed=sink.offset > before) from error
        except _TooLong:
            found = f"more than {file.bytes} bytes"
        if found is None:
            return
        mismatches += 1
        if mismatches == MISMATCHES:
            raise TokenmillError(
                f"{name}: the manifest says {file.bytes} bytes with sha256 {file.sha256}, found {found} in the last of "
                f"{MISMATCHES} downloads; the object is not the one of this manifest, copy it to the bucket again"
            )
        sink.restart()
        raise Transient(f"wrong bytes: {found}")

    retried(attempt, name, seconds, retry, sleep)
