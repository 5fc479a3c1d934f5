"""The order laws on manifests and records a real run has written, not on arithmetic alone."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.manifest import ShardManifest, load
from schemas.order import Order

EPOCHS = range(4)
VIEWS = (64, 256)


@cache
def view(run: Path, length: int) -> tuple[ShardManifest, Order]:
    manifest = load(ShardManifest, run / "shards" / str(length) / "manifest.json")
    train, order = manifest.splits.train, manifest.order
    names = tuple(component.name for component in order.components)
    weights = tuple(component.weight for component in order.components)
    available = tuple(manifest.components[name].available for name in names)
    return manifest, Order(order.seed, train.lanes, train.groups, train.rows, weights, available, names)


@cache
def written(run: Path, length: int) -> np.ndarray:
    """[shards, rows]: which component each written record is of, by its provenance."""
    manifest, order = view(run, length)
    found = np.full((order.groups * order.lanes, order.rows), -1)
    for shard, file in enumerate(manifest.splits.train.files):
        name = f"provenance-{file.path.removesuffix('.tfrecord')}.parquet"
        table = pq.read_table(run / "shards" / str(length) / name)
        for row, document in zip(table["row"].to_pylist(), table["document"].to_pylist(), strict=True):
            component = order.names.index(document.split("/")[0])
            assert found[shard, row] in (-1, component), "a record of two components"
            found[shard, row] = component
    assert (found >= 0).all()
    return found


@pytest.mark.parametrize("length", VIEWS)
def test_every_prefix_of_the_written_records_holds_the_mixture(small_run: Path, length: int) -> None:
    _, order = view(small_run, length)
    components = written(small_run, length)
    for epoch in EPOCHS:
        n = np.arange(order.records) + epoch * order.records
        read = components[order.locate(n)]
        for c, weight in enumerate(order.weights):
            share = Fraction(weight, order.tile)
            prefix = np.arange(1, order.records + 1)
            error = np.abs(np.cumsum(read == c) * share.denominator - prefix * share.numerator)
            assert error.max() < share.denominator, (epoch, order.names[c])


@pytest.mark.parametrize("length", VIEWS)
def test_every_epoch_reads_every_record_once_among_other_neighbours(small_run: Path, length: int) -> None:
    _, order = view(small_run, length)
    orders = []
    for epoch in EPOCHS:
        shard, row = order.locate(np.arange(order.records) + epoch * order.records)
        slots = shard * order.rows + row
        assert np.array_equal(np.sort(slots), np.arange(order.records))
        orders.append(slots)
    for a in EPOCHS:
        for b in range(a):
            following = [
                dict(zip(order_[:-1].tolist(), order_[1:].tolist(), strict=True)) for order_ in (orders[a], orders[b])
            ]
            same = sum(following[1].get(slot) == after for slot, after in following[0].items())
            assert same < order.records / 2, f"epochs {a} and {b} share most neighbours"


@pytest.mark.parametrize("length", VIEWS)
def test_hosts_are_interchangeable(small_run: Path, length: int) -> None:
    manifest, order = view(small_run, length)
    batch, batches = 8, order.records * 2 // 8
    whole = [set(step.tolist()) for step in order.host_positions(0, batches, batch, 0, 1)[0]]
    counts = [hosts for hosts in (2, 4, 8) if manifest.splits.train.lanes % hosts == 0]
    assert counts
    for hosts in counts:
        parts = [order.host_positions(0, batches, batch, host, hosts)[0] for host in range(hosts)]
        for step in range(batches):
            together = np.concatenate([part[step] for part in parts]).tolist()
            assert len(together) == batch
            assert set(together) == whole[step]


@pytest.mark.parametrize("length", VIEWS)
def test_record_and_sequence_are_inverse(small_run: Path, length: int) -> None:
    _, order = view(small_run, length)
    n = np.arange(order.records)
    component, sequence, repeat = order.sequence_at(n)
    for c in range(len(order.names)):
        mine = component == c
        assert np.array_equal(order.positions_of(c, sequence[mine], repeat[mine]), n[mine])
