"""The order at 3.6 billion records (15 trillion tokens): are its laws kept there, and how fast is it?

    python benchmarks/order_at_scale.py

Plans the sizes for that many sequences of 4096, then checks a million sampled positions of epochs 0…3 (up to
1.4e10, beyond 2**32) against the laws that docs/order.md states, and prints what each step took.
Exits with 1 when a law is broken.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a checkout need not be installed

from schemas.order import Order, Sizes, integer_weights, plan_sizes
from schemas.record import record_size

RECORDS = 3_600_000_000
LANES = 48
SAMPLE = 1_000_000
SHARD_BYTES = 1 << 27
NAMES = ("code", "web", "papers")
AVAILABLE = (RECORDS * 87 // 100 + 12345, RECORDS // 10 + 678, RECORDS * 3 // 400 + 9)
MAX_REPEATS = (1, 1, 4)

IntArray = npt.NDArray[np.int64]


class Table:
    """The lines to print: what was done since the last line, how long it took, and its rate."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._since = time.perf_counter()

    def add(self, text: str, operations: int = 0) -> None:
        """Close a line."""
        seconds = time.perf_counter() - self._since
        rate = f"{operations / seconds / 1e6:6.2f} M/s" if operations else ""
        self.lines.append(f"{seconds * 1e3:9.2f} ms  {rate:10}  {text}")
        self._since = time.perf_counter()


def law(kept: bool | np.bool_, text: str) -> None:
    """Raise AssertionError unless the law is kept."""
    if not kept:
        raise AssertionError(f"broken at scale: {text}")


def measure() -> list[str]:
    """Check everything; returns the lines to print. Raises AssertionError naming the law that is broken."""
    table = Table()
    sizes = check_sizes(table)
    order = Order(17, sizes.lanes, sizes.groups, sizes.rows, sizes.weights, AVAILABLE, NAMES)
    law(sum(order.counts) == order.records == sizes.records, "component counts sum to N")
    n = np.random.default_rng(1).integers(0, 4 * order.records, SAMPLE)
    ends = np.arange(5) * order.records
    n = np.sort(np.concatenate((n, ends[:-1], ends[1:] - 1)))
    table.add(f"order built, {n.size} positions drawn from 0…{4 * order.records - 1}")
    check_contents(order, n, table)
    check_prefixes(order, n, table)
    check_reading(order, table)
    return table.lines


def check_sizes(table: Table) -> Sizes:
    """Plan, and compare with what was wanted."""
    record_bytes = record_size(4096, "<u2")
    sizes = plan_sizes(
        AVAILABLE,
        integer_weights(["0.87", "0.10", "0.03"]),
        MAX_REPEATS,
        lanes=LANES,
        record_bytes=record_bytes,
        shard_bytes=SHARD_BYTES,
        names=NAMES,
    )
    table.add(f"plan: V={sizes.lanes} G={sizes.groups} R={sizes.rows} P={sizes.period} N={sizes.records}")
    law(sizes.records > 0.99 * RECORDS, "at least 99 % of the sequences are used")
    law(sizes.rows % sizes.period == 0, "rows are whole periods")
    law(0.75 <= sizes.rows * record_bytes / SHARD_BYTES <= 1.25, "shards are near their wanted size")
    return sizes


def check_contents(order: Order, n: IntArray, table: Table) -> None:
    """Positions to slots to sequences, and back."""
    shard, row = order.locate(n)
    table.add("locate: position to (shard, row)", n.size)
    for epoch in range(4):
        mine = n // order.records == epoch
        back = order.position_of(shard[mine], row[mine], epoch)
        law(np.array_equal(back, n[mine]), f"position_of inverts locate in epoch {epoch}")
    table.add("position_of: back again", n.size)
    law(shard.min() >= 0 and shard.max() < order.lanes * order.groups, "shards exist")
    law(row.min() >= 0 and row.max() < order.rows, "rows exist")

    first = order.position_of(shard, row)
    table.add("position_of: where epoch 0 read the same records", n.size)
    component, sequence, repeat = order.sequence_of_slot(shard, row)
    table.add("sequence_of_slot: (shard, row) to (component, sequence, repeat)", n.size)
    law(np.array_equal(component, order.component_at(n)), "every epoch keeps the pattern")
    for c, have in enumerate(AVAILABLE):
        mine = component == c
        law(sequence[mine].min() >= 0 and sequence[mine].max() < have, "sequences exist")
        law(repeat[mine].min() >= 0 and repeat[mine].max() < MAX_REPEATS[c], "repeats are allowed")
        back = order.positions_of(c, sequence[mine], repeat[mine])
        law(np.array_equal(back, first[mine]), "positions_of inverts sequence_at")
        contents = _distinct(repeat[mine] * have + sequence[mine])
        law(contents == _distinct(first[mine]), "different records hold different contents")
    table.add("positions_of: sequence to record", n.size)


def check_prefixes(order: Order, n: IntArray, table: Table) -> None:
    """The mixture law at prefixes of n records."""
    weights = np.array(order.weights)
    in_tile = order.component_at(np.arange(order.tile))[:, None] == np.arange(len(NAMES))  # [D, k]
    before = np.concatenate((np.zeros((1, len(NAMES)), dtype=np.int64), np.cumsum(in_tile, axis=0)))
    law(tuple(before[-1]) == order.weights, "a tile holds the weights exactly")
    counts = n[:, None] // order.tile * weights + before[n % order.tile]  # [n, k]
    error = np.abs(order.tile * counts - n[:, None] * weights).max() / order.tile
    law(error <= 0.75, "three components stay within 1 - 1/4 of their share in every prefix")
    table.add(f"prefix counts: largest error {error:.2f} records", n.size)


def check_reading(order: Order, table: Table) -> None:
    """File lists of lanes, and batches by several numbers of hosts."""
    for epoch, lane in ((0, 0), (1, 0), (1, LANES - 1), (3, 7)):
        shards, starts = order.lane_slots(epoch, lane)
        every = np.arange(order.groups) * order.lanes + lane
        law(np.array_equal(np.sort(shards), every), "a lane reads each of its files once an epoch")
        law(not (starts % order.period).any(), "rows start at whole periods")
    table.add("lane_slots: the file lists of 4 lanes", 4 * order.groups)

    start, batch = 2 * order.records - 48 * 1000, 960
    everything = order.host_positions(start, 100, batch, 0, 1)[0]
    for hosts in (2, 16, 48):
        parts = [order.host_positions(start, 100, batch, h, hosts)[0] for h in range(hosts)]
        together = np.sort(np.concatenate(parts, axis=1), axis=1)
        law(np.array_equal(together, everything), f"{hosts} hosts read the same batches as one")
    table.add("host_positions: 100 batches of 960 over an epoch's end, by 1, 2, 16, 48 hosts", 4 * 100 * batch)


def _distinct(values: IntArray) -> int:
    return 1 + int(np.count_nonzero(np.diff(np.sort(values))))


def main() -> int:
    """Print the table; 0 when every law holds, else 1."""
    try:
        print("\n".join(measure()))
    except AssertionError as broken:
        print(broken)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
