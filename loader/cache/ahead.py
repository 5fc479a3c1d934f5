"""Downloads ahead of need: threads that walk the reader's plan, a bounded number of shards before the reader.

Several datasets may read through one cache, each with a plan of its own: the threads work for the plan of the shard
that was acquired last, or of a newer one; the others keep their places until their readers come back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from loader.cache.fetch import Fetcher
from loader.cache.store import Claim, Store
from schemas.errors import TokenmillError
from schemas.manifest import File

RETRY = 0.25
"""Seconds until a shard that had no room, or that another process downloads, is looked at again."""
PLANS = 16
"""Plans remembered: of abandoned datasets nobody tells, so the longest unused goes."""


class _Plan:
    """The shards one dataset will acquire: the next `limit` of them, and where the rest comes from."""

    def __init__(self, shards: Iterable[int], limit: int) -> None:
        self._rest, self._limit = iter(shards), limit
        self.window: list[int] = []
        self.settled: set[int] = set()  # brought or failed: nothing more to do before the reader comes
        self.failure: Exception | None = None
        self.fill()

    def fill(self) -> None:
        """Look as far ahead as allowed."""
        try:
            while len(self.window) < self._limit and (shard := next(self._rest, None)) is not None:
                self.window.append(shard)
        except Exception as error:  # the reader hears of it, whichever thread looked
            self.failure, self._rest = error, iter(())

    def take(self, shard: int) -> None:
        """The reader has come to a shard of the window."""
        self.window.remove(shard)
        self.settled.discard(shard)
        self.fill()


class Ahead:
    """At most `limit` planned shards not yet acquired, claimed and made local in the order of need by `threads`."""

    def __init__(self, fetcher: Fetcher, files: Sequence[File], store: Store, limit: int, threads: int) -> None:
        self._fetcher, self._files, self._store, self._limit = fetcher, files, store, limit
        self._changed = threading.Condition()
        self._plans: list[_Plan] = []  # the one at work first
        self._claims: dict[int, Claim] = {}  # of its window
        self._active: set[int] = set()
        self._later: dict[int, tuple[float, bool]] = {}  # when to look again; whether room was missing
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"shard download {n}", daemon=True) for n in range(threads)
        ]

    def plan(self, shards: Iterable[int]) -> None:
        """Work ahead by `shards` from now on; downloads under way go on."""
        self._fetcher.forget_failures()
        plan = _Plan(shards, self._limit)
        with self._changed:
            if self._stopping:
                return
            self._plans = [plan, *self._plans][:PLANS]
            self._work_for(plan)
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()

    def acquired(self, shard: int) -> None:
        """The reader has come to the shard: it is no longer ahead of need.

        Raises:
            TokenmillError: the plan it belongs to failed after it; its error is the cause.
        """
        with self._changed:
            plan = next((plan for plan in self._plans if shard in plan.window), None)
            if plan is None:
                return
            plan.take(shard)
            self._later.pop(shard, None)
            self._work_for(plan)
            if plan.failure is not None:
                raise TokenmillError(f"the plan of the shards failed: {plan.failure!r}") from plan.failure

    def room(self) -> None:
        """Space has become free: look again now."""
        with self._changed:
            self._later.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """Take all claims back and let the threads end."""
        with self._changed:
            self._stopping, self._plans = True, []
            self._drop_claims()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the threads, at most so long; one inside a silent connection ends by itself, without effect."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _work_for(self, plan: _Plan) -> None:
        """Put a plan first, and claim what it needs next. With `_changed` held, as all below."""
        if plan is not self._plans[0]:
            self._plans.remove(plan)
            self._plans.insert(0, plan)
            plan.settled.clear()  # may have been evicted while another plan was at work
        self._drop_claims()
        for shard in plan.window:
            if shard not in self._claims:
                self._claims[shard] = self._store.claim(self._files[shard].sha256)
        self._changed.notify_all()

    def _drop_claims(self) -> None:
        window = self._plans[0].window if self._plans else []
        for shard in [shard for shard in self._claims if shard not in window]:
            self._claims.pop(shard).drop()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (shard := self._next()) is None:
                    self._changed.wait(RETRY if self._later else None)
                if self._stopping or shard is None:
                    return
                self._active.add(shard)
            wait = self._fetcher.bring(shard)
            with self._changed:
                self._active.discard(shard)
                if wait is not None:
                    self._later[shard] = (time.monotonic() + RETRY, wait.room)
                elif self._plans and shard in self._plans[0].window:
                    self._plans[0].settled.add(shard)
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The first shard needed that can be worked on."""
        now = time.monotonic()
        for plan in self._plans[:1]:
            for shard in plan.window:
                if shard in plan.settled or shard in self._active:
                    continue
                when, room = self._later.get(shard, (now, False))
                if when <= now:
                    return shard
                if room:
                    return None  # a later shard must not take the space an earlier one waits for
        return None
