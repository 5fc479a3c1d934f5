"""The cache's folder: which shards it holds, who uses them, and room for the next one. No network here.

    <sha256>.tfrecord   a whole shard, under the hash of its bytes: no view or run can take another's for its own
    <sha256>.part       a shard on its way, of its full size from the start, so that sizes tell what is spoken for
    <sha256>.ahead      empty: some process will need this shard soon
    .lock               the folder's lock

All coordination between processes is by flock, which the kernel undoes when a process ends, however it ends:

- the exclusive lock on `.lock` is held while files appear, vanish or change their locks, for a few milliseconds;
- a shared lock on a shard pins it: it is being read; a shared lock on `.ahead` claims it: it will be;
- an exclusive lock on `.part` says that its download lives; without one it is a dead process's and removed.

Only `.lock` is ever waited for, and nothing is waited for while it is held: no deadlock. Evicted are unpinned shards
without claim, least recently used first; for a reader that waits also claimed ones, the newest claim first, because
that shard is most likely needed last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader, FileIO
from typing import IO, NamedTuple

from loader.cache.temporary import Temporary, explained
from schemas.errors import Refused, TokenmillError

LOCK = ".lock"
NAME = re.compile(r"([0-9a-f]{64})\.(tfrecord|part|ahead)")


class _Entry(NamedTuple):
    name: str
    kind: str
    path: str
    size: int
    used: int


@dataclass(frozen=True)
class Held:
    """A pinned shard: nobody evicts it while this file is open."""

    path: str
    file: BufferedReader | BufferedRandom

    def identity(self) -> int:
        """The inode: another file under the same name has another."""
        return os.fstat(self.file.fileno()).st_ino

    def sha256(self) -> str:
        """The hash of its bytes as they are on disk now, in hex."""
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").hexdigest()

    def release(self) -> None:
        """Unpin it; it counts as used now."""
        os.utime(self.file.fileno(), ns=(time.time_ns(), time.time_ns()))
        self.file.close()


@dataclass(frozen=True)
class Claim:
    """A shard some process will need soon."""

    path: str
    file: IO[bytes]

    def drop(self) -> None:
        """Take the claim back. Needs no lock of the folder: `Store.claim` notices a file that has just gone."""
        if not self.file.closed:
            with contextlib.suppress(FileNotFoundError):
                if _try_exclusive(self.file):
                    os.unlink(self.path)
            self.file.close()


@dataclass(frozen=True)
class Wait:
    """Not now. reason: the end of a sentence; room: space is missing, else another download of it is under way."""

    reason: str
    room: bool


class Store:
    """One folder with at most `budget` bytes of shards, finished or on their way; safe for threads and processes.

    Raises:
        Refused: the folder cannot be made or written.
    """

    def __init__(self, directory: str, budget: int) -> None:
        self.directory, self.budget = os.path.abspath(directory), budget
        try:
            os.makedirs(self.directory, exist_ok=True)
            with self._locked():
                self._make_room(0, take_claimed=False)  # sweeps up after dead processes
        except (OSError, TokenmillError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            raise Refused(
                f"{self.directory}: cannot be used as a cache: {getattr(cause, 'strerror', None) or error}; "
                f"give a folder on a local disk that this user may write"
            ) from error

    def obtain(self, name: str, size: int, take_claimed: bool) -> Held | Temporary | Wait:
        """The shard with the sha256 `name` and `size` bytes, pinned; else an empty temporary with room for it.

        take_claimed: a reader waits, so shards that others will need soon may be evicted.

        Raises:
            TokenmillError: the disk is full or refuses.
        """
        with self._locked():
            held = self._pin(self._path(name, "tfrecord"))
            if held is not None:
                if os.fstat(held.file.fileno()).st_size == size:
                    return held
                self._remove_damaged(held)
            if os.path.exists(self._path(name, "part")) and not self._dead(self._path(name, "part")):
                return Wait("another download of it is under way", room=False)
            return self._make_room(size, take_claimed) or self._reserve(self._path(name, "part"), size)

    def commit(self, temporary: Temporary) -> Held:
        """Make a downloaded and checked temporary the shard it is named after, and pin it."""
        temporary.sync()
        path = temporary.path.removesuffix("part") + "tfrecord"
        with self._locked():
            file = temporary.rename(path)
            fcntl.flock(file, fcntl.LOCK_SH)  # at once: nobody asks for an exclusive lock without the folder's
            os.utime(file.fileno(), ns=(time.time_ns(), time.time_ns()))
        return Held(path, file)

    def remove_damaged(self, held: Held) -> None:
        """Remove a pinned shard whose bytes are not what its name says.

        Raises:
            TokenmillError: another reader has it open.
        """
        with self._locked():
            self._remove_damaged(held)

    def claim(self, name: str) -> Claim:
        """Say that a shard will be needed soon, until its `drop` or this process's end."""
        with self._locked():
            while True:
                path = self._path(name, "ahead")
                new = not os.path.exists(path)
                file = open(path, "ab")  # noqa: SIM115
                fcntl.flock(file, fcntl.LOCK_SH)
                if os.fstat(file.fileno()).st_nlink:
                    if new:
                        os.utime(path, ns=(time.time_ns(), time.time_ns()))  # the kernel's own clock ticks too slowly
                    return Claim(path, file)
                file.close()

    # With the folder's lock held

    def _path(self, name: str, kind: str) -> str:
        return os.path.join(self.directory, f"{name}.{kind}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with explained(self.directory), open(os.path.join(self.directory, LOCK), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _entries(self) -> list[_Entry]:
        """Every file of the cache, after removing what dead processes left."""
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                match = NAME.fullmatch(entry.name)
                if match and not (match[2] in ("part", "ahead") and self._dead(entry.path)):
                    with contextlib.suppress(FileNotFoundError):  # a download just discarded
                        about = entry.stat()
                        found.append(_Entry(match[1], match[2], entry.path, about.st_size, about.st_mtime_ns))
        return found

    def _dead(self, path: str) -> bool:
        """Remove a temporary or a claim that no living process has; whether it is gone."""
        try:
            with open(path, "rb") as file:
                if not _try_exclusive(file):
                    return False
                os.unlink(path)
        except FileNotFoundError:
            pass  # its owner has just discarded it
        return True

    def _pin(self, path: str) -> Held | None:
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        return Held(path, file)

    def _remove_damaged(self, held: Held) -> None:
        try:
            if not _try_exclusive(held.file):
                raise TokenmillError(
                    f"{held.path}: is not what its name says, and another reader has it open; "
                    f"stop the readers of this cache, remove the file and check the disk"
                )
            os.unlink(held.path)
        finally:
            held.file.close()

    def _make_room(self, size: int, take_claimed: bool) -> Wait | None:
        """Evict until `size` more bytes fit; evicts nothing when they cannot."""
        entries = self._entries()
        missing = sum(entry.size for entry in entries) + size - self.budget
        claimed = {entry.name: entry.used for entry in entries if entry.kind == "ahead"}
        shards = [entry for entry in entries if entry.kind == "tfrecord"]
        order = sorted((entry for entry in shards if entry.name not in claimed), key=lambda e: (e.used, e.name))
        if take_claimed:
            ahead = [entry for entry in shards if entry.name in claimed]
            order += sorted(ahead, key=lambda e: (-claimed[e.name], e.name))
        with contextlib.ExitStack() as stack:
            victims = []
            for entry in order:
                if missing <= 0:
                    break
                file = stack.enter_context(open(entry.path, "rb"))
                if _try_exclusive(file):
                    victims.append(entry.path)
                    missing -= entry.size
            if missing > 0 and size:
                return Wait(f"{missing} bytes are missing; what fills the {self.budget} bytes is in use", room=True)
            for path in victims:
                os.unlink(path)
        return None

    def _reserve(self, path: str, size: int) -> Temporary:
        file = BufferedRandom(FileIO(path, "w+"))
        temporary = Temporary(path, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        except BaseException:
            temporary.discard()
            raise
        return temporary


def _try_exclusive(file: IO[bytes]) -> bool:
    """Lock an open file for this alone; whether nobody else has it locked. A shared lock of its own is replaced."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
