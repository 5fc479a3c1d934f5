"""How many lanes, groups and rows the train split has, given the sequences at hand.

Words: D = sum(weights) records hold every component in its exact share, a *tile*. P = D/gcd(D, V) rows of V
lanes are the least number of whole rows that hold whole tiles. A *unit* is P rows of V lanes, V/gcd(D, V)
tiles. Groups are whole units, so the pattern starts afresh in each and no residue drifts from group to group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.errors import TokenmillError

MIN_GROUPS = 8
"""Groups wanted where the data allow: with fewer, later epochs have little to recombine."""
MAX_SMALL_GROUPS = 31
"""Most groups tried when shards of the wanted size would give fewer than MIN_GROUPS."""


@dataclass(frozen=True)
class Sizes:
    """The shape of a train split and what it takes of each component (tuples run over components, in their
    order).

    lanes V, groups G, rows R; records N = V·G·R; period P (rows after which the pattern meets the lanes
    alike). weights: the integers the order obeys; the requested ones, except when there are fewer than
    sum(weights) records. counts: records of each component. used: distinct sequences among them. repeats:
    times the most used sequence occurs (0: none used). unused: sequences that occur in no record.
    """

    lanes: int
    groups: int
    rows: int
    weights: tuple[int, ...]
    period: int
    counts: tuple[int, ...]
    used: tuple[int, ...]
    repeats: tuple[int, ...]
    unused: tuple[int, ...]

    @property
    def records(self) -> int:
        """N, the records of one epoch."""
        return self.lanes * self.groups * self.rows


def plan_sizes(
    available: Sequence[int],
    weights: tuple[int, ...],
    max_repeats: Sequence[int],
    *,
    lanes: int,
    record_bytes: int,
    shard_bytes: int,
    names: Sequence[str],
) -> Sizes:
    """Choose lanes, groups and rows: as many records as the scarcest component allows, in shards of the
    wanted size.

    available: sequences of each component. weights: from `integer_weights`. max_repeats: how often a sequence
    of each component may occur in an epoch. lanes: V as configured. record_bytes: one framed record;
    shard_bytes: wanted shard.

    1. K = min over components of available·max_repeats // weight whole tiles can be filled.
    2. V is the largest divisor of `lanes` whose whole units take all but an eighth of the K tiles (1 always
       does).
    3. M = K // (tiles of a unit) units are cut into G groups of r units, R = r·P rows. Tried are all r with R
       within 25 % of shard_bytes/record_bytes (if there is none, the nearest) that leave at least 8 groups;
       failing that, the data being few, G = 8…31 groups of M // G units (G = M, if M < 8). Of these the best
       is, in this order: least waste, up to 1 % counting as none; R a multiple of lcm(P, V), which lets later
       epochs shift rows; least waste to the unit; R nearest to the wanted.
    4. K = 0, not one tile: one group, for as many records as the scarcest component allows, shared out by
       largest remainder with at least one record a component. These counts, reduced, are the weights. V as in
       step 2, where units are records.

    Integer arithmetic alone. Raises TokenmillError when a component with a positive weight has nothing
    available, ValueError for sizes or repeats below 1.
    """
    if min(lanes, record_bytes, shard_bytes, *max_repeats) < 1:
        raise ValueError(f"must be positive: {lanes=} {record_bytes=} {shard_bytes=} {max_repeats=}")
    for have, weight, name in zip(available, weights, names, strict=True):
        if weight and not have:
            raise TokenmillError(
                f"component {name!r} has the weight {weight}/{sum(weights)} but no sequence to train on; "
                "check its sources and what was rejected or dropped, or give it the weight 0"
            )
    capacity = [have * repeats for have, repeats in zip(available, max_repeats, strict=True)]
    tile = sum(weights)
    tiles = min(most // weight for most, weight in zip(capacity, weights, strict=True) if weight)
    groups = 1
    if tiles:
        width = next(v for v in _divisors(lanes) if 8 * (tiles % (v // math.gcd(tile, v))) <= tiles)
        period = tile // math.gcd(tile, width)
        units = tiles // (width // math.gcd(tile, width))
        units_in_group, groups = _cut(units, shard_bytes, record_bytes * period, width // math.gcd(period, width))
        rows = units_in_group * period
        counts = tuple(weight * (width * groups * rows // tile) for weight in weights)
    else:
        wanted = max(
            min(most * tile // weight for most, weight in zip(capacity, weights, strict=True) if weight),
            sum(weight > 0 for weight in weights),
        )
        width = next(
            v
            for v in _divisors(lanes)
            if 8 * (wanted % v) <= wanted and wanted - wanted % v >= sum(weight > 0 for weight in weights)
        )
        rows = wanted // width
        counts = _largest_remainder(weights, width * rows)
        common = math.gcd(*counts)
        weights = tuple(count // common for count in counts)
        period = sum(weights) // math.gcd(sum(weights), width)
    used = tuple(min(count, have) for count, have in zip(counts, available, strict=True))
    return Sizes(
        lanes=width,
        groups=groups,
        rows=rows,
        weights=weights,
        period=period,
        counts=counts,
        used=used,
        repeats=tuple(-(-count // have) if have else 0 for count, have in zip(counts, available, strict=True)),
        unused=tuple(have - taken for have, taken in zip(available, used, strict=True)),
    )


def _divisors(n: int) -> list[int]:
    """All divisors of n, the largest first."""
    return [d for d in range(n, 0, -1) if n % d == 0]


def _cut(units: int, shard_bytes: int, unit_bytes: int, shift_units: int) -> tuple[int, int]:
    """(units in a group, groups) for `units` to cut, as step 3 of `plan_sizes` says.

    unit_bytes: bytes of one lane's share of a unit. shift_units: a multiple of this many units lets rows be
    shifted.
    """
    low = -(-3 * shard_bytes // (4 * unit_bytes))
    high = 5 * shard_bytes // (4 * unit_bytes)
    if low > high or high == 0:
        low = high = max(1, (2 * shard_bytes + unit_bytes) // (2 * unit_bytes))
    low, high = max(low, 1), min(high, units // MIN_GROUPS)
    if low <= high:
        length = np.arange(low, high + 1, dtype=np.int64)
        groups = units // length
    else:
        groups = np.arange(min(MIN_GROUPS, units), min(MAX_SMALL_GROUPS, units) + 1, dtype=np.int64)
        length = units // groups
    waste = units - groups * length
    counted_waste = np.where(100 * waste <= units, 0, waste)
    distance = np.abs(length * unit_bytes - shard_bytes)
    best = np.lexsort((length, distance, waste, length % shift_units != 0, counted_waste))[0]
    return int(length[best]), int(groups[best])


def _largest_remainder(weights: tuple[int, ...], records: int) -> tuple[int, ...]:
    """`records` shared out by `weights`: whole shares, the rest by largest remainder (earlier wins a tie).

    A positive weight left without a record then takes one from the component furthest above its share.
    """
    tile = sum(weights)
    counts = [records * weight // tile for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda c: -(records * weights[c] % tile))
    for c in by_remainder[: records - sum(counts)]:
        counts[c] += 1
    for c, weight in enumerate(weights):
        if weight and not counts[c]:
            giver = max(
                (d for d in range(len(weights)) if counts[d] > 1),
                key=lambda d: counts[d] * tile - records * weights[d],
            )
            counts[giver] -= 1
            counts[c] += 1
    return tuple(counts)
