"""Shards of a remote view on a local disk, within a budget, shared by the processes of a host."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterable, Sequence
from types import TracebackType

from loader.cache.ahead import Ahead
from loader.cache.fetch import Fetcher
from loader.cache.remote import Remote
from loader.cache.store import Held, Store
from loader.cache.temporary import Closed
from schemas.errors import Refused, TokenmillError
from schemas.manifest import File
from schemas.retry import Retry

THREADS = 4
PATIENCE = 600.0
SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardCache:
    """Local, checked copies of the shards below one gs:// URL.

    url: the view's folder. files: the manifest's; a shard's number is its place in them. directory: on a local disk;
    processes and views may share it. budget_bytes: what the shards in it, finished or on their way, never exceed.
    concurrent: how many shards are held at once. threads: downloads at a time. patience: seconds a reader waits for
    room that other processes hold.

    Works across threads; not across a fork, whose child would share the pins. Nothing but daemon threads outlives it:
    without `close`, the garbage collector or the interpreter's end closes it.

    Raises:
        Refused: the budget does not hold `concurrent` + 1 of the largest shards; the folder cannot be written; the URL
            is no gs:// URL; google-cloud-storage or credentials are missing; the manifest's hashes are none.
    """

    def __init__(
        self,
        url: str,
        files: Sequence[File],
        directory: str,
        budget_bytes: int,
        *,
        concurrent: int,
        threads: int = THREADS,
        patience: float = PATIENCE,
        retry: Retry | None = None,
    ) -> None:
        _check_budget(url, files, budget_bytes, concurrent)
        retry = retry or Retry()
        self._remote = Remote(url, retry)
        self._store = Store(directory, budget_bytes)
        self._fetcher = Fetcher(self._remote, files, self._store, retry, patience)
        self._ahead = Ahead(self._fetcher, files, self._store, 2 * max(concurrent, threads), threads)
        self._count = len(files)
        self._lock = threading.Lock()
        self._held: dict[int, list[Held]] = {}
        self._shut = weakref.finalize(self, _shut, self._ahead, self._fetcher, self._remote, self._held)

    def plan(self, shards: Iterable[int]) -> None:
        """Download these shards ahead, in this order, from now on; may be endless, is consumed as reading goes on.

        An earlier plan keeps its place, and is gone on with when one of its next shards is acquired.
        """
        self._ahead.plan(shards)

    def acquire(self, shard: int) -> str:
        """The path of the shard's local copy, which stays until `release`; waits for it.

        Raises:
            TokenmillError: it cannot be had: missing, forbidden, altered, given up; no room; the disk is full; the
                cache is closed. Names the object.
        """
        if not 0 <= shard < self._count:
            raise ValueError(f"there is no shard {shard} among {self._count}")
        held = self._fetcher.get(shard)
        try:
            self._ahead.acquired(shard)
        except TokenmillError:
            held.file.close()
            raise
        with self._lock:
            if not self._shut.alive:
                held.file.close()
                raise Closed(f"shard {shard}: the cache was closed before it was acquired")
            self._held.setdefault(shard, []).append(held)
        return held.path

    def release(self, shard: int) -> None:
        """Give one `acquire` back; the copy may be evicted from now on. Nothing happens after `close`.

        Raises:
            ValueError: the shard is not held.
        """
        with self._lock:
            if not self._shut.alive:
                return
            holders = self._held.get(shard)
            if not holders:
                raise ValueError(f"shard {shard} is not held")
            holders.pop().release()
        self._ahead.room()

    def close(self) -> None:
        """End downloads, even in the middle, remove their temporaries, unpin everything. May be called again."""
        with self._lock:
            if self._shut() is None:
                return
        self._ahead.join(2.0)

    def __enter__(self) -> ShardCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _check_budget(url: str, files: Sequence[File], budget_bytes: int, concurrent: int) -> None:
    if concurrent < 1:
        raise ValueError(f"concurrent is {concurrent}; at least one shard is held at a time")
    for file in files:
        if not SHA256.fullmatch(file.sha256) or file.bytes < 0:
            raise Refused(f"{url}/{file.path}: the manifest gives no sha256 and size for it; it is damaged")
    largest = max((file.bytes for file in files), default=0)
    if budget_bytes < (concurrent + 1) * largest:
        raise Refused(
            f"{url}: a cache of {budget_bytes} bytes is too small: {concurrent} shards are read at once and one more "
            f"is on its way, of up to {largest} bytes each; give at least {(concurrent + 1) * largest}"
        )


def _shut(ahead: Ahead, fetcher: Fetcher, remote: Remote, held: dict[int, list[Held]]) -> bool:
    """Everything `close` does but waiting.

    The garbage collector may run this in any thread, inside of anything: it refers to no cache, and takes neither the
    folder's lock nor any other that is not reentrant.
    """
    fetcher.stop()
    ahead.stop()
    for holders in held.values():
        for one in holders:
            one.release()
    held.clear()
    remote.close()
    return True
