"""A shard made local: found in the folder and checked, or downloaded; for a reader that waits, or ahead of it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from loader.cache.download import download
from loader.cache.remote import Remote
from loader.cache.store import Held, Store, Wait
from loader.cache.temporary import Closed, Temporary
from schemas.errors import TokenmillError
from schemas.manifest import File
from schemas.retry import Retry

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between looks at what other processes do; this process's own threads wake each other."""
REPORT = 10.0
"""Seconds between two reports of a reader that waits."""


class Fetcher:
    """Shards of one view, made local in one folder; safe for threads. patience: seconds `get` waits for room."""

    def __init__(self, remote: Remote, files: Sequence[File], store: Store, retry: Retry, patience: float) -> None:
        self._remote, self._files, self._store, self._retry, self._patience = remote, files, store, retry, patience
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._waiting: Counter[int] = Counter()
        self._handed: dict[int, Held] = {}  # brought by a thread while a reader waits: its pin is not let go
        self._failed: dict[int, TokenmillError] = {}
        self._checked: dict[int, int] = {}  # inode of the file whose bytes this process has hashed
        self._temporaries: set[Temporary] = set()

    def get(self, shard: int) -> Held:
        """The shard, local, checked and pinned; waits for it.

        Raises:
            TokenmillError: it cannot be had; with the failure of the thread that tried, if one did, as the cause.
        """
        file = self._files[shard]
        kind: bool | None = None
        since = reported = time.monotonic()
        with self._announced(shard):
            while True:
                if (held := self._result(shard)) is not None:
                    return held
                found = self._try(shard, take_claimed=True)
                if isinstance(found, Held):
                    return found
                now = time.monotonic()
                if found.room != kind:
                    kind, since = found.room, now
                limit = self._patience + (0.0 if found.room else self._retry.seconds(file.bytes))
                name, reason = self._remote.name(file.path), found.reason
                if now - since > limit:
                    raise TokenmillError(
                        f"{name}: waited {now - since:.0f} s in {self._store.directory}: {reason}; give the processes "
                        f"that share this folder a budget for all shards they hold at once, and one more each"
                    )
                if now - reported > REPORT:
                    reported = now
                    log.warning("%s: waiting for %.0f s: %s", name, now - since, reason)
                with self._changed:
                    if not self._stopping.is_set() and shard not in self._handed and shard not in self._failed:
                        self._changed.wait(POLL)

    def bring(self, shard: int) -> Wait | None:
        """Make the shard local ahead of need, without pinning it, or say what to wait for.

        A failure is kept for the reader: `get` raises it.
        """
        try:
            found = self._try(shard, take_claimed=False)
        except TokenmillError as error:
            self._keep(shard, error)
            return None
        except Exception as error:  # a thread has nobody to raise to
            name = self._remote.name(self._files[shard].path)
            self._keep(shard, TokenmillError(f"{name}: the download failed: {error!r}"), error)
            return None
        if isinstance(found, Wait):
            return found
        with self._changed:
            if self._waiting[shard] and shard not in self._handed:
                self._handed[shard] = found
            else:
                found.file.close()  # not `release`: it has not been used yet
            self._changed.notify_all()
        return None

    def forget_failures(self) -> None:
        """Let `get` try anew what failed ahead of need."""
        with self._changed:
            self._failed.clear()

    def stop(self) -> None:
        """End every download and every wait; temporaries are gone when this returns."""
        with self._changed:
            self._stopping.set()
            temporaries = list(self._temporaries)
            self._changed.notify_all()
        for temporary in temporaries:
            temporary.discard()

    @contextlib.contextmanager
    def _announced(self, shard: int) -> Iterator[None]:
        """While a reader waits for the shard: what a thread brings is handed over rather than let go."""
        with self._changed:
            self._waiting[shard] += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting[shard] -= 1
                if not self._waiting[shard] and shard in self._handed:
                    self._handed.pop(shard).file.close()

    def _result(self, shard: int) -> Held | None:
        with self._changed:
            if self._stopping.is_set():
                raise Closed(f"{self._remote.name(self._files[shard].path)}: the cache is closed")
            if shard in self._failed:
                error = self._failed.pop(shard)
                raise TokenmillError(str(error)) from (error.__cause__ or error)
            return self._handed.pop(shard, None)

    def _keep(self, shard: int, error: TokenmillError, cause: BaseException | None = None) -> None:
        with self._changed:
            error.__cause__ = error.__cause__ or cause
            if not self._stopping.is_set():
                self._failed[shard] = error
            self._changed.notify_all()

    def _try(self, shard: int, take_claimed: bool) -> Held | Wait:
        file = self._files[shard]
        while True:
            found = self._store.obtain(file.sha256, file.bytes, take_claimed)
            if isinstance(found, Temporary):
                return self._download(shard, found)
            if isinstance(found, Wait) or self._sound(shard, found):
                return found

    def _sound(self, shard: int, held: Held) -> bool:
        """Whether a file found in the folder is what its name says; removed when not. Hashed once a process."""
        if self._checked.get(shard) == held.identity():
            return True
        if held.sha256() == self._files[shard].sha256:
            self._checked[shard] = held.identity()
            return True
        log.warning("%s: damaged on this disk, downloading it anew", held.path)
        self._store.remove_damaged(held)
        return False

    def _download(self, shard: int, temporary: Temporary) -> Held:
        with self._changed:
            self._temporaries.add(temporary)
        try:
            if self._stopping.is_set():
                temporary.discard()  # `stop` may have looked before it was added
            download(self._remote, self._files[shard], temporary, self._retry, self._stopping.wait)
            held = self._store.commit(temporary)
        finally:
            temporary.discard()
            with self._changed:
                self._temporaries.discard(temporary)
        self._checked[shard] = held.identity()
        return held
