"""A dataset read through a cache is the dataset read from the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loader.cache import ShardCache
from tests.emulator import BUCKET, upload
from tests.loader.cache.conftest import FAST
from tests.loader.cache.proxy import Proxy

pytest.importorskip("tensorflow")


def test_the_same_batches(emulator: int, proxy: Proxy, small_run: Path, tmp_path: Path) -> None:
    from loader.shards import Shards  # noqa: PLC0415

    shards = Shards(small_run / "shards/64")
    read = {f"dataset/{file.path}": (small_run / "shards/64" / file.path).read_bytes() for file in shards.files}
    upload(emulator, read)
    proxy.faults = ["503", "reset", "flip", "ends_early"]
    lanes, rows = shards.order.lanes, shards.order.rows
    budget = (lanes + 2) * max(file.bytes for file in shards.files)
    start, batches = shards.records - 2 * lanes * rows, 4 * rows  # the last two groups of epoch 0, two of epoch 1
    url = f"gs://{BUCKET}/dataset"
    with ShardCache(url, shards.files, str(tmp_path), budget, concurrent=lanes, retry=FAST) as cache:
        direct = shards.dataset(lanes, start=start).take(batches)
        cached = shards.dataset(lanes, start=start, cache=cache).take(batches)
        compared = 0
        for one, other in zip(direct, cached, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
            compared += 1
    assert compared == batches and not proxy.faults
