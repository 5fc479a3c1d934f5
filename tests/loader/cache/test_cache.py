"""One process: what a reader gets, what is downloaded when, what is evicted, and how it ends."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loader.cache import ShardCache, read_object
from loader.cache.temporary import Closed, explained
from schemas.errors import Refused, TokenmillError
from schemas.manifest import File
from tests.conftest import ROOT
from tests.loader.cache.conftest import FAST, Publish, View
from tests.loader.cache.proxy import Proxy


def names(directory: Path) -> list[str]:
    """What is in a cache's folder, its lock aside."""
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def shards(view: View, *chosen: int) -> list[str]:
    return sorted(f"{view.files[n].sha256}.tfrecord" for n in chosen)


def until(condition: object, seconds: float = 10.0) -> None:
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def read(cache: ShardCache, shard: int) -> bytes:
    data = Path(cache.acquire(shard)).read_bytes()
    cache.release(shard)
    return data


def test_right_bytes_and_each_object_once(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000, 70_000, 0, 1, 30_000])
    with view.cache(tmp_path / "cache", 1 << 20, concurrent=2) as cache:
        cache.plan([4, 3, 2, 1, 0])
        assert [read(cache, n) for n in (4, 3, 2, 1, 0)] == view.content[::-1]
        assert [read(cache, n) for n in range(5)] == view.content
    assert set(proxy.finished.values()) == {1} and len(proxy.finished) == 5
    assert names(tmp_path / "cache") == shards(view, *range(5))


def test_an_endless_plan_runs_a_bounded_way_ahead(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view, taken = publish([1000] * 20), []

    def endless() -> object:
        for shard in itertools.cycle(range(20)):
            taken.append(shard)
            yield shard

    with view.cache(tmp_path / "cache", 1 << 20) as cache:
        cache.plan(endless())  # type: ignore[arg-type]
        until(lambda: sum(proxy.finished.values()) == len(taken) >= 8)
        time.sleep(0.1)
        assert len(taken) == 8
        assert [read(cache, shard) for shard in (*range(20), *range(20))] == view.content * 2
        assert sum(proxy.finished.values()) == 20


def test_plans_of_several_datasets_take_turns(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000] * 14)

    def brought(*chosen: int) -> bool:
        return set(shards(view, *chosen)) <= set(names(tmp_path))

    with view.cache(tmp_path, 1 << 20) as cache:
        cache.plan(range(12))
        until(lambda: brought(*range(8)))
        cache.plan([12, 13])
        until(lambda: brought(12, 13))
        time.sleep(0.1)
        assert sum(proxy.finished.values()) == 10
        assert read(cache, 0) == view.content[0]  # the first dataset is read again
        until(lambda: brought(8))
        assert [read(cache, n) for n in (12, 1, 13, 2, 3)] == [view.content[n] for n in (12, 1, 13, 2, 3)]
        until(lambda: brought(*range(12)))
    assert set(proxy.finished.values()) == {1}
    assert names(tmp_path) == shards(view, *range(14))


def test_least_recently_used_goes_first_and_never_what_is_held(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000] * 6)
    with view.cache(tmp_path / "cache", 3000) as cache:
        for shard in (0, 1, 2, 0):
            read(cache, shard)
        cache.acquire(3)
        assert names(tmp_path / "cache") == shards(view, 0, 2, 3)
        read(cache, 4)
        read(cache, 5)
        read(cache, 4)
        assert names(tmp_path / "cache") == shards(view, 3, 4, 5)
        read(cache, 1)
        assert names(tmp_path / "cache") == shards(view, 1, 3, 4)
        cache.release(3)
        read(cache, 0)
        assert names(tmp_path / "cache") == shards(view, 0, 1, 3)


def test_what_is_needed_soon_is_evicted_only_for_a_reader(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000] * 6)
    with view.cache(tmp_path / "cache", 4000) as cache:
        cache.plan(range(5))
        until(lambda: set(shards(view, *range(4))) <= set(names(tmp_path / "cache")))
        time.sleep(0.4)
        assert proxy.requests["train-00004.tfrecord"] == 0  # there is room only when something was read
        assert read(cache, 5) == view.content[5]  # not planned: takes the place of what is needed last
        assert [read(cache, n) for n in range(5)] == view.content[:5]
    assert [proxy.finished[file.path] for file in view.files] == [1, 1, 1, 2, 1, 1]


def test_two_views_share_a_folder_without_mistaking_files(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    one, two = publish([5000, 5000], "one"), publish([5000, 5000, 5000], "two")
    assert one.files[0].path == two.files[0].path and one.content[0] != two.content[0]
    with one.cache(tmp_path, 1 << 20) as first, two.cache(tmp_path, 1 << 20) as second:
        for n in (0, 1):
            assert read(first, n) == one.content[n]
            assert read(second, n) == two.content[n]
    same = View(two.url, two.content)
    with same.cache(tmp_path, 1 << 20) as again:
        assert read(again, 0) == two.content[0]
    assert proxy.finished["train-00000.tfrecord"] == 2


def test_a_copy_damaged_on_disk_is_downloaded_anew(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([5000, 5000])
    with view.cache(tmp_path, 1 << 20) as cache:
        read(cache, 0)
        read(cache, 1)
    flipped, cut = (tmp_path / f"{file.sha256}.tfrecord" for file in view.files)
    flipped.write_bytes(bytes([view.content[0][0] ^ 1]) + view.content[0][1:])
    cut.write_bytes(view.content[1][:-1])
    with view.cache(tmp_path, 1 << 20) as cache:
        assert [read(cache, n) for n in (0, 1)] == view.content
    flipped.write_bytes(bytes(5000))
    with view.cache(tmp_path, 1 << 20) as cache, open(flipped, "rb") as other:
        import fcntl  # noqa: PLC0415

        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(TokenmillError, match="another reader has it open"):
            cache.acquire(0)


def test_refusals(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000, 3000])
    with pytest.raises(Refused, match="give at least 9000"):
        view.cache(tmp_path, 8999, concurrent=2)
    view.cache(tmp_path, 9000, concurrent=2).close()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match="cannot be used as a cache"):
        view.cache(tmp_path / "file" / "cache", 9000)
    with pytest.raises(Refused, match="cannot be used as a cache"):
        view.cache("/proc/cache", 9000)
    with pytest.raises(Refused, match="gs://BUCKET/PATH"):
        View("s3://bucket/view", [b""]).cache(tmp_path, 9000)
    view.files[0] = File(path="x", records=1, bytes=1, sha256="../../x")
    with pytest.raises(Refused, match="no sha256"):
        view.cache(tmp_path, 9000)


