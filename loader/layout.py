"""What a view's manifest says: the order it was written by, and what each of its shards holds."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import TokenmillError
from schemas.manifest import ShardFile, ShardManifest
from schemas.mixture import MAX_DENOMINATOR
from schemas.order import ORDER_VERSION, PERMUTATION, Order

MAX_LENGTH = 1 << 24  # of a sequence, as configs have it


@dataclass(frozen=True)
class Shard:
    """One shard and its provenance. component: its index for validation, -1 for train; first: of its sequences."""

    file: ShardFile
    provenance: str
    component: int
    first: int


def order_of(view: ShardManifest) -> Order:
    """The order a view was written by.

    Raises:
        TokenmillError: another version wrote it, or its numbers make no order.
    """
    if not 1 <= view.sequence_length <= MAX_LENGTH:
        raise TokenmillError(f"its sequence length {view.sequence_length} is not from 1 to {MAX_LENGTH}")
    if (view.order.version, view.order.permutation) != (ORDER_VERSION, PERMUTATION):
        raise TokenmillError(
            f"its order is {view.order.permutation} version {view.order.version}, which is not known here"
        )
    train, parts = view.splits.train, view.order.components
    weights = [part.weight for part in parts]
    if not weights or min(weights) < 0 or not 0 < sum(weights) <= MAX_DENOMINATOR:
        raise TokenmillError(f"its weights {weights} make no order")
    try:
        return Order(
            view.order.seed,
            train.lanes,
            train.groups,
            train.rows,
            tuple(weights),
            tuple(view.components[part.name].available for part in parts),
            tuple(part.name for part in parts),
        )
    except (ValueError, KeyError) as error:
        raise TokenmillError(f"its numbers make no order: {error}") from None


def shards_of(view: ShardManifest) -> list[Shard]:
    """All shards in the order of their provenance files: train, then validation by component.

    Raises:
        TokenmillError: file names, or records of single files, are not what the splits say.
    """
    train, names = view.splits.train, [part.name for part in view.order.components]
    count = train.groups * train.lanes
    shards = [(f"train-{k:05d}-of-{count:05d}.tfrecord", train.rows, file, -1, 0) for k, file in enumerate(train.files)]
    if len(shards) != count:
        raise TokenmillError(f"names {len(shards)} train shards, not the {count} of its groups and lanes")
    for name, split in view.splits.validation.items():
        first = 0
        for k, file in enumerate(split.files):
            stem = f"validation-{name}-{k:05d}-of-{len(split.files):05d}"
            shards.append((f"{stem}.tfrecord", file.records, file, names.index(name) if name in names else -2, first))
            first += file.records
        if first != split.records:
            raise TokenmillError(f"validation files of {name} hold {first} records together, not {split.records}")
    expected = [f"provenance-{name.removesuffix('.tfrecord')}.parquet" for name, *_ in shards]
    if [file.path for file in view.provenance] != expected:
        raise TokenmillError("its provenance files are not one a shard, in the order of the shards")
    for name, records, file, component, _ in shards:
        if (file.path, file.records) != (name, records) or component == -2:
            raise TokenmillError(f"names {file.path} with {file.records} records where {name} with {records} belongs")
    return [
        Shard(file, provenance, component, first)
        for (_, _, file, component, first), provenance in zip(shards, expected, strict=True)
    ]
