"""Several processes of a host, and processes that die: one folder, one download each, never over budget."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.loader.cache.conftest import Publish, View
from tests.loader.cache.proxy import Proxy
from tests.loader.cache.test_cache import names, read, shards, until

Process = subprocess.Popen[str]


@pytest.fixture
def started() -> Iterator[list[Process]]:
    """Readers to kill when the test ends."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(
    started: list[Process], view: View, directory: Path, budget: int, order: list[int], **told: object
) -> Process:
    files = [file.model_dump() for file in view.files]
    told |= {"url": view.url, "files": files, "directory": str(directory), "budget": budget, "order": order}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.loader.cache.reader", json.dumps(told)],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    return process


def wait_for(process: Process, line: str) -> list[str]:
    """The lines before `line`."""
    seen: list[str] = []
    assert process.stdout is not None
    for got in process.stdout:
        if got.strip() == line:
            return seen
        seen.append(got.strip())
    raise AssertionError(f"ended without {line!r}: {seen}")


def kill(process: Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


class Watch:
    """The most bytes a folder's shards and temporaries ever took; looked at under the folder's lock, so exactly."""

    def __init__(self, directory: Path) -> None:
        self.most = self.looks = 0
        self._directory, self._stop = directory, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with open(self._directory / ".lock", "ab") as lock:
            while not self._stop.wait(0.002):
                fcntl.flock(lock, fcntl.LOCK_EX)
                total = 0
                for path in self._directory.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        total += path.stat().st_size
                fcntl.flock(lock, fcntl.LOCK_UN)
                self.most, self.looks = max(self.most, total), self.looks + 1


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_downloads(
    count: int, proxy: Proxy, publish: Publish, tmp_path: Path, started: list[Process]
) -> None:
    view = publish([40_000] * 16)
    proxy.faults = random.Random(count).sample(["503", "reset", "short", "429", "ends_early"] * 2, 10)
    orders = [random.Random(n).sample(range(16), 16) for n in range(count - 1)] + [list(range(16))]
    for order in orders:
        start(started, view, tmp_path, 1 << 20, order)
    for process in started:
        assert len(wait_for(process, "done")) == 16
    assert not proxy.faults
    assert set(proxy.finished.values()) == {1} and len(proxy.finished) == 16
    assert names(tmp_path) == shards(view, *range(16))


def test_the_budget_holds_whatever_the_orders(
    proxy: Proxy, publish: Publish, tmp_path: Path, started: list[Process]
) -> None:
    view = publish([20_000 + 1000 * (n % 5) for n in range(16)])
    budget = 200_000
    (tmp_path / ".lock").touch()
    with Watch(tmp_path) as watch:
        for n in range(4):
            order = random.Random(n).choices(range(16), k=40)
            start(started, view, tmp_path, budget, order, concurrent=2, pause=0.003)
        for process in started:
            assert len(wait_for(process, "done")) == 40
    assert watch.looks > 20
    assert 100_000 < watch.most <= budget
    assert all(name.endswith(".tfrecord") for name in names(tmp_path))


def test_killed_in_the_middle_of_downloads(
    proxy: Proxy, publish: Publish, tmp_path: Path, started: list[Process]
) -> None:
    view = publish([300_000] * 4)
    proxy.gate.clear()
    process = start(started, view, tmp_path, 1_300_000, [0, 1, 2, 3], read=60.0)
    until(lambda: sum(proxy.requests.values()) == 4 and proxy.halfway.is_set())
    assert sum(name.endswith(".part") for name in names(tmp_path)) == 4
    assert sum(name.endswith(".ahead") for name in names(tmp_path)) == 4
    kill(process)
    proxy.gate.set()
    with view.cache(tmp_path, 1_300_000) as cache:
        assert names(tmp_path) == []
        assert [read(cache, n) for n in range(4)] == view.content
    assert names(tmp_path) == shards(view, 0, 1, 2, 3)


def test_killed_while_holding(proxy: Proxy, publish: Publish, tmp_path: Path, started: list[Process]) -> None:
    view = publish([1000] * 4)
    process = start(started, view, tmp_path, 3000, [0, 1], concurrent=2, keep=2)
    wait_for(process, "holding")
    with view.cache(tmp_path, 3000, patience=0.3) as cache:
        cache.acquire(2)
        assert set(shards(view, 0, 1, 2)) <= set(names(tmp_path))
        with pytest.raises(Exception, match=r"waited 0 s .*: 1000 bytes are missing; what fills the 3000 bytes is in"):
            cache.acquire(3)
        kill(process)
        cache.acquire(3)
        assert set(shards(view, 2, 3)) <= set(names(tmp_path))
        cache.release(2)
        cache.release(3)
        assert read(cache, 0) == view.content[0]


def test_a_download_goes_on_in_another_process(
    proxy: Proxy, publish: Publish, tmp_path: Path, started: list[Process]
) -> None:
    view = publish([300_000])
    proxy.gate.clear()
    first = start(started, view, tmp_path, 1 << 20, [0], read=60.0)
    until(proxy.halfway.is_set)
    second = start(started, view, tmp_path, 1 << 20, [0], read=60.0)
    time.sleep(1.5)
    assert sum(proxy.requests.values()) == 1  # the second waits for the first
    kill(first)
    until(lambda: sum(proxy.requests.values()) == 2)
    proxy.gate.set()
    assert wait_for(second, "done") == ["read 0"]


def test_killed_again_and_again(proxy: Proxy, publish: Publish, tmp_path: Path, started: list[Process]) -> None:
    view = publish([200_000 + n for n in range(8)])
    budget = 1_000_000
    (tmp_path / ".lock").touch()
    moments = random.Random(3)
    with Watch(tmp_path) as watch:
        other = start(started, view, tmp_path, budget, list(range(8)) * 40, pause=0.01)
        for _ in range(5):
            victim = start(started, view, tmp_path, budget, moments.sample(range(8), 8) * 50)
            assert victim.stdout is not None and victim.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.1))
            kill(victim)
        assert len(wait_for(other, "done")) == 320
    assert watch.most <= budget
    with view.cache(tmp_path, budget) as cache:
        assert [read(cache, n) for n in range(8)] == view.content
    assert all(name.endswith(".tfrecord") for name in names(tmp_path))
