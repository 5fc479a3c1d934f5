"""The packed sequences of a view's units, and whether its manifest agrees with itself and with them."""

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
from schemas.manifest import ShardManifest
from schemas.order import Order


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
