"""The training order: which record is read n-th, and what it holds, as a pure function of a few numbers.

The train split has G groups x V lanes x R rows of records; shard k = g·V + v is lane v of group g, its rows
0…R-1; N = G·V·R records make an epoch. Weights are integers a_c with the sum D; a group is a whole number of
D records.

- **Mixture.** Position n, in any epoch, belongs to component pattern[n mod D] (`schemas.mixture`).
- **Placing.** Position q of a group, with j = q div V and u = q mod V, is read from lane (u + j) mod V, as
  its j-th row. Without this diagonal a weight of 1/8 over 16 lanes would fill two lanes, and so one host,
  with one component.
- **Content.** The i-th occurrence of component c in epoch 0 is its sequence sigma_c,r(i mod S_c), S_c being
  available and r = i div S_c the repeat: a keyed permutation per component and repeat.
- **Epochs.** In epoch 0 lane v reads group g' at group step g', from row 0. In epoch e >= 1 it reads group
  pi_e,v(g'), a keyed permutation per epoch and lane, from a keyed row that is a multiple of T = lcm(P, V),
  wrapping round. The component of row j of a lane depends on (j·V + (v - j) mod V) mod D: it repeats after T
  rows and is the same in every group. So records meet other neighbours and the pattern is untouched. If R is
  not a multiple of T, rows start at 0.
- **Hosts.** Host h of H reads the lanes v = h mod H. H divides V, so each aligned run of H positions holds
  one of each host.

docs/order.md works an example through by hand. Positions are int64; nothing here is larger than a few
counters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused
from schemas.mixture import integer_weights, pattern
from schemas.permutation import PERMUTATION, IntArray, Permutation, key64, mix64
from schemas.sizes import Sizes, plan_sizes

__all__ = [
    "ORDER_VERSION",
    "PERMUTATION",
    "Order",
    "Permutation",
    "Sizes",
    "integer_weights",
    "pattern",
    "plan_sizes",
    "validation_positions",
]

ORDER_VERSION = 1
"""Version of the rules above; manifests record it. Any change of a result needs a new one."""


def validation_positions(records: int, host: int, hosts: int) -> IntArray:
    """The validation records host `host` of `hosts` reads: every hosts-th from `host` on. int64,
    ascending."""
    return np.arange(host, records, hosts, dtype=np.int64)


@dataclass(frozen=True)
class Order:
    """The order of one train split.

    seed: any integer. lanes V, groups G, rows R, weights a_c: as `plan_sizes` chose them; available: S_c, the
    sequences each component has; names: the components' names, which key their permutations.

    Methods take integers or arrays of any shape and return int64 arrays of the same shape unless they say
    otherwise. Components and sequences are counted from 0; -1 stands for "none". Raises ValueError when the
    parts do not fit each other: groups that are no whole number of sum(weights) records.
    """

    seed: int
    lanes: int
    groups: int
    rows: int
    weights: tuple[int, ...]
    available: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.available) == len(self.names) == len(set(self.names)):
            raise ValueError("an order needs one weight, one count of sequences and one distinct name per component")
        if min(self.lanes, self.groups, self.rows) < 1 or self.lanes * self.rows % self.tile:
            raise ValueError(
                f"a group of {self.rows} rows and {self.lanes} lanes does not hold whole tiles of {self.tile}"
            )
        if any(weight and not have for weight, have in zip(self.weights, self.available, strict=True)):
            raise ValueError("a component with a positive weight has no sequences")

    @property
    def tile(self) -> int:
        """D = sum(weights): the records after which the pattern of components repeats."""
        return sum(self.weights)

    @property
    def period(self) -> int:
        """P = D / gcd(D, V): the rows after which the pattern meets the lanes alike."""
        return self.tile // math.gcd(self.tile, self.lanes)

    @property
    def group_records(self) -> int:
        """V·R, the records of a group."""
        return self.lanes * self.rows

    @property
    def records(self) -> int:
        """N = G·V·R, the records of an epoch."""
        return self.groups * self.group_records

    @property
    def counts(self) -> tuple[int, ...]:
        """Records of each component in an epoch."""
        return tuple(weight * (self.records // self.tile) for weight in self.weights)

    # Which record is read n-th

    def component_at(self, n: npt.ArrayLike) -> npt.NDArray[np.int16]:
        """The component of position n >= 0, in any epoch. int16."""
        return self._pattern[np.asarray(n, dtype=np.int64) % self.tile]

    def lane_at(self, n: npt.ArrayLike) -> IntArray:
        """The lane position n >= 0 is read from, in any epoch."""
        row, turn = np.divmod(np.asarray(n, dtype=np.int64) % self.group_records, self.lanes)
        return (row + turn) % self.lanes

    def locate(self, n: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """(shard, row) of the record read at position n >= 0, in any epoch (epoch e = n div N)."""
        n = np.asarray(n, dtype=np.int64)
        epoch, position = np.divmod(n, self.records)
        step = position // self.group_records
        row = position % self.group_records // self.lanes
        lane = self.lane_at(n)
        group, first = self._group_and_first_row(epoch, lane, step)
        return group * self.lanes + lane, (row + first) % self.rows

    def position_of(self, shard: npt.ArrayLike, row: npt.ArrayLike, epoch: int = 0) -> IntArray:
        """The position at which `epoch` reads a row of a shard: the inverse of `locate`. shard and row
        broadcast."""
        group, lane = np.divmod(np.asarray(shard, dtype=np.int64), self.lanes)
        step = group if epoch == 0 else self._group_permutation.inverse(group, epoch * self.lanes + lane)
        _, first = self._group_and_first_row(np.full_like(lane, epoch), lane, step)
        read_as = (np.asarray(row, dtype=np.int64) - first) % self.rows
        turn = (lane - read_as) % self.lanes
        return epoch * self.records + step * self.group_records + read_as * self.lanes + turn

    # What a record holds

    def sequence_at(self, n: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
        """(component, index of its sequence, repeat) of the record read at position n >= 0, in any epoch."""
        n = np.asarray(n, dtype=np.int64)
        return self.sequence_of_slot(*self.locate(n)) if n.size and n.max() >= self.records else self._content(n)

    def sequence_of_slot(self, shard: npt.ArrayLike, row: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
        """(component, index of its sequence, repeat) of what a row of a shard holds."""
        return self._content(self.position_of(shard, row))

    def positions_of(self, component: int, sequence: npt.ArrayLike, repeat: npt.ArrayLike = 0) -> IntArray:
        """The epoch-0 position of a component's sequences at a repeat, or -1 where it is unused.

        sequence: integers in [0, S_c); repeat >= 0 broadcasts against it. `locate` turns a position into a
        slot.
        """
        if not self.weights[component]:
            return np.full(np.broadcast_shapes(np.shape(sequence), np.shape(repeat)), -1, dtype=np.int64)
        within = self._sequence_permutations[component].inverse(sequence, repeat)
        occurrence = np.asarray(repeat, dtype=np.int64) * self.available[component] + within
        tile, offset = np.divmod(occurrence, self.weights[component])
        position = tile * self.tile + self._places[component][offset]
        return np.where(occurrence < self.counts[component], position, -1)

    # What a host reads

    def host_positions(
        self, start: int, batches: int, global_batch: int, host: int, hosts: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """What one host reads of the global batches from position `start` on.

        Global batch i is the positions start + [i·B, (i+1)·B) with B = global_batch, whatever the number of
        hosts; host h reads those of them that lie in lanes v = h mod hosts. Returns (n, shard, row), each
        int64 [batches, B / hosts], n ascending. O(batches·B / hosts). Raises Refused when `hosts` does not
        divide lanes, B and start (or host is not one of them).
        """
        common = math.gcd(self.lanes, global_batch)
        if hosts < 1 or common % hosts:
            possible = ", ".join(str(h) for h in range(1, common + 1) if common % h == 0)
            raise Refused(
                f"{hosts} hosts cannot share {self.lanes} lanes and a global batch of {global_batch} evenly; "
                f"possible numbers of hosts: {possible}"
            )
        if not 0 <= host < hosts:
            raise Refused(f"there is no host {host} of {hosts}; hosts are counted from 0 to {hosts - 1}")
        if start < 0 or start % hosts:
            raise Refused(
                f"{hosts} hosts cannot start at position {start}, which is no multiple of {hosts}; "
                f"the nearest before it is {max(start, 0) // hosts * hosts}"
            )
        # Runs of `hosts` positions, aligned, hold one position of each host: the one whose lane is right.
        runs = start + hosts * np.arange(batches * global_batch // hosts, dtype=np.int64)
        n = runs + (host - self.lane_at(runs)) % hosts
        n = n.reshape(batches, global_batch // hosts)
        return (n, *self.locate(n))

    def lane_slots(self, epoch: int, lane: int) -> tuple[IntArray, IntArray]:
        """(shard, first row), each int64 [G]: the files a lane reads in an epoch, in order, and where it
        starts in each.

        A file is read from its first row to row R-1 and then from row 0 to the row before the first.
        """
        step = np.arange(self.groups, dtype=np.int64)
        lanes = np.full_like(step, lane)
        group, first = self._group_and_first_row(np.full_like(step, epoch), lanes, step)
        return group * self.lanes + lane, first

    def lane_records_before(self, n: int) -> IntArray:
        """How many records each lane has given before position n, over all epochs. int64 [V]; O(V).

        Lane v goes on with row k mod R of its file (k div R) mod G in epoch k div (G·R), k being this number.
        """
        rows, turn = divmod(n, self.lanes)
        row = rows % self.rows  # of its group: the diagonal starts anew there
        return rows + ((np.arange(self.lanes, dtype=np.int64) - row) % self.lanes < turn)

    # Keys and tables

    @cached_property
    def _pattern(self) -> npt.NDArray[np.int16]:
        return pattern(self.weights)

    @cached_property
    def _places(self) -> list[IntArray]:
        """For each component the positions of its occurrences in the pattern: int64 [a_c]."""
        return [np.flatnonzero(self._pattern == c).astype(np.int64) for c in range(len(self.weights))]

    @cached_property
    def _rank(self) -> IntArray:
        """For each position of the pattern the number of earlier ones of its component: int64 [D]."""
        rank = np.empty(self.tile, dtype=np.int64)
        for places in self._places:
            rank[places] = np.arange(places.size)
        return rank

    @cached_property
    def _sequence_permutations(self) -> list[Permutation]:
        return [
            Permutation(max(have, 1), f"tokenmill order {ORDER_VERSION} seed {self.seed} sequences {name}")
            for have, name in zip(self.available, self.names, strict=True)
        ]

    @cached_property
    def _group_permutation(self) -> Permutation:
        return Permutation(self.groups, f"tokenmill order {ORDER_VERSION} seed {self.seed} groups")

    @cached_property
    def _row_key(self) -> np.uint64:
        return np.uint64(key64(f"tokenmill order {ORDER_VERSION} seed {self.seed} rows"))

    def _group_and_first_row(self, epoch: IntArray, lane: IntArray, step: IntArray) -> tuple[IntArray, IntArray]:
        """The group a lane reads at a group step of an epoch, and the row it starts at. All of one shape."""
        group, first = np.array(step), np.zeros(np.shape(step), dtype=np.int64)
        later = epoch > 0
        if later.any():
            tweak = epoch[later] * self.lanes + lane[later]
            group[later] = self._group_permutation.forward(step[later], tweak)
            shift = math.lcm(self.period, self.lanes)
            starts = self.rows // shift if self.rows % shift == 0 else 1
            hashed = mix64(mix64(tweak.astype(np.uint64) ^ self._row_key) ^ step[later].astype(np.uint64))
            first[later] = (hashed % np.uint64(starts)).astype(np.int64) * shift if starts > 1 else 0
        return group, first

    def _content(self, n: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """(component, sequence, repeat) of epoch-0 positions."""
        tile, offset = np.divmod(n, self.tile)
        component = self._pattern[offset].astype(np.int64)
        sequence, repeat = np.zeros_like(component), np.zeros_like(component)
        for c, permutation in enumerate(self._sequence_permutations):
            mine = component == c
            occurrence = tile[mine] * self.weights[c] + self._rank[offset[mine]]
            repeat[mine] = occurrence // max(self.available[c], 1)
            sequence[mine] = permutation.forward(occurrence % max(self.available[c], 1), repeat[mine])
        return component, sequence, repeat