def test_a_missing_object_is_named_at_once(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000, 1000])
    view.files[0] = view.files[0].model_copy(update={"path": "absent.tfrecord", "sha256": "0" * 64})
    for planned in ([], [0, 1]):
        with view.cache(tmp_path, 1 << 20) as cache:
            cache.plan(planned)
            with pytest.raises(
                TokenmillError, match=rf"{view.url}/absent\.tfrecord: there is no such object"
            ) as raised:
                cache.acquire(0)
            assert raised.value.__cause__ is not None
            assert read(cache, 1) == view.content[1]
    assert proxy.requests["absent.tfrecord"] == 2
    assert names(tmp_path) == shards(view, 1)


def test_an_error_of_the_plan_reaches_the_reader(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000])
    with view.cache(tmp_path, 1 << 20) as cache:
        cache.plan(n // (1 - n) for n in range(3))
        with pytest.raises(TokenmillError, match="ZeroDivisionError") as raised:
            cache.acquire(0)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_close_in_the_middle_of_downloads(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([2 << 20] * 3)
    proxy.gate.clear()
    cache = view.cache(tmp_path, 10 << 20, concurrent=2, retry=type(FAST)(read=3.0))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            cache.acquire(2)
        except BaseException as error:
            raised.append(error)

    reader = threading.Thread(target=wait)
    cache.plan([0, 1, 2])
    reader.start()
    until(lambda: sum(proxy.requests.values()) == 3 and proxy.halfway.is_set())
    assert sum(name.endswith(".part") for name in names(tmp_path)) == 3
    start = time.monotonic()
    cache.close()
    assert time.monotonic() - start < 2.5
    assert names(tmp_path) == []
    proxy.gate.set()
    reader.join(5.0)
    assert not reader.is_alive() and isinstance(raised[0], Closed)
    with pytest.raises(Closed):
        cache.acquire(0)
    cache.release(0)
    cache.close()
    assert names(tmp_path) == []


def test_a_forgotten_cache_leaves_nothing(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1000] * 4)
    cache = view.cache(tmp_path, 1 << 20)
    cache.plan([0, 1, 2, 3])
    cache.acquire(0)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("shard download")]
    assert threads
    until(lambda: set(shards(view, 0, 1, 2, 3)) <= set(names(tmp_path)))
    del cache
    gc.collect()
    for thread in threads:
        thread.join(5.0)
        assert not thread.is_alive()
    assert names(tmp_path) == shards(view, 0, 1, 2, 3)


def test_an_exit_without_close_leaves_nothing(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([1 << 20] * 4)
    proxy.gate.clear()
    files = [file.model_dump() for file in view.files]
    script = f"""
import time
from pathlib import Path
from loader.cache import ShardCache
from schemas.manifest import File
cache = ShardCache({view.url!r}, [File(**f) for f in {files!r}], {str(tmp_path)!r}, 1 << 23, concurrent=1)
cache.plan([0, 1, 2, 3])
while len(list(Path({str(tmp_path)!r}).glob("*.part"))) < 4:
    time.sleep(0.01)
"""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=30, env=dict(os.environ))
    assert time.monotonic() - start < 15
    assert names(tmp_path) == []


def test_misuse_is_an_error(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    with publish([1000]).cache(tmp_path, 1 << 20) as cache:
        for wrong in (-1, 1):
            with pytest.raises(ValueError, match="there is no shard"):
                cache.acquire(wrong)
        with pytest.raises(ValueError, match="not held"):
            cache.release(0)


def test_a_disk_that_refuses_is_one_sentence(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    view = publish([3 << 20])
    # No disk of a few megabytes can be had without being root; the limit of a file's size fails in the same call.
    import signal  # noqa: PLC0415

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with view.cache(tmp_path, 8 << 20) as cache:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
            with pytest.raises(TokenmillError, match="the cache cannot be used"):
                cache.acquire(0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        assert names(tmp_path) == []
        assert read(cache, 0) == view.content[0]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(TokenmillError, match=r"^FILE: the disk is full before the cache's budget is"),
        explained("FILE"),
    ):
        raise full


def test_reading_a_small_object(proxy: Proxy, publish: Publish) -> None:
    view = publish([5000])
    proxy.faults = ["503", "reset", "flip", "short", "429", "stall"]
    assert read_object(f"{view.url}/{view.files[0].path}", FAST) == view.content[0]
    assert proxy.requests[view.files[0].path] == 7
    with pytest.raises(TokenmillError, match=rf"{view.url}/absent: there is no such object"):
        read_object(f"{view.url}/absent", FAST)
