"""Where the bytes of a shard are: the seam between reading and a cache, and the cheap checks before a shard is read."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Protocol, cast

from schemas.errors import TokenmillError
from schemas.manifest import ShardFile
from schemas.record import CorruptRecord, decode_example, end_checksums, read_records

_REMOTE_THREADS = 16  # of checks at a time, each a few requests


class ShardFiles(Protocol):
    """What gives the path of a shard. Shards are numbered as in `Shards.files`: train, then validation by component.

    One dataset holds at most lanes / hosts shards of train, or one of validation, at a time. A cache downloads ahead
    by `plan`, keeps what is acquired until it is released, and may serve several datasets; who made it closes it.
    """

    def plan(self, shards: Iterable[int]) -> None:
        """The shards that will be acquired, in order; may be endless, to be consumed as reading goes on."""

    def acquire(self, shard: int) -> str:
        """A path that TensorFlow can open, valid until `release`; may block. Raises TokenmillError."""

    def release(self, shard: int) -> None:
        """Give one `acquire` back."""

    def close(self) -> None:
        """End everything."""


@dataclass(frozen=True)
class DirectFiles:
    """Shards read where they lie: in a local folder, or below a gs:// URL. names: of all shards, by number."""

    folder: str
    names: Sequence[str]

    def plan(self, shards: Iterable[int]) -> None:
        """Nothing is fetched ahead."""

    def acquire(self, shard: int) -> str:
        """The shard's place."""
        return f"{self.folder}/{self.names[shard]}"

    def release(self, shard: int) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        """Nothing is open."""


class Lease:
    """What one dataset holds of shard files that serve several; `close` gives all of it back, with no word from it.

    For a dataset that is not read to its end: its abandoned iterator would keep the shards it has open.
    """

    def __init__(self, files: ShardFiles) -> None:
        self._files, self._lock = files, threading.Lock()
        self._held: list[int] = []
        self._closed = False

    def plan(self, shards: Iterable[int]) -> None:
        """As `ShardFiles.plan`."""
        self._files.plan(shards)

    def acquire(self, shard: int) -> str:
        """As `ShardFiles.acquire`. Raises TokenmillError after `close`, too: an iterator may still be reading ahead."""
        path = self._files.acquire(shard)
        with self._lock:
            if not self._closed:
                self._held.append(shard)
                return path
        self._files.release(shard)
        raise TokenmillError(f"{path}: the dataset it was for is read no more")

    def release(self, shard: int) -> None:
        """As `ShardFiles.release`; nothing happens after `close`."""
        with self._lock:
            if self._closed:
                return
            self._held.remove(shard)
        self._files.release(shard)

    def close(self) -> None:
        """Give everything back. The shard files stay open."""
        with self._lock:
            self._closed = True
            held, self._held = self._held, []
        for shard in held:
            self._files.release(shard)


class OpenShards:
    """The shards one dataset holds. size: framed bytes of a record; view: what to call the view in sentences.

    A dataset holds one set of shards at a time; `turn` gives the last set back, also that of an iterator which was
    abandoned. (So with a cache, one iterator of a dataset at a time.)
    """

    def __init__(self, files: ShardFiles, shards: Sequence[ShardFile], size: int, dtype: str, view: str) -> None:
        self._files, self._shards, self._size, self._dtype, self._view = files, shards, size, dtype, view
        self._lock = threading.Lock()
        self._held: list[int] = []

    def turn(self, numbers: Sequence[int]) -> list[str]:
        """Release what is held; acquire and check these shards; their paths.

        Raises:
            TokenmillError: one is missing, of another size, or another shard; names it.
        """
        with self._lock:
            while self._held:
                self._files.release(self._held.pop())
            paths = []
            for number in numbers:
                paths.append(self._files.acquire(number))
                self._held.append(number)
        if any("://" in path for path in paths):
            with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
                list(pool.map(self._check, paths, numbers))
        else:
            for path, number in zip(paths, numbers, strict=True):
                self._check(path, number)
        return paths

    def explain(self, number: int, row: int) -> str:
        """Why a record of a shard could not be read, in one sentence."""
        path = ""
        try:
            path = self._files.acquire(number)
            try:
                self._check(path, number)
                reason = self._what_is_wrong(path, row)
            finally:
                self._files.release(number)
        except TokenmillError as error:
            return str(error)
        except OSError as error:
            reason = f"record {row} cannot be read ({error})"
        return f"{path}: {reason}; {self._way_out()}"

    def _check(self, path: str, number: int) -> None:
        expected = self._shards[number]
        try:
            found = _size_of(path)
            if found == expected.bytes == expected.records * self._size:
                with _open(path) as file:
                    ends = end_checksums(file, self._size, expected.records)
                if ends == expected.ends:
                    return
                reason = "holds other records than the manifest says: it is another shard, or was written again"
            else:
                reason = (
                    f"has {found:,} bytes, {found // self._size:,} whole records; the manifest states "
                    f"{expected.bytes:,} bytes and {expected.records:,} records"
                )
        except FileNotFoundError:
            reason = "is missing"
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
        raise TokenmillError(f"{path}: {reason}; {self._way_out()}")

    def _what_is_wrong(self, path: str, row: int) -> str:
        with _open(path) as file:
            file.seek(row * self._size)
            data = file.read(self._size)
        try:
            decode_example(next(read_records(cast(BinaryIO, io.BytesIO(data)))), self._dtype)
        except StopIteration:
            return f"record {row} is cut off"
        except CorruptRecord as error:
            told = str(error).removeprefix("a stream: record 0 at byte 0 ")
            return f"record {row} at byte {row * self._size:,}: {told}"
        return f"record {row} could not be read, and is sound now: the storage failed, or another file was here"

    def _way_out(self) -> str:
        return (
            f"`python -m loader verify {self._view}` lists all that is wrong; restore the file from a copy, or make "
            f"the view again with --replace-from shard"
        )


def _size_of(path: str) -> int:
    """Bytes of a file. Raises OSError, FileNotFoundError when there is none."""
    if "://" not in path:
        return os.stat(path).st_size
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        return int(tf.io.gfile.stat(path).length)
    except tf.errors.NotFoundError:
        raise FileNotFoundError(path) from None
    except tf.errors.OpError as error:
        raise OSError(error.message) from None


def _open(path: str) -> BinaryIO:
    if "://" not in path:
        return open(path, "rb")
    import tensorflow as tf  # noqa: PLC0415

    return cast(BinaryIO, tf.io.gfile.GFile(path, "rb"))
