"""What a view's manifest says its files hold, and whether the manifest agrees with itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loader.locate import MANIFEST
from loader.verify.findings import Findings
from loader.verify.ids import IntArray, Units
from loader.verify.tables import whole_table
from schemas.arrow import PACKED_UNITS
from schemas.errors import TokenmillError
from schemas.manifest import File, ShardManifest
from schemas.mixture import MAX_DENOMINATOR
from schemas.order import ORDER_VERSION, PERMUTATION, Order

MAX_LENGTH = 1 << 24  # of a sequence, as configs have it


@dataclass(frozen=True)
class PackedUnits:
    """units.parquet. Arrays are int64 [units], in the numbering of `units`."""

    units: Units
    documents: IntArray
    sequences: dict[str, IntArray]
    tokens: dict[str, IntArray]

    def ends(self, split: str, component: int) -> IntArray:
        """One past the last sequence of each of a component's units, among the component's sequences of a split."""
        first, end = self.units.first[component : component + 2].tolist()
        return np.cumsum(self.sequences[split][first:end])

    def of(self, values: IntArray, component: int) -> int:
        """The sum of a column over a component's units."""
        first, end = self.units.first[component : component + 2].tolist()
        return int(values[first:end].sum())


@dataclass(frozen=True)
class Shard:
    """One shard and its provenance. component: its index for validation, -1 for train; first: of its sequences."""

    file: File
    provenance: str
    component: int
    first: int


def read_packed(path: Path, names: tuple[str, ...]) -> PackedUnits:
    """Read units.parquet; the components must come in the order's order, their units counted from 0.

    Raises:
        Unreadable: it is no such table.
        TokenmillError: its units are not those.
    """
    table = whole_table(path, PACKED_UNITS, PACKED_UNITS.names)
    components = table["component"].to_pylist()
    counts = tuple(components.count(name) for name in names)
    numbers = np.concatenate([np.arange(count) for count in counts]) if counts else np.empty(0, np.int64)
    expected = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    if components != expected or not np.array_equal(table["unit"].to_numpy(), numbers):
        raise TokenmillError(f"{path}: its units are not those of {', '.join(names)}, counted from 0")
    columns = {name: table[name].to_numpy() for name in PACKED_UNITS.names[2:]}
    return PackedUnits(
        Units(names, counts),
        columns["documents"],
        {split: columns[f"{split}_sequences"] for split in ("train", "validation")},
        {split: columns[f"{split}_tokens"] for split in ("train", "validation")},
    )


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


def check_numbers(findings: Findings, path: Path, view: ShardManifest, order: Order, packed: PackedUnits) -> None:
    """The manifest's derived numbers: records, period, shares, and what the components have and use."""
    expect = findings.expect
    manifest = path / MANIFEST
    expect(manifest, "records of the train split", view.splits.train.records, order.records)
    expect(manifest, "period of the order", view.order.period, order.period)
    if not expect(manifest, "components", sorted(view.components), sorted(order.names)):
        return
    for c, part in enumerate(view.order.components):
        counts = view.components[part.name]
        available = packed.of(packed.sequences["train"], c)
        expect(manifest, f"realised share of {part.name}", part.realised, part.weight / order.tile)
        expect(manifest, f"sequences of {part.name} available, by units.parquet", counts.available, available)
        used = min(order.counts[c], order.available[c])
        expect(manifest, f"sequences of {part.name} used", counts.used, used)
        expect(manifest, f"sequences of {part.name} unused", counts.unused, order.available[c] - used)
        expect(manifest, f"repeats of {part.name}", counts.repeats, -(-order.counts[c] // max(order.available[c], 1)))
        held_out = view.splits.validation.get(part.name)
        records = packed.of(packed.sequences["validation"], c)
        expect(manifest, f"validation records of {part.name}", held_out.records if held_out else 0, records)
        expect(
            manifest, f"documents of {part.name}, by units.parquet", counts.documents, packed.of(packed.documents, c)
        )
        tokens = sum(packed.of(packed.tokens[split], c) for split in ("train", "validation"))
        expect(manifest, f"tokens of {part.name}, by units.parquet", counts.tokens, tokens)
