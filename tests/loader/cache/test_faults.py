"""The network fails in every way a proxy can make it: right bytes, or an error that names the object."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from loader.cache import Retry
from schemas.errors import TokenmillError
from tests.loader.cache.conftest import FAST, Publish
from tests.loader.cache.proxy import BODIES, STATUSES, Proxy
from tests.loader.cache.test_cache import names, read, shards


@pytest.mark.parametrize("fault", STATUSES + BODIES)
def test_each_fault_is_survived(fault: str, proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([50_000])
    proxy.faults = [fault, fault]
    with view.cache(tmp_path, 1 << 20) as cache:
        assert read(cache, 0) == view.content[0]
    assert not proxy.faults and proxy.requests[view.files[0].path] == 3
    # A broken connection is resumed where it broke; wrong bytes are downloaded anew.
    resumed = {"reset": 2, "stall": 2, "short": 2, "ends_early": 2}
    assert proxy.ranges == resumed.get(fault, 0)
    assert names(tmp_path) == shards(view, 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_bad_network_gives_the_right_bytes(seed: int, proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([20_000 + 1000 * n for n in range(12)])
    kinds = [*STATUSES, "reset", "short", "ends_early", "flip", "long"] * 4 + ["stall", "silent"]
    proxy.faults = random.Random(seed).sample(kinds, len(kinds))
    # At most two wrong downloads in a row of one object, or it would rightly be an error.
    proxy.faults = [
        "" if {"flip", "long"} & set(proxy.faults[max(n - 6, 0) : n]) and fault in ("flip", "long") else fault
        for n, fault in enumerate(proxy.faults)
    ]
    with view.cache(tmp_path, 150_000, concurrent=2) as cache:
        cache.plan(range(12))
        assert [read(cache, n) for n in range(12)] == view.content
    assert not proxy.faults


@pytest.mark.parametrize(
    ("fault", "found"),
    [("flip", "sha256 [0-9a-f]{64}"), ("long", "more than 9000 bytes"), ("ends_early", "8999 bytes")],
)
def test_an_altered_object_is_named(fault: str, found: str, proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([9000, 9000])
    proxy.persistent = {view.files[0].path: fault}
    planned = [0, 1] if fault == "flip" else []
    with view.cache(tmp_path, 1 << 20) as cache:
        cache.plan(planned)
        message = (
            rf"{re.escape(view.url)}/{view.files[0].path}: .*{view.files[0].sha256}, found {found} in the last of 3"
        )
        with pytest.raises(TokenmillError, match=message):
            cache.acquire(0)
        assert read(cache, 1) == view.content[1]
        proxy.persistent.clear()
        assert read(cache, 0) == view.content[0]
    assert names(tmp_path) == shards(view, 0, 1)


@pytest.mark.parametrize("fault", ["503", "silent"])
def test_a_server_that_stays_away_is_given_up(fault: str, proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([9000])
    proxy.persistent = {view.files[0].path: fault}
    retry = Retry(grace=1.0, slowest=1e9, first=0.01, longest=0.2, read=0.3)
    with (
        view.cache(tmp_path, 1 << 20, retry=retry) as cache,
        pytest.raises(TokenmillError, match=rf"{view.files[0].path}: given up after [01] s and \d+ tries"),
    ):
        cache.acquire(0)
    assert 2 <= proxy.requests[view.files[0].path] <= 20
    assert names(tmp_path) == []


def test_nobody_listens(proxy: Proxy, publish: Publish, tmp_path: Path) -> None:
    view = publish([9000])
    with view.cache(tmp_path, 1 << 20, retry=Retry(grace=0.5, first=0.05, read=FAST.read)) as cache:
        proxy.close()
        with pytest.raises(TokenmillError, match="given up"):
            cache.acquire(0)
